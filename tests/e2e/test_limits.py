"""A conversation of 10,000 tokens to a model of 4,096: its engine counts, a service does not.

The tiny model was trained on 2,048 tokens; here it is made to take 4,096, since nothing is asked of
its wit.
"""

import asyncio
import json
from asyncio.subprocess import DEVNULL
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import httpx
import pytest

from api_server.inference.estimating import estimate_chat
from api_server.local.process import free_port
from tests.fake_engine import running_engine
from tests.folded import Json, from_plain, from_stream, read_events
from tests.local_stack import REPOSITORY, LocalStack, local_stack, run_command
from tests.replicas import running_gateway, until

CONTEXT_TOKENS = 4096
OWN_LIMIT = 1000
START_SECONDS = 30
TINY = REPOSITORY / "models/tiny/tiny-q8_0.gguf"
SYSTEM: Json = {"role": "system", "content": "You are a helpful assistant."}
QUESTION: Json = {"role": "user", "content": "What is the capital of France?"}


def talk(rounds: int) -> list[Json]:
    roles = ("user", "assistant")
    return [
        {"role": roles[n % 2], "content": f"{n} " + "The sky is blue today. " * 20}
        for n in range(rounds)
    ]


@asynccontextmanager
async def running_llama_server() -> AsyncIterator[str]:
    """A real engine with one slot of `CONTEXT_TOKENS`; its URL."""
    binary = run_command("engine").stdout.strip()
    port = free_port()
    flags = {
        "--model": str(TINY),
        "--host": "127.0.0.1",
        "--port": str(port),
        "--parallel": "1",
        "--ctx-size": str(CONTEXT_TOKENS),
        "--override-kv": f"llama.context_length=int:{CONTEXT_TOKENS}",
        "--threads": "1",
    }
    words = [word for flag in flags.items() for word in flag]
    process = await asyncio.create_subprocess_exec(
        *(binary, *words, "--jinja", "--no-webui"), stdin=DEVNULL, stdout=DEVNULL, stderr=DEVNULL
    )
    url = f"http://127.0.0.1:{port}"

    async def is_up() -> bool:
        assert process.returncode is None, "llama-server has ended"
        async with httpx.AsyncClient(timeout=1) as http:
            try:
                return (await http.get(f"{url}/health")).status_code == 200
            except httpx.HTTPError:
                return False

    try:
        await until(is_up, START_SECONDS, "llama-server is ready")
        yield url
    finally:
        if process.returncode is None:
            process.kill()
        await process.wait()


@pytest.fixture
async def gateway(stack: LocalStack, tmp_path: Path) -> AsyncIterator[str]:
    """Four models at one engine: each way of overflow, by the engine's limit and by ours."""
    assert stack.is_ready(), "so that the engine is built"
    async with running_llama_server() as url:
        models = [
            {
                "id": f"{overflow}-{whose}",
                "replicas": [url],
                "slots": 1,
                "context_overflow": overflow,
            }
            | ({"max_input_tokens": OWN_LIMIT} if whose == "ours" else {})
            for overflow in ("drop_oldest", "error")
            for whose in ("engine", "ours")
        ]
        async with running_gateway(tmp_path, {}, models=models) as running:
            yield running.url


async def ask(url: str, model: str, messages: list[Json], **fields: Any) -> httpx.Response:
    body = {"model": model, "messages": messages, "max_tokens": 8} | fields
    async with httpx.AsyncClient(timeout=60) as http:
        return await http.post(f"{url}/v1/chat/completions", json=body)


async def test_ten_thousand_tokens_to_a_real_engine(gateway: str) -> None:
    messages = [SYSTEM, *talk(100), QUESTION]
    for whose, limit in (("engine", CONTEXT_TOKENS), ("ours", OWN_LIMIT)):
        refused = await ask(gateway, f"error-{whose}", messages)
        assert refused.status_code == 400
        error = refused.json()["error"]
        assert (error["code"], error["param"]) == ("context_length_exceeded", "messages")
        assert f"holds {limit} tokens, and your input has " in error["message"]
        counted = int(error["message"].split("input has ")[1].split(".")[0])
        assert counted > 10_000, "this conversation is too short for what is tested"
        for stream in (False, True):
            more = {"stream_options": {"include_usage": True}} if stream else {}
            answer = await ask(gateway, f"drop_oldest-{whose}", messages, stream=stream, **more)
            assert answer.status_code == 200, answer.text
            dropped = int(answer.headers["x-dropped-messages"])
            assert 0 < dropped < 100
            folded = from_stream(read_events(answer.text)) if stream else from_plain(answer.json())
            assert 0.8 * limit < folded["usage"]["prompt_tokens"] <= limit
            kept = [SYSTEM, *talk(100)[dropped:], QUESTION]
            again = await ask(gateway, "drop_oldest-engine", kept)
            assert again.json()["usage"]["prompt_tokens"] == folded["usage"]["prompt_tokens"]


