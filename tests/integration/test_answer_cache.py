"""Answers that are given again, through the official client, with a real Redis behind."""

import asyncio
import json
import time
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from functools import partial
from pathlib import Path
from typing import Any

import httpx
import openai
import pytest
from openai.types.chat import ChatCompletionMessageFunctionToolCall

from api_server.composition import whole as composition
from api_server.inference.handlers.engine_client import EngineClient
from api_server.services.answer_cache import cache
from api_server.stores.answers import Answers
from api_server.stores.redis import Redis
from tests.fake_engine import answers as engine_answers
from tests.fake_engine import running_engine
from tests.folded import assert_equal, from_plain, from_stream, read_events
from tests.integration.conftest import TIMEOUTS, Stack, running_gateway
from tests.integration.test_faults import MESSAGES, settled
from tests.labelled import LABEL, labelled_callers
from tests.samples import samples
from tests.stores import RedisServer, running_redis

USE = {"x-cache": "use"}
PATIENT: Any = {"timeouts": TIMEOUTS | {"queue_seconds": 5, "total_seconds": 5}}


@pytest.fixture(autouse=True)
def labelled() -> Iterator[None]:
    with labelled_callers():
        yield


@asynccontextmanager
async def cached_stack(
    folder: Path, redis_url: str | None, *, budget_seconds: float = 2.0, **sections: Any
) -> AsyncIterator[Stack]:
    """With a Redis that may take its time: this machine runs other tests as well."""
    variables = {"REDIS_URL": redis_url} if redis_url else {}
    sections = PATIENT | sections
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(composition, "Answers", partial(Answers, budget_seconds=budget_seconds))
        async with (
            running_engine() as engine,
            running_gateway(folder, engine, variables=variables, **sections) as (gateway, url),
            openai.AsyncOpenAI(base_url=f"{url}/v1", api_key="none", max_retries=0) as client,
        ):
            yield Stack(engine, gateway, url, client)


@pytest.fixture
async def cached(tmp_path: Path, redis_url: str) -> AsyncIterator[Stack]:
    async with cached_stack(tmp_path, redis_url) as stack:
        yield stack


async def post(
    stack: Stack, headers: dict[str, str] | None = None, /, path: str = "chat", **fields: Any
) -> httpx.Response:
    body: dict[str, Any] = {"model": "fake", "temperature": 0} | fields
    if path == "chat":
        body = {"messages": MESSAGES} | body
    route = {"chat": "/v1/chat/completions", "text": "/v1/completions"}[path]
    # Certificates would be read for nothing, which takes as long as Redis may.
    async with httpx.AsyncClient(base_url=stack.url, timeout=10, verify=False) as http:
        return await http.post(route, json=body, headers=USE if headers is None else headers)


def found(response: httpx.Response) -> str | None:
    assert response.status_code == 200, response.text
    said: str | None = response.headers.get("x-cache")
    return said


async def until_hit(stack: Stack) -> None:
    async with asyncio.timeout(15):
        while found(await post(stack)) != "hit":
            await asyncio.sleep(0.1)


def asked(stack: Stack) -> int:
    return len(stack.engine.bodies)


async def test_the_second_of_two_equal_requests_is_a_hit(cached: Stack) -> None:
    first, second = [await post(cached) for _ in range(2)]
    assert [found(first), found(second)] == ["miss", "hit"]
    assert first.json() == second.json()
    assert asked(cached) == 1
    async with httpx.AsyncClient(base_url=cached.url) as http:
        counted = samples((await http.get("/metrics")).content)
    assert counted["llm_gateway_cache_total", "hit"] == 1
    assert counted["llm_gateway_cache_total", "miss"] == 1
    assert counted["gen_ai_client_token_usage_total", "fake", "output"] == 5, "made once"


