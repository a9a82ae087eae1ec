"""Without `make`: `docker compose up -d` with the `.env` of a start; and the older Compose."""

import dataclasses

import httpx
import pytest

from tests.compose.conftest import RUNNING, Stack
from tests.compose.daemon import compose_commands
from tests.compose.load import body
from tests.compose.project import Project

pytestmark = pytest.mark.timeout(500)


def answer_to_a_chat(project: Project) -> httpx.Response:
    headers = {"authorization": f"Bearer {project.setting('STACK_API_KEY')}"}
    question = body("What is the capital of France?", stream=False) | {"temperature": 0}
    with httpx.Client(base_url=project.url, headers=headers, timeout=60) as http:
        return http.post("/v1/chat/completions", json=question)


def test_stop_ends_all_and_compose_starts_it_again(stack: Stack) -> None:
    project = stack.project
    project.must("make", "stop")
    assert project.containers() == []
    project.compose("up", "--detach")
    project.wait_healthy(*RUNNING, seconds=120)
    assert "Paris" in answer_to_a_chat(project).text


@pytest.mark.parametrize("service", ["locust"])
def test_the_page_of_locust_is_there_when_it_is_asked_for(stack: Stack, service: str) -> None:
    project = stack.project
    project.must("make", "locust")
    project.wait_healthy(service)
    page = httpx.get(f"http://127.0.0.1:{project.setting('LOCUST_PORT')}/", timeout=10)
    assert page.status_code == 200
    project.compose("--profile", service, "rm", "--stop", "--force", service)


def test_the_other_compose_brings_it_up_too(stack: Stack) -> None:
    """Its containers have other names, so that it begins anew; the data stay."""
    others = [each for each in compose_commands() if each != stack.project.compose_command]
    if not others:
        pytest.skip("this machine has one Compose only")
    stack.project.must("make", "clean")
    project = dataclasses.replace(stack.project, compose_command=others[0])
    project.start()
    for service in RUNNING:
        assert project.is_healthy(service), project.why_not([service])
    assert "Paris" in answer_to_a_chat(project).text
    before = set(project.containers())
    project.start()
    assert set(project.containers()) == before
    project.must("make", "clean")