async def test_what_fits_by_the_engines_count_is_left_whole(gateway: str) -> None:
    """More bytes than the limit has tokens: that is no reason yet."""
    messages = [SYSTEM, *talk(4), QUESTION]
    assert len(json.dumps(messages)) > 1.5 * OWN_LIMIT
    for overflow in ("drop_oldest", "error"):
        answer = await ask(gateway, f"{overflow}-ours", messages)
        assert answer.status_code == 200, answer.text
        assert "x-dropped-messages" not in answer.headers


async def test_the_external_service_stands_beside_the_model_of_make_local(tmp_path: Path) -> None:
    async with running_engine() as service:
        told = {
            "AI_SERVICE_URL": f"http://127.0.0.1:{service.port}",
            "AI_SERVICE_API_KEY": "theirs",
        }
        with local_stack(tmp_path / "data", **told) as stack:
            await asyncio.to_thread(stack.wait_ready, START_SECONDS)
            assert "and, from elsewhere, 'mistral-7b'" in stack.output
            messages = [SYSTEM, *talk(100), QUESTION]
            answer = await ask(stack.url, "mistral-7b", messages, max_tokens=5000)
            assert answer.status_code == 200, answer.text
            dropped = int(answer.headers["x-dropped-messages"])
            arrived = service.bodies[-1]
            assert arrived["messages"] == [SYSTEM, *talk(100)[dropped:], QUESTION]
            assert 3500 < estimate_chat(json.dumps(arrived["messages"]).encode()) <= CONTEXT_TOKENS
            assert arrived["max_tokens"] == 2048
            assert "authorization: bearer theirs" in service.heads[-1].lower()
            assert (await ask(stack.url, "tiny", [QUESTION])).status_code == 200
            await asyncio.to_thread(stack.stop)


async def test_models_in_the_cloud_stay_beside_the_model_of_make_local(tmp_path: Path) -> None:
    async with running_engine() as cloud:
        entry = {
            "id": "far-away",
            "engine": "openai-compatible",
            "location": "cloud",
            "replicas": [f"http://127.0.0.1:{cloud.port}"],
            "api_key_env": "FAR_AWAY_API_KEY",
            "name_at_engine": "vendor/far-away",
            "fallbacks": ["near"],
        }
        near = {"id": "near", "replicas": ["http://127.0.0.1:1"]}
        path = tmp_path / "stack.yaml"
        path.write_text(json.dumps({"models": [near, entry]}))
        told = {"STACK_CONFIG": str(path), "FAR_AWAY_API_KEY": "far-key"}
        with local_stack(tmp_path / "data", **told) as stack:
            await asyncio.to_thread(stack.wait_ready, START_SECONDS)
            listed = {model["id"]: model for model in stack.listed_models()}
            assert listed.keys() == {"tiny", "far-away"}
            assert listed["far-away"]["fallbacks"] == []
            assert (await ask(stack.url, "far-away", [QUESTION])).status_code == 200
            assert cloud.bodies[-1]["model"] == "vendor/far-away"
            assert "authorization: bearer far-key" in cloud.heads[-1].lower()
            assert "far-key" not in (stack.data_dir / "stack.yaml").read_text()
            await asyncio.to_thread(stack.stop)


async def test_a_name_that_the_local_model_has_is_told_before_anything_starts(
    tmp_path: Path,
) -> None:
    told = {"AI_SERVICE_URL": "http://127.0.0.1:1", "AI_SERVICE_MODEL": "tiny"}
    with local_stack(tmp_path / "data", **told) as stack:
        assert await asyncio.to_thread(stack.process.wait, 20) == 1
        assert "AI_SERVICE_MODEL: " in stack.output
        assert "has a model 'tiny' too" in stack.output
        assert "starting" not in stack.output