@pytest.mark.parametrize("path", ["chat", "text"])
@pytest.mark.parametrize("first_is_stream", [True, False])
async def test_an_answer_is_the_same_plain_and_streamed_whichever_came_first(
    cached: Stack, path: str, first_is_stream: bool
) -> None:
    body: dict[str, Any] = {"path": path} | ({"prompt": "hi"} if path == "text" else {})
    stream = body | {"stream": True, "stream_options": {"include_usage": True}}
    orders = [stream, body, stream] if first_is_stream else [body, stream, body]
    responses = [await post(cached, **order) for order in orders]
    assert [found(each) for each in responses] == ["miss", "hit", "hit"]
    said = [
        from_stream(read_events(response.text))
        if "stream" in order
        else from_plain(response.json())
        for order, response in zip(orders, responses, strict=True)
    ]
    for each in said:
        (each["usage"] or {}).pop("prompt_tokens_details", None)
        assert_equal(each, said[0])
    assert asked(cached) == 1


async def test_tool_calls_come_again_under_the_official_client(
    cached: Stack, monkeypatch: pytest.MonkeyPatch
) -> None:
    def piece(_path: str, model: str, _text: str, finish_reason: str | None) -> str:
        function = {"name": "weather", "arguments": "{"} if not begun else {"arguments": '"a":1,'}
        if finish_reason:
            function = {"arguments": '"b":2}'}
        call: dict[str, Any] = {"index": 0, "function": function}
        if not begun:
            call |= {"id": "call_1", "type": "function"}
        begun.append(True)
        reason = "tool_calls" if finish_reason else None
        choice = {"index": 0, "delta": {"tool_calls": [call]}, "finish_reason": reason}
        chunk = {"id": "c", "object": "chat.completion.chunk", "created": 1, "model": model}
        return json.dumps(chunk | {"choices": [choice]})

    begun: list[bool] = []
    monkeypatch.setattr(engine_answers, "piece", piece)
    tool: Any = {"type": "function", "function": {"name": "weather", "parameters": {}}}
    asking: Any = {"model": "fake", "messages": MESSAGES, "tools": [tool], "temperature": 0}
    completions = cached.client.chat.completions
    plain = await completions.create(**asking, extra_headers=USE)
    async with completions.stream(**asking, extra_headers=USE) as stream:
        streamed = await stream.get_final_completion()
    assert asked(cached) == 1
    for answer in (plain, streamed):
        (call,) = answer.choices[0].message.tool_calls or [None]
        assert isinstance(call, ChatCompletionMessageFunctionToolCall)
        assert (call.id, call.function.name) == ("call_1", "weather")
        assert call.function.arguments == '{"a":1,' + '"a":1,' * 3 + '"b":2}'
        assert (answer.id, answer.choices[0].finish_reason) == (plain.id, "tool_calls")


async def test_who_does_not_ask_is_left_alone(cached: Stack) -> None:
    for _ in range(2):
        response = await post(cached, {})
        assert found(response) is None
    assert asked(cached) == 2


@pytest.mark.parametrize("fields", [{"temperature": 0.5}, {"temperature": None}])
async def test_what_is_not_deterministic_goes_to_the_engine(
    cached: Stack, fields: dict[str, Any]
) -> None:
    for _ in range(2):
        assert found(await post(cached, **fields)) == "bypass"
    assert asked(cached) == 2
    assert found(await post(cached, **fields, seed=3)) == "miss"
    assert found(await post(cached, **fields, seed=3)) == "hit"


async def test_an_app_may_want_it_for_all_and_a_request_not(tmp_path: Path, redis_url: str) -> None:
    with labelled_callers(cache=True):
        async with cached_stack(tmp_path, redis_url) as stack:
            assert found(await post(stack, {})) == "miss"
            assert found(await post(stack, {})) == "hit"
            assert found(await post(stack, {"x-cache": "no-store"})) == "bypass"
            assert asked(stack) == 2


async def test_no_app_sees_what_another_was_told(cached: Stack) -> None:
    for name in ("one", "other"):
        assert found(await post(cached, USE | {LABEL: name})) == "miss"
    assert found(await post(cached, USE | {LABEL: "one"}, user="somebody")) == "hit"
    assert asked(cached) == 2


async def test_an_answer_is_forgotten_in_time(tmp_path: Path, redis_url: str) -> None:
    async with cached_stack(tmp_path, redis_url, cache={"ttl_seconds": 0.3}) as stack:
        assert [found(await post(stack)) for _ in range(2)] == ["miss", "hit"]
        await asyncio.sleep(0.4)
        assert found(await post(stack)) == "miss"


