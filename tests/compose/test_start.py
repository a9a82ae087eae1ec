"""`make start` on a machine that has nothing of it yet, and on one that has everything."""

import stat
import subprocess

import pytest

from tests.compose.conftest import ENDED, RUNNING, SECRETS, Stack
from tests.compose.project import Project

pytestmark = pytest.mark.timeout(600)


def test_it_ends_with_a_stack_that_serves(stack: Stack) -> None:
    assert stack.url in stack.transcript
    for service in RUNNING:
        assert stack.project.is_healthy(service), stack.project.why_not([service])
    for service in ENDED:
        (container,) = stack.project.containers(service, stopped=True) or [""]
        assert not container or stack.project.state(container)["ExitCode"] == 0


def test_secrets_are_generated_and_only_the_owner_reads_them(stack: Stack) -> None:
    assert stat.S_IMODE(stack.project.env_file.stat().st_mode) == 0o600
    values = [stack.project.setting(name) for name in SECRETS]
    assert len(set(values)) == len(values)
    assert all(len(value) >= 16 for value in values)
    shown = [name for name, value in zip(SECRETS, values, strict=True) if value in stack.transcript]
    assert shown == [], "the key of clients is for a terminal, the others for nobody"


def everything(project: Project) -> tuple[set[str], bytes]:
    """The containers that run, and `.env`."""
    return set(project.containers()), project.env_file.read_bytes()


def test_a_second_start_changes_nothing(stack: Stack) -> None:
    before = everything(stack.project)
    stack.project.start()
    assert everything(stack.project) == before


def test_the_doctor_finds_nothing(stack: Stack) -> None:
    said = stack.project.must("make", "doctor")
    assert "error: " not in said, said


def test_the_doctor_names_a_service_that_is_away(stack: Stack) -> None:
    with stack.project.away(stack.project.container("qdrant")):
        answer = stack.project.run("make", "doctor")
    assert answer.code != 0
    assert "qdrant" in answer.output
    stack.project.wait_healthy("qdrant")


def test_ps_and_logs_show_the_services(stack: Stack) -> None:
    listed = stack.project.must("make", "ps")
    for service in RUNNING:
        assert service in listed
    try:
        said = stack.project.run(
            "make", "logs", "FOLLOW=no", "SERVICE=api-server", seconds=10
        ).output
    except (AssertionError, subprocess.TimeoutExpired) as exc:  # it follows until one stops it
        said = str(exc)
    assert '"level"' in said
