"""Mounts that exist and belong to their service, dependencies that can come true, time to stop."""

from collections.abc import Iterator

from tests.compose_rules.files import (
    ONE_SHOTS,
    REPOSITORY,
    Document,
    dependencies,
    image_of,
    mount_of,
    repository_of,
    seconds,
    services,
)
from tests.compose_rules.image_facts import IMAGES, Image

WRITERS = frozenset({"model-init"})
"""Who may write into the checkout: it downloads into ./models."""

REPLACED_BY_A_LATER_FILE = frozenset({"minio-data"})


def mount_faults(document: Document) -> Iterator[str]:
    """Folders that are not in the repository, volumes that nobody declares or that a service may
    not write.
    """
    declared, used = set(document["volumes"]), set()
    for name, service in services(document).items():
        image = IMAGES.get(repository_of(image_of(service["image"])), Image(frozenset(), 0))
        for volume in service.get("volumes", []):
            source, target = mount_of(volume)
            if not source.startswith("./"):
                used.add(source)
                user = int(service.get("user", str(image.user)).split(":")[0])
                if user and image.own_folders.get(target) != user:
                    yield f"{name}: {target} belongs to another user than {user}"
            elif not (REPOSITORY / source).exists():
                yield f"{name}: {source} is not in the repository"
            elif not volume.endswith(":ro") and name not in WRITERS:
                yield f"{name} may write into {source}"
    yield from (f"volume {volume} is not declared" for volume in used - declared)
    yield from (
        f"volume {volume} is not used" for volume in declared - used - REPLACED_BY_A_LATER_FILE
    )


def order_faults(document: Document) -> Iterator[str]:
    """Conditions that cannot come true, and dependencies on what a profile leaves out."""
    everything = services(document)
    for name, service in everything.items():
        for other, how in dependencies(service).items():
            if other not in everything:
                yield f"{name} waits for {other}, which does not exist"
                continue
            condition = how.get("condition")
            if condition == "service_healthy" and "healthcheck" not in everything[other]:
                yield f"{name} waits for the health of {other}, which has no check"
            if (condition == "service_completed_successfully") != (other in ONE_SHOTS):
                yield f"{name} waits for {other} to be {condition}"
            if not set(everything[other].get("profiles", [])) <= set(service.get("profiles", [])):
                yield f"{name} waits for {other}, which a profile leaves out"


def time_faults(document: Document) -> Iterator[str]:
    """What is stopped before it can be done."""
    everything = services(document)
    gateway = everything["api-server"]
    told = gateway["environment"]
    drain = float(told["DRAIN_SECONDS"]) + float(told.get("DRAIN_NOTICE_SECONDS", 0))
    gateway_grace, front_grace = (
        seconds(everything[name]["stop_grace_period"]) for name in ("api-server", "front")
    )
    if not drain < gateway_grace < front_grace:
        yield f"drain {drain}, then api-server {gateway_grace}, then front {front_grace}"
    for name, service in everything.items():
        check = service.get("healthcheck")
        if check and seconds(check["timeout"]) > seconds(check["interval"]):
            yield f"{name}: a check lasts longer than the time to the next"