@pytest.mark.parametrize("stream", [True, False])
async def test_a_long_answer_is_not_kept(tmp_path: Path, redis_url: str, stream: bool) -> None:
    async with cached_stack(tmp_path, redis_url, cache={"max_entry_bytes": 2048}) as stack:
        for _ in range(2):
            response = await post(stack, tokens=10, size=300, stream=stream)
            assert found(response) == "miss"
        assert found(await post(stack, tokens=10, size=20, stream=stream)) == "miss"
        assert found(await post(stack, tokens=10, size=20, stream=stream)) == "hit"


@pytest.mark.parametrize("stream", [True, False])
async def test_of_twenty_at_once_one_asks_the_engine(cached: Stack, stream: bool) -> None:
    responses = await asyncio.gather(*(post(cached, pause=0.02, stream=stream) for _ in range(20)))
    assert sorted(str(found(each)) for each in responses) == ["hit"] * 19 + ["miss"]
    assert asked(cached) == 1
    await settled(cached)


async def test_so_many_wait_for_one_answer_and_no_more(
    cached: Stack, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(cache, "MOST_WAITING", 3)
    responses = await asyncio.gather(*(post(cached, pause=0.02) for _ in range(6)))
    assert sorted(str(found(each)) for each in responses) == ["hit"] * 3 + ["miss"] * 3
    assert asked(cached) == 3


async def test_nobody_waits_for_another_one_for_ever(tmp_path: Path, redis_url: str) -> None:
    patience: Any = {"timeouts": TIMEOUTS | {"first_token_seconds": 5, "total_seconds": 0.4}}
    async with cached_stack(tmp_path, redis_url, **patience) as stack:
        began = time.monotonic()
        answers = await asyncio.gather(*(post(stack, fault="hang_before_headers") for _ in "ab"))
        assert {each.status_code for each in answers} == {504}
        assert time.monotonic() - began < 1.5
        await settled(stack)


async def test_a_shortened_chat_is_not_kept(
    tmp_path: Path, redis_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What is left out is not the same each time, and a hit could not say that it was."""

    async def count_tokens(*_: object) -> None:
        """It cannot, so that the gateway estimates."""

    monkeypatch.setattr(EngineClient, "count_tokens", count_tokens)
    async with running_engine() as engine:
        replicas = [f"http://127.0.0.1:{engine.port}"]
        entry = {"id": "fake", "max_input_tokens": 40, "context_overflow": "drop_oldest"}
        models = [entry | {"replicas": replicas}]
        async with cached_stack(tmp_path, redis_url, models=models) as stack:
            long = [{"role": "user", "content": "word " * 50}] * 4
            for _ in range(2):
                response = await post(stack, messages=[*long, *MESSAGES])
                assert found(response) == "miss"
                assert int(response.headers["x-dropped-messages"]) > 0


async def test_who_waits_takes_over_from_one_that_leaves(cached: Stack) -> None:
    leader = asyncio.create_task(post(cached, pause=0.05))
    async with asyncio.timeout(2):
        while not cached.engine.running:
            await asyncio.sleep(0.005)
    others = [asyncio.create_task(post(cached, pause=0.05)) for _ in range(5)]
    await asyncio.sleep(0.1)
    leader.cancel()
    results = await asyncio.gather(*others)
    assert sorted(str(found(each)) for each in results) == ["hit"] * 4 + ["miss"]
    assert asked(cached) == 2
    assert cached.engine.cancelled == 1
    await settled(cached)


async def test_one_that_leaves_while_it_waits_disturbs_nobody(cached: Stack) -> None:
    leader = asyncio.create_task(post(cached, pause=0.05))
    await asyncio.sleep(0.1)
    waiting = [asyncio.create_task(post(cached, pause=0.05)) for _ in range(3)]
    await asyncio.sleep(0.05)
    waiting.pop().cancel()
    assert found(await leader) == "miss"
    assert [found(await each) for each in waiting] == ["hit", "hit"]
    assert asked(cached) == 1


@pytest.mark.parametrize("stream", [True, False])
@pytest.mark.parametrize(
    "fault", ["error_500", "close_in_stream", "end_without_done", "error_event_in_stream"]
)
async def test_no_error_and_no_short_answer_is_kept_or_shared(
    cached: Stack, fault: str, stream: bool
) -> None:
    together = await asyncio.gather(
        *(post(cached, fault=fault, stream=stream, first_pause=0.05) for _ in range(4))
    )
    failed = [each for each in together if each.status_code != 200 or "event: error" in each.text]
    assert len(failed) == 4
    assert asked(cached) >= 4, "each had an error of its own"
    before = asked(cached)
    await post(cached, fault=fault, stream=stream)
    assert asked(cached) > before


async def test_without_redis_it_is_off(tmp_path: Path) -> None:
    async with cached_stack(tmp_path, None) as stack:
        for _ in range(2):
            assert found(await post(stack)) == "bypass"
        assert found(await post(stack, {})) is None
        assert asked(stack) == 3


@pytest.fixture(scope="module")
def own_redis() -> Iterator[RedisServer]:
    with running_redis() as server:
        yield server


async def test_a_redis_that_hangs_or_dies_is_gone_round(
    tmp_path: Path, own_redis: RedisServer
) -> None:
    async with cached_stack(tmp_path, own_redis.url, budget_seconds=0.05) as stack:
        await until_hit(stack)
        own_redis.pause()
        try:
            began = time.monotonic()
            at_once = await asyncio.gather(*(post(stack) for _ in range(20)))
            assert {found(each) for each in at_once} == {"bypass"}
            assert time.monotonic() - began < 2
            for _ in range(5):
                await post(stack)
            began = time.monotonic()
            assert found(await post(stack)) == "bypass"
            assert time.monotonic() - began < 0.1, "its breaker is open"
        finally:
            own_redis.resume()
        await until_hit(stack)
        own_redis.kill()
        assert found(await post(stack)) == "bypass"
        own_redis.start()
        own_redis.wait()


async def test_what_somebody_else_wrote_is_no_answer(cached: Stack, redis_url: str) -> None:
    assert found(await post(cached)) == "miss"
    redis = Redis(redis_url)
    names = await redis.use(lambda client: client.keys("answers:*"))
    (name,) = [each for each in names if len(str(each).rsplit(":", 1)[1].rstrip("'")) == 64]
    await redis.use(lambda client: client.set(name, b"<<<>>>"))
    assert found(await post(cached)) == "miss"
    assert found(await post(cached)) == "hit"
    await redis.aclose()


async def test_an_apps_oldest_answers_make_room(redis_url: str) -> None:
    redis = Redis(redis_url)
    answers = Answers(redis, ttl_seconds=60, max_app_bytes=1000)
    for number in range(5):
        await answers.put("a", str(number), b"x" * 300)
    await answers.put("b", "0", b"y" * 900)
    assert [await answers.get("a", str(number)) is not None for number in range(5)] == [
        *(False, False, True, True, True)
    ]
    await answers.put("a", "4", b"z" * 200)
    assert await answers.get("a", "2") is not None, "in the place of itself it needs no room"
    await answers.put("a", "5", b"x" * 1000)
    assert [await answers.get("a", name) is not None for name in "2345"] == [
        *(False, False, False, True)
    ]
    await answers.put("a", "6", b"x" * 1001)
    assert await answers.get("a", "6") is None
    assert await answers.get("b", "0") == b"y" * 900
    await redis.aclose()


async def test_bytes_of_answers_that_ended_are_free_again(redis_url: str) -> None:
    redis = Redis(redis_url)
    short = Answers(redis, ttl_seconds=0.2, max_app_bytes=1000)
    long = Answers(redis, ttl_seconds=60, max_app_bytes=1000)
    await long.put("a", "stays", b"x" * 500)
    await short.put("a", "goes", b"x" * 500)
    await asyncio.sleep(0.3)
    await long.put("a", "new", b"x" * 500)
    assert await long.get("a", "stays") is not None
    assert await redis.use(lambda client: client.hget("answers:{a}:sizes", "*")) == b"1000"
    await redis.aclose()
