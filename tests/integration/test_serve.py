"""`python -m api_server serve` as a process: signals, drain, exit codes, its log."""

import asyncio
import json
import os
import signal
import subprocess
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import httpx
import openai
import pytest
import yaml

from api_server.local.process import free_port
from tests.fake_engine import running_engine
from tests.local_stack import NEUTRAL, REPOSITORY, run_command

MESSAGES: Any = [{"role": "user", "content": "hi"}]


@asynccontextmanager
async def serving(
    tmp_path: Path, **variables: str
) -> AsyncIterator[tuple[subprocess.Popen[str], str]]:
    async with running_engine() as engine:
        replicas = [f"http://127.0.0.1:{engine.port}"]
        config = tmp_path / "stack.yaml"
        config.write_text(yaml.safe_dump({"models": [{"id": "fake", "replicas": replicas}]}))
        port = free_port()
        environment = {"STACK_CONFIG": str(config), "PORT": str(port), "HOST": "127.0.0.1"}
        with (tmp_path / "log").open("w") as log:
            process = subprocess.Popen(
                [sys.executable, "-m", "api_server", "serve"],
                cwd=REPOSITORY,
                env=os.environ | NEUTRAL | environment | variables,
                stdout=log,
                stderr=log,
                text=True,
            )
        url = f"http://127.0.0.1:{port}"
        try:
            await until_ready(process, url)
            yield process, url
        finally:
            process.kill()
            process.wait()


async def until_ready(process: subprocess.Popen[str], url: str) -> None:
    async with asyncio.timeout(20), httpx.AsyncClient() as http:
        while True:
            assert process.poll() is None
            try:
                if (await http.get(f"{url}/health/ready")).status_code == 200:
                    return
            except httpx.TransportError:
                await asyncio.sleep(0.05)


async def exit_code(process: subprocess.Popen[str], seconds: float) -> int:
    async with asyncio.timeout(seconds):
        while process.poll() is None:
            await asyncio.sleep(0.02)
    assert process.returncode is not None
    return process.returncode


async def collect(client: openai.AsyncOpenAI, started: asyncio.Event, **fields: Any) -> int:
    stream = await client.chat.completions.create(
        model="fake", messages=MESSAGES, stream=True, extra_body=fields
    )
    count = 0
    async for _ in stream:
        started.set()
        count += 1
    return count


async def test_sigterm_lets_streams_finish_and_takes_nothing_new(tmp_path: Path) -> None:
    async with serving(tmp_path) as (process, url):
        async with openai.AsyncOpenAI(base_url=f"{url}/v1", api_key="x", max_retries=0) as client:
            started = asyncio.Event()
            stream = asyncio.create_task(collect(client, started, tokens=50, pause=0.02))
            await started.wait()
            process.send_signal(signal.SIGTERM)
            await asyncio.sleep(0.4)
            assert not stream.done()
            with pytest.raises(httpx.ConnectError):
                httpx.get(f"{url}/health")
            assert await stream == 51
        assert await exit_code(process, 5) == 0


async def test_with_a_notice_requests_are_served_until_a_proxy_can_know(tmp_path: Path) -> None:
    async with serving(tmp_path, DRAIN_NOTICE_SECONDS="1") as (process, url):
        async with httpx.AsyncClient(base_url=url) as http:
            assert (await http.get("/health/open")).status_code == 200
            process.send_signal(signal.SIGTERM)
            await asyncio.sleep(0.3)
            told = httpx.get(f"{url}/health/open")  # a new connection
            assert (told.status_code, told.json()) == (503, {"status": "closing"})
            assert (await http.get("/health/live")).status_code == 200
            body = {"model": "fake", "messages": MESSAGES}
            assert (await http.post("/v1/chat/completions", json=body)).status_code == 200
        assert await exit_code(process, 5) == 0


async def test_a_second_sigterm_cuts_the_notice_short(tmp_path: Path) -> None:
    async with serving(tmp_path, DRAIN_NOTICE_SECONDS="60") as (process, _):
        process.send_signal(signal.SIGTERM)
        await asyncio.sleep(0.3)
        assert process.poll() is None
        process.send_signal(signal.SIGTERM)
        assert await exit_code(process, 5) == 0


async def test_second_sigterm_ends_streams_with_a_typed_error(tmp_path: Path) -> None:
    async with serving(tmp_path) as (process, url):
        async with openai.AsyncOpenAI(base_url=f"{url}/v1", api_key="x", max_retries=0) as client:
            started = asyncio.Event()
            stream = asyncio.create_task(collect(client, started, tokens=5000, pause=0.02))
            hanging = asyncio.create_task(
                collect(client, asyncio.Event(), fault="hang_before_headers")
            )
            await started.wait()
            process.send_signal(signal.SIGTERM)
            await asyncio.sleep(0.4)
            process.send_signal(signal.SIGTERM)
            with pytest.raises(openai.APIError) as caught:
                await stream
            assert caught.value.code == "shutting_down"
            with pytest.raises(openai.InternalServerError) as refused:
                await hanging
            assert refused.value.status_code == 503
            assert refused.value.response.headers["retry-after"]
        assert await exit_code(process, 5) == 0
    lines = [json.loads(line) for line in (tmp_path / "log").read_text().splitlines()]
    outcomes = [line["outcome"] for line in lines if line.get("error_code") == "shutting_down"]
    assert sorted(outcomes) == ["error", "error_in_stream"]


async def test_log_is_one_json_line_a_request_and_nothing_else(tmp_path: Path) -> None:
    async with serving(tmp_path) as (process, url):
        async with httpx.AsyncClient(base_url=url) as http:
            for path in ("/health", "/nothing", "/v1/models/x%0aforged"):
                await http.get(path, headers={"x-request-id": f"id{len(path)}"})
        process.send_signal(signal.SIGTERM)
        assert await exit_code(process, 5) == 0
    lines = [json.loads(line) for line in (tmp_path / "log").read_text().splitlines()]
    assert [line["status"] for line in lines] == [200, 404, 404]
    assert lines[1]["error_code"] == "route_not_found"


async def test_port_that_is_taken_is_a_sentence(tmp_path: Path) -> None:
    async with serving(tmp_path) as (_, url):
        config = str(tmp_path / "stack.yaml")
        done = run_command("serve", STACK_CONFIG=config, PORT=url.rsplit(":", 1)[1])
    assert done.returncode == 1
    assert "is taken" in done.stderr
    assert "Traceback" not in done.stderr + done.stdout


def test_check_validates_without_starting(tmp_path: Path) -> None:
    def run(text: str) -> subprocess.CompletedProcess[str]:
        path = tmp_path / "stack.yaml"
        path.write_text(text)
        return run_command("check", STACK_CONFIG=str(path))

    good = run("models:\n  - {id: m, replicas: ['http://127.0.0.1:1']}\n")
    assert (good.returncode, good.stderr) == (0, "")
    assert "ok. Models: m." in good.stdout
    bad = run("modles: []\n")
    assert bad.returncode == 1
    assert "Did you mean 'models'?" in bad.stderr


def test_check_tells_what_serve_would_refuse() -> None:
    said = run_command("check", ENVIRONMENT="production", AUTH="off").stdout
    assert "`serve` would refuse to start with this: AUTH is off" in said
    secrets = {"POSTGRES_URL": "postgresql://me:changeme@127.0.0.1:1/none", "AUTH": "on"}
    said = run_command("check", ENVIRONMENT="production", **secrets).stdout
    assert "POSTGRES_URL, the password: this is a placeholder" in said
    assert "refuse" not in run_command("check", ENVIRONMENT="development", AUTH="off").stdout
