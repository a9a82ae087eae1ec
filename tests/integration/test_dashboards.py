"""Every panel, asked of a real Prometheus that watches a gateway under a little load."""

import asyncio
import contextlib
import math
import shutil
import subprocess
import time
from pathlib import Path
from typing import Any

import openai
import pytest

from tests.dashboards import MONITORING, panels
from tests.fake_engine import running_engine
from tests.integration.conftest import running_gateway
from tests.prometheus import PROGRAM, Prometheus, running_prometheus

MESSAGES: Any = [{"role": "user", "content": "hi"}]
RATE_INTERVAL = "8s"
WAIT_SECONDS = 40
TIMEOUTS = dict.fromkeys(
    ("queue_seconds", "connect_seconds", "first_token_seconds", "idle_seconds", "total_seconds"), 20
)

needs_prometheus = pytest.mark.skipif(PROGRAM is None, reason="there is no prometheus on PATH")


async def chat(client: openai.AsyncOpenAI, **body: Any) -> None:
    """A streamed one, to its end."""
    stream = await client.chat.completions.create(
        model="fake", messages=MESSAGES, stream=True, extra_body={"tokens": 5} | body
    )
    async for _ in stream:
        pass


async def load(url: str) -> None:
    """A few chats at a time, one of ten of which fails, until it is cancelled."""
    async with openai.AsyncOpenAI(base_url=f"{url}/v1", api_key="none", max_retries=0) as client:
        while True:
            await asyncio.gather(*(chat(client, pause=0.01) for _ in range(9)))
            with contextlib.suppress(openai.InternalServerError):
                await chat(client, fault="error_500")


def empty_ones(prometheus: Prometheus) -> list[str]:
    """Expressions that give no number now."""
    return [
        f"{panel.name}: {expression}"
        for panel in panels()
        for expression in panel.expressions
        if not any(
            math.isfinite(value)
            for value in prometheus.values(expression.replace("$__rate_interval", RATE_INTERVAL))
        )
    ]


def empty_rules(prometheus: Prometheus) -> list[str]:
    """Rules that are wrong or were not evaluated yet, and recorded ones without a figure."""
    found = []
    for rule in prometheus.rules():
        if rule["health"] != "ok":
            found.append(f"{rule['name']}: {rule['health']}: {rule.get('lastError')}")
        elif rule["type"] == "recording":
            labels = ",".join(f'{name}="{value}"' for name, value in rule.get("labels", {}).items())
            values = prometheus.values(f"{rule['name']}{{{labels}}}")
            if not any(math.isfinite(value) for value in values):
                found.append(f"{rule['name']}{{{labels}}}: empty")
    return found


@needs_prometheus
async def test_no_panel_and_no_rule_is_empty_or_wrong(
    tmp_path: Path, postgres_url: str, redis_url: str
) -> None:
    variables = {"POSTGRES_URL": postgres_url, "REDIS_URL": redis_url}
    async with (
        running_engine(slots=4) as engine,
        running_gateway(tmp_path, engine, variables=variables, timeouts=TIMEOUTS) as (_, url),
    ):
        targets = {
            "api-server": url.removeprefix("http://"),
            "llama-cpp": f"127.0.0.1:{engine.port}",
        }
        with running_prometheus(tmp_path, targets) as prometheus:
            loading = asyncio.create_task(load(url))
            deadline = time.monotonic() + WAIT_SECONDS
            while empty := [
                *await asyncio.to_thread(empty_ones, prometheus),
                *await asyncio.to_thread(empty_rules, prometheus),
            ]:
                assert time.monotonic() < deadline, "\n".join(empty)
                assert not loading.done()
                await asyncio.sleep(0.5)
            assert len(await asyncio.to_thread(prometheus.rules)) > 100
            assert await asyncio.to_thread(prometheus.values, "max_over_time(up[1m])") == [1, 1]
            loading.cancel()
            await asyncio.wait({loading})


@needs_prometheus
def test_an_expression_that_is_wrong_is_noticed(tmp_path: Path) -> None:
    with running_prometheus(tmp_path, {}) as prometheus:
        with pytest.raises(AssertionError, match="parse error"):
            prometheus.values("rate(up)) or")
        assert prometheus.values("nothing_of_this_name") == []


@pytest.mark.skipif(shutil.which("promtool") is None, reason="there is no promtool on PATH")
def test_promtool_finds_nothing_wrong() -> None:
    path = MONITORING / "prometheus/prometheus.yml"
    checked = subprocess.run(
        ["promtool", "check", "config", "--syntax-only", str(path)],
        capture_output=True,
        text=True,
        timeout=30,
        check=False,
    )
    assert checked.returncode == 0, checked.stdout + checked.stderr
