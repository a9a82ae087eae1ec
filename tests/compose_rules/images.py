"""Images: each with a version, a digest where one is known, and a variable that replaces it."""

import re
from collections.abc import Iterator

from tests.compose_rules.files import Document, repository_of, services
from tests.compose_rules.image_facts import IMAGES, WITHOUT_DIGEST

IMAGE = re.compile(r"\$\{(\w+_IMAGE):-([^}]+)\}")
TAGGED = re.compile(r"[\w./-]+:(?P<tag>[\w.-]+)(@sha256:[0-9a-f]{64})?")


def image_faults(document: Document) -> Iterator[str]:
    """Images without a variable, a version or a digest, and those spelled in two ways."""
    spellings: dict[str, set[str]] = {}
    spelled = {name: service["image"] for name, service in services(document).items()}
    heads = {f"x-images.{name}": spelling for name, spelling in document["x-images"].items()}
    for name, spelling in (spelled | heads).items():
        found = IMAGE.fullmatch(spelling)
        if not found:
            yield f"{name}: {spelling} cannot be replaced by a variable"
            continue
        variable, image = found.groups()
        spellings.setdefault(variable, set()).add(image)
        tag = TAGGED.fullmatch(image)
        if not tag or "latest" in tag["tag"] or not re.search(r"\d", tag["tag"]):
            yield f"{name}: {image} names no version"
        if ("@sha256:" not in image) != (variable in WITHOUT_DIGEST):
            yield f"{name}: {image} should have a digest, or none and the reason in image_facts.py"
        if repository_of(image) not in IMAGES:
            yield f"{name}: nothing is known of {repository_of(image)}"
    yield from (
        f"{name} is spelled {images}" for name, images in spellings.items() if len(images) > 1
    )


def repeated_images(texts: list[str]) -> Iterator[str]:
    """Images whose default stands in the files more than once."""
    found = [match for text in texts for match in IMAGE.findall(text)]
    for variable in {name for name, _ in found}:
        times = sum(name == variable for name, _ in found)
        if times > 1:
            yield f"the default of {variable} stands {times} times"
