"""Prometheus of `make local`, from outside: what it knows, and that nothing depends on it."""

import os
import re
import signal
import stat
from pathlib import Path
from typing import Any

import httpx
import pytest

from tests.local_stack import (
    START_SECONDS,
    LocalStack,
    eventually,
    kept_stack,
    local_stack,
    run_command,
)
from tests.prometheus import PROGRAM, Prometheus

needs_prometheus = pytest.mark.skipif(PROGRAM is None, reason="there is no prometheus on PATH")


@pytest.fixture(autouse=True)
def _engine_is_built(stack: LocalStack) -> None:
    """The session's stack came up, so the engine is in the cache."""
    assert stack.process.poll() is None


def prometheus_of(stack: LocalStack) -> Prometheus:
    """The one that the banner names, once it answers."""
    found = re.search(r"metrics:  (http://127\.0\.0\.1:\d+) \(Prometheus\)", stack.output)
    assert found is not None, stack.output
    prometheus = Prometheus(found[1])

    def answers() -> bool:
        try:
            return httpx.get(f"{found[1]}/-/ready", timeout=2).status_code == 200
        except httpx.TransportError:
            return False

    eventually(answers, START_SECONDS, "Prometheus answers")
    return prometheus


def pids(stack: LocalStack) -> list[int]:
    return [pid for pid, line in stack.children() if "prometheus.yml" in line]


def healths(prometheus: Prometheus) -> dict[str, str]:
    """Job to how its target is."""
    url = f"{prometheus.url}/api/v1/targets"
    targets: list[Any] = httpx.get(url, timeout=5).json()["data"]["activeTargets"]
    return {each["labels"]["job"]: each["health"] for each in targets}


def chat(stack: LocalStack) -> int:
    body = {"model": "tiny", "messages": [{"role": "user", "content": "Hi"}], "max_tokens": 4}
    return httpx.post(f"{stack.url}/v1/chat/completions", json=body, timeout=30).status_code


@needs_prometheus
def test_it_watches_gateway_and_engine_with_the_rules(tmp_path: Path) -> None:
    data_dir = tmp_path / "data"
    with kept_stack(data_dir, MONITORING="on") as stack:
        stack.wait_ready(START_SECONDS)
        prometheus = prometheus_of(stack)
        assert chat(stack) == 200
        up = dict.fromkeys(("api-server", "llama-cpp", "prometheus"), "up")
        eventually(lambda: healths(prometheus) == up, 15, "all targets are up")
        asked = 'llm_gateway_requests_total{route="/v1/chat/completions"}'
        eventually(lambda: prometheus.values(asked) == [1], 15, "the chat is counted")
        eventually(lambda: prometheus.values("llamacpp:n_decode_total") != [], 15, "the engine")
        rules = prometheus.rules()
        assert len(rules) > 100
        assert {rule["health"] for rule in rules} <= {"ok", "unknown"}

        assert stat.S_IMODE((data_dir / "prometheus.yml").stat().st_mode) == 0o600
        assert stack.engine_key() in (data_dir / "prometheus.yml").read_text()
        (pid,) = pids(stack)
        assert stack.engine_key() not in Path(f"/proc/{pid}/cmdline").read_text()

        os.kill(pid, signal.SIGKILL)
        eventually(lambda: "Prometheus is back" in stack.output, 15, "Prometheus is back")
        assert prometheus.values(f"last_over_time({asked}[1m])") == [1]
        assert stack.stop() == 0
        assert stack.children() == []
    assert (data_dir / "prometheus").is_dir()
    run_command("reset", DATA_DIR=str(data_dir))
    assert not data_dir.exists()


def test_it_can_be_left_out(tmp_path: Path) -> None:
    with local_stack(tmp_path / "data", MONITORING="off") as stack:
        stack.wait_ready(START_SECONDS)
        assert "prometheus" not in stack.output.lower()
        assert pids(stack) == []


def test_one_that_does_not_start_is_done_without(tmp_path: Path) -> None:
    program = tmp_path / "bin" / "prometheus"
    program.parent.mkdir()
    program.write_text("#!/bin/sh\necho 'no such flag' >&2\nexit 3\n")
    program.chmod(0o755)
    path = f"{program.parent}:{os.environ['PATH']}"
    with local_stack(tmp_path / "data", MONITORING="on", PATH=path) as stack:
        stack.wait_ready(START_SECONDS)
        said = "going on without Prometheus"
        eventually(lambda: said in stack.output, 5, said)
        assert "no such flag" in stack.output
        assert chat(stack) == 200
        assert stack.stop() == 0
