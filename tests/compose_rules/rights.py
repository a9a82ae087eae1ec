"""Who reaches whom, what each service may do, and how much of the host it may take."""

import re
from collections.abc import Iterator

from tests.compose_rules.files import (
    ONE_SHOTS,
    Document,
    block_of,
    image_of,
    repository_of,
    services,
)
from tests.compose_rules.image_facts import IMAGES

NETWORKS = {
    "front": {"internal", "published"},
    "grafana": {"internal", "published"},
    "locust": {"internal", "published"},
    "api-server": {"internal", "engines", "egress"},  # models in the cloud, keys of JWT issuers
    "prometheus": {"internal", "engines"},
    "llama-cpp": {"engines"},
    "max-serve": {"engines"},
    "embeddings": {"engines"},
    "model-init": {"egress"},  # downloads, and needs nobody here
}
"""Who is elsewhere than on the internal network alone."""

PORTS = {
    "front": "API_PORT:-8000}:8000",
    "grafana": "GRAFANA_PORT:-3000}:3000",
    "locust": "LOCUST_PORT:-8089}:8089",
}


def network_faults(document: Document) -> Iterator[str]:
    for name in ("internal", "engines"):
        if document["networks"][name] != {"internal": True}:
            yield f"the network {name} has a way out"
    for name, service in services(document).items():
        kind = re.sub(r"-\d+$", "", name)  # the engine of another GPU
        if set(service.get("networks", ["default"])) != NETWORKS.get(kind, {"internal"}):
            yield f"{name} is on {service.get('networks')}"
        if "network_mode" in service or service.get("privileged"):
            yield f"{name} shares something of the host"


def port_faults(document: Document) -> Iterator[str]:
    for name, service in services(document).items():
        wanted = [f"${{BIND_ADDRESS:-127.0.0.1}}:${{{PORTS[name]}"] if name in PORTS else []
        if service.get("ports", []) != wanted:
            yield f"{name} publishes {service.get('ports')}"


REASONS = {
    ("max-serve", "read_only"): "writes where it pleases",
    ("max-serve", "root"): "as root, for the same reason",
    ("minio", "root"): "its user is root",
    ("dcgm-exporter", "read_only"): "its root is not read-only",
    ("dcgm-exporter", "root"): "and root, as others gain no capability",
    ("dcgm-exporter", "cap_add"): "for its profiling figures",
}
"""What a service may do that the others may not, and the words in its comment that say why."""


def liberties(document: Document) -> set[tuple[str, str]]:
    """What services may do that is to be avoided: (service, what)."""
    found = set()
    for name, service in services(document).items():
        image = IMAGES.get(repository_of(image_of(service["image"])))
        user = str(service.get("user", image.user if image else 0)).split(":")[0]
        checks = {
            "read_only": service.get("read_only") is not True,
            "cap_drop": service.get("cap_drop") != ["ALL"],
            "cap_add": bool(service.get("cap_add")),
            "no-new-privileges": "no-new-privileges:true" not in service.get("security_opt", []),
            "root": user in {"0", "root"},
        }
        found |= {(name, what) for what, is_so in checks.items() if is_so}
    return found


def liberty_faults(document: Document, names: tuple[str, ...]) -> Iterator[str]:
    for name, what in sorted(liberties(document)):
        words = REASONS.get((name, what))
        if words is None or words not in block_of(name, names):
            yield f"{name}: {what}, and no comment says why"


def bound_faults(document: Document) -> Iterator[str]:
    """Services without a bound on memory, processes or logs, or that stay down after a crash."""
    for name, service in services(document).items():
        is_one_shot = name in ONE_SHOTS
        if service.get("restart") != ("no" if is_one_shot else "unless-stopped"):
            yield f"{name}: restart is {service.get('restart')}"
        for key in ("mem_limit", "pids_limit"):
            if key not in service:
                yield f"{name} has no {key}"
        options = service.get("logging", {}).get("options", {})
        if not {"max-size", "max-file"} <= set(options):
            yield f"{name}: its log has no end"
        if ("healthcheck" in service) == is_one_shot:
            yield f"{name}: a health check is for what stays up"
