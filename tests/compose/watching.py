"""Looks at a running stack past its front: the engine's slots, rows of PostgreSQL."""

import time
from collections.abc import Callable

import httpx

from tests.compose.daemon import docker
from tests.compose.project import Project


def eventually(claim: Callable[[], bool], seconds: float, what: str) -> float:
    """Wait until a claim holds; how long that took."""
    began = time.monotonic()
    while not claim():
        assert time.monotonic() - began < seconds, f"not within {seconds} s: {what}"
        time.sleep(0.02)
    return time.monotonic() - began


class Engine:
    """The engine itself: the host reaches every container. Use as a context manager."""

    def __init__(self, project: Project) -> None:
        container = project.inspect(project.container("llama-cpp"))[0]
        (network,) = container["NetworkSettings"]["Networks"].values()
        self._client = httpx.Client(
            base_url=f"http://{network['IPAddress']}:8080",
            headers={"authorization": f"Bearer {project.setting('ENGINE_API_KEY')}"},
            timeout=30,
        )

    def __enter__(self) -> "Engine":
        return self

    def __exit__(self, *_: object) -> None:
        self._client.close()

    def busy_slots(self) -> int:
        slots = self._client.get("/slots").raise_for_status().json()
        return sum(bool(slot["is_processing"]) for slot in slots)


def rows(project: Project, query: str) -> list[str]:
    """What PostgreSQL answers, a line a row."""
    words = ["exec", project.container("postgres"), "psql", "-U", "stack", "-d", "stack", "-tAc"]
    return docker(*words, query).splitlines()


def usage_count(project: Project) -> int:
    """Rows of the ledger."""
    return int(rows(project, "select count(*) from usage")[0])
