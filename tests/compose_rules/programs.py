"""What runs in a container: programs its image has, checks that can fail, flags that exist."""

import re
import shlex
from collections.abc import Iterator
from pathlib import Path

from tests.compose_rules.files import Document, image_of, repository_of, services, strings
from tests.compose_rules.image_facts import FLAGS, IMAGES

BUILTINS = frozenset({"exec", "umask", "printf", "read", "[[", "test"})


def programs(command: list[str]) -> set[str]:
    """The programs that a command calls, those of a shell's script too, builtins aside."""
    first = command[0]
    if first in {"sh", "/bin/sh", "bash"} and len(command) > 2 and command[1] == "-c":
        return {Path(first).name} | programs_of_script(command[2])
    return {first}


def programs_of_script(script: str) -> set[str]:
    found = set()
    quoted = re.sub(r"'[^']*'|\"[^\"]*\"", "quoted", script.replace("$$", "$"))
    for part in re.split(r"&&|\|\||[;|]", quoted):
        words = part.split()
        if words and words[0] == "exec" and len(words) > 1 and not words[1].startswith("3<>"):
            words = words[1:]
        if words and words[0] not in BUILTINS:
            found.add(words[0])
    return found


def check_of(service: Document) -> list[str]:
    test: list[str] = service["healthcheck"]["test"]
    return ["sh", "-c", test[1]] if test[0] == "CMD-SHELL" else test[1:]


def started(service: Document) -> list[list[str]]:
    """The command lines that a service gives its image, its health check among them."""
    lines = [check_of(service)] if "healthcheck" in service else []
    entrypoint, command = service.get("entrypoint"), service.get("command", [])
    words = shlex.split(command) if isinstance(command, str) else command
    if entrypoint:
        lines.append([*entrypoint, *words])
    elif words and words[0] in {"sh", "bash"}:
        lines.append(words)
    return lines


def program_faults(document: Document) -> Iterator[str]:
    """Programs that nothing says are in the image, of health checks and commands."""
    for name, service in services(document).items():
        repository = repository_of(image_of(service["image"]))
        image = IMAGES.get(repository)
        for line in started(service):
            missing = programs(line) - (image.programs if image else frozenset())
            yield from (f"{name}: {program} is not in {repository}" for program in missing)


def quiet_checks(document: Document) -> Iterator[str]:
    """Health checks that would pass whatever is answered."""
    for name, service in services(document).items():
        if "healthcheck" in service:
            test = " ".join(service["healthcheck"]["test"])
            if "redis-cli" in test and "grep -q PONG" not in test:
                yield f"{name}: redis-cli ends with 0 whatever it is answered"
            if re.search(r"\bcurl\b", test) and not re.search(r"curl -\w*f", test):
                yield f"{name}: curl without -f takes an error for an answer"
            if "/dev/tcp" in test and " 200 " not in test:
                yield f"{name}: its check does not read the status"
            direct = ("-Y off", "--noproxy", "ProxyHandler({})")
            if "http://" in test and not any(each in test for each in direct):
                yield f"{name}: its check would ask a proxy, if ~/.docker/config.json names one"
            if "localhost" in test:
                yield f"{name}: localhost may be ::1, where nobody listens"


def flags_of(service: Document) -> set[str]:
    """Everything in a service's command that begins as a flag does."""
    text = " ".join(strings(service.get("command", [])))
    text = re.sub(r"^.*\bexec ", "", text, flags=re.DOTALL)
    return {word.split("=")[0] for word in re.findall(r"(?:^|\s)(--?[a-zA-Z][\w.-]*)", text)}


def flag_faults(document: Document) -> Iterator[str]:
    for name, service in services(document).items():
        command = " ".join(strings(service.get("command", [])))
        program = {"minio": "minio", "locust": "locust"}.get(name, "")
        for known in ("prometheus", "redis-server"):
            program = known if f"exec {known}" in command else program
        program = "weed" if "/entrypoint.sh server" in command else program
        if program:
            yield from (
                f"{name}: {flag} is no flag of {program}"
                for flag in flags_of(service) - FLAGS[program]
            )
