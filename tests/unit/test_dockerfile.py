"""What goes into the gateway's image, and what must not. The image itself: tests/compose."""

import fnmatch
import re
import subprocess
from pathlib import Path

import yaml

from tests.local_stack import REPOSITORY

DOCKERFILE = (REPOSITORY / "Dockerfile").read_text()
COMPOSE = yaml.safe_load((REPOSITORY / "docker-compose.yaml").read_text())
COPIED = {"requirements.txt", "api_server", "configs", "init-scripts"}


def instructions(text: str) -> list[tuple[str, str]]:
    """Instructions of a Dockerfile in their order, each on one line."""
    joined = re.sub(r"\\\n\s*", "", text)
    lines = [line for line in joined.splitlines() if line and not line.startswith("#")]
    return [(line.split()[0], line.split(maxsplit=1)[1]) for line in lines]


def sent(path: str, rules: list[str]) -> bool:
    """Whether .dockerignore lets a path pass: the last rule that matches it or a folder of it."""
    passes = True
    parts = Path(path).parts
    ways = ["/".join(parts[:length]) for length in range(1, len(parts) + 1)]
    for rule in rules:
        pattern = rule.removeprefix("!")
        names = parts if pattern.startswith("**/") else ways
        if any(fnmatch.fnmatchcase(name, pattern.removeprefix("**/")) for name in names):
            passes = rule.startswith("!")
    return passes


def rules() -> list[str]:
    text = (REPOSITORY / ".dockerignore").read_text()
    return [line for line in text.splitlines() if line and not line.startswith("#")]


def test_its_base_is_pinned_and_the_same_in_each_stage() -> None:
    steps = instructions(DOCKERFILE)
    base = next(value for word, value in steps if word == "ARG" and value.startswith("BASE="))
    assert re.fullmatch(r"BASE=python:3\.1\d[\w.-]*-slim-bookworm(@sha256:[0-9a-f]{64})?", base)
    assert {value.split()[0] for word, value in steps if word == "FROM"} == {"${BASE}"}


def test_it_serves_as_a_user_without_rights() -> None:
    steps = instructions(DOCKERFILE)
    last = steps[max(at for at, (word, _) in enumerate(steps) if word == "FROM") :]
    assert [value for word, value in last if word == "USER"] == ["10001:10001"]
    assert not [value for word, value in last if word in ("RUN", "ADD")]


def test_it_builds_without_buildkit() -> None:
    assert not re.search(r"^#\s*syntax=|--mount|<<", DOCKERFILE, re.MULTILINE)


def test_packages_are_the_locked_ones_and_nothing_is_compiled() -> None:
    install = next(value for word, value in instructions(DOCKERFILE) if " install " in value)
    assert "--require-hashes" in install
    assert "--only-binary :all:" in install
    assert "--requirement requirements.txt" in install


def test_it_checks_its_health_as_compose_does() -> None:
    steps = dict(instructions(DOCKERFILE))
    compose = COMPOSE["services"]["api-server"]["healthcheck"]
    command = yaml.safe_load(steps["HEALTHCHECK"].partition("CMD ")[2])
    assert ["CMD", *command] == compose["test"]
    for name in ("interval", "timeout", "retries", "start_period"):
        assert f"--{name.replace('_', '-')}={compose[name]}" in steps["HEALTHCHECK"]


def test_only_what_it_copies_is_sent_to_the_builder() -> None:
    copies = [value.split() for word, value in instructions(DOCKERFILE) if word == "COPY"]
    assert {words[0] for words in copies if not words[0].startswith("--")} == COPIED
    listed = subprocess.run(
        ["git", "ls-files"], cwd=REPOSITORY, capture_output=True, text=True, check=True
    ).stdout.split()
    passing = {path for path in listed if sent(path, rules())}
    assert {Path(path).parts[0] for path in passing} == COPIED
    assert all(path in passing for path in listed if path.startswith("api_server/"))


def test_no_secret_and_nothing_local_is_sent_to_the_builder() -> None:
    for path in (
        *(".env", ".env.backup", "configs/.env", ".git/config", ".local/development-key"),
        *(".venv/bin/python", "models/a.gguf", "backups/a.sql", "configs/__pycache__/x.pyc"),
        *(
            "api_server/__pycache__/main.cpython-312.pyc",
            "tests/conftest.py",
            "docker-compose.yaml",
        ),
    ):
        assert not sent(path, rules()), path
