"""`/metrics` over HTTP, and HEAD where probes and scrapers ask."""

import asyncio
import json
from pathlib import Path
from typing import Any

import httpx
import openai
import pytest

from api_server.errors import is_conversation_path, is_job_path
from api_server.observability.metrics import JOB_ROUTE, OPERATIONS
from tests.fake_engine import running_engine
from tests.integration.conftest import Stack, running_gateway
from tests.samples import samples

MESSAGES: Any = [{"role": "user", "content": "hi"}]


async def scrape(url: str) -> dict[tuple[str, ...], float]:
    async with httpx.AsyncClient() as http:
        return samples((await http.get(f"{url}/metrics")).content)


@pytest.mark.parametrize("path", ["/health", "/health/live", "/health/ready", "/metrics"])
async def test_head_answers_like_get_without_a_body(stack: Stack, path: str) -> None:
    async with httpx.AsyncClient(base_url=stack.url) as http:
        head, get = await http.head(path), await http.get(path)
        assert head.status_code == get.status_code == 200
        assert head.content == b"" != get.content
        assert head.headers["content-type"] == get.headers["content-type"]
        assert (await http.get("/health/live")).status_code == 200  # the connection is still good


async def test_head_of_an_unready_gateway_is_503(stack: Stack) -> None:
    stack.engine.is_healthy = False
    async with httpx.AsyncClient(base_url=stack.url) as http:
        assert (await http.head("/health/ready")).status_code == 503


async def test_content_type_and_validity_without_traffic(stack: Stack) -> None:
    async with httpx.AsyncClient() as http:
        answer = await http.get(f"{stack.url}/metrics")
    assert answer.headers["content-type"] == "text/plain; version=0.0.4; charset=utf-8"
    assert samples(answer.content)["llm_gateway_workers",] == 1


async def test_paths_that_clients_make_up_are_one_series(stack: Stack) -> None:
    async with httpx.AsyncClient(base_url=stack.url) as http:
        for number in range(50):
            await http.get(f"/made-up-{number}")
            await http.get(f"/v1/models/made-up-{number}")
            body = {"model": f"made-up-{number}", "messages": MESSAGES}
            await http.post("/v1/chat/completions", json=body)
        text = (await http.get("/metrics")).content
    assert b"made-up" not in text
    got = samples(text)
    requests = "llm_gateway_requests_total"
    assert got[requests, "error", "other", "404"] == 50
    assert got[requests, "error", "/v1/models/{model_id:path}", "404"] == 50
    assert got[requests, "error", "/v1/chat/completions", "404"] == 50


async def test_answers_streams_errors_and_departed_clients_are_told_apart(stack: Stack) -> None:
    create = stack.client.chat.completions.create
    await create(model="fake", messages=MESSAGES, extra_body={"tokens": 4})
    stream = await create(model="fake", messages=MESSAGES, stream=True, extra_body={"tokens": 6})
    async for _ in stream:
        pass
    with pytest.raises(openai.InternalServerError):
        await create(model="fake", messages=MESSAGES, extra_body={"fault": "error_500"})
    leaving = await create(
        model="fake", messages=MESSAGES, stream=True, extra_body={"tokens": 500, "pause": 0.05}
    )
    await anext(aiter(leaving))
    await leaving.close()
    requests, route = "llm_gateway_requests_total", "/v1/chat/completions"
    async with asyncio.timeout(5):
        while (got := await scrape(stack.url)).get((requests, "client_left", route, "200")) != 1:
            await asyncio.sleep(0.02)
    assert got[requests, "ok", route, "200"] == 2
    assert got[requests, "error", route, "502"] == 1
    assert got["gen_ai_client_token_usage_total", "fake", "output"] == 10
    assert got["gen_ai_client_token_usage_total", "fake", "input"] == 6
    duration = "gen_ai_server_request_duration_seconds_count"
    assert got[duration, "", "chat", "fake"] == 2
    assert got[duration, "engine_error", "chat", "fake"] == 1
    assert got[duration, "client_left", "chat", "fake"] == 1


async def test_what_a_scrape_says_of_itself_is_in_the_next_one(stack: Stack) -> None:
    before = await scrape(stack.url)
    assert ("llm_gateway_requests_total", "ok", "/metrics", "200") not in before
    assert (await scrape(stack.url))["llm_gateway_requests_total", "ok", "/metrics", "200"] == 1


async def test_openapi_document_has_each_operation_once(stack: Stack) -> None:
    async with httpx.AsyncClient() as http:
        document = json.loads((await http.get(f"{stack.url}/openapi.json")).content)
    assert set(document["paths"]["/metrics"]) == {"get"}
    assert set(document["paths"]["/health/ready"]) == {"get"}
    for path in (each for each in OPERATIONS if each.startswith("/v1/")):
        operation = document["paths"][path]["post"]
        assert operation["requestBody"]["required"] is True
        schema = operation["requestBody"]["content"]["application/json"]["schema"]
        named = document["components"]["schemas"][schema["$ref"].rsplit("/", 1)[1]]
        assert ("request_type" if path == JOB_ROUTE else "model") in named["required"]
    for path, operations in document["paths"].items():
        for operation in operations.values():
            assert "422" not in operation["responses"], "ours is a 400"
            error = operation["responses"]["default"]["content"]["application/json"]["schema"]
            envelope = "JobError" if is_job_path(path) else "Error"
            if is_conversation_path(path):
                envelope = "ConversationError"
            assert error == {"$ref": f"#/components/schemas/{envelope}"}


async def test_time_to_the_first_token_is_measured_where_there_is_one(stack: Stack) -> None:
    create = stack.client.chat.completions.create
    for stream in (False, True):
        answer: Any = await create(
            model="fake", messages=MESSAGES, stream=stream, extra_body={"pause": 0.02}
        )
        if stream:
            async for _ in answer:
                pass
    got = await scrape(stack.url)
    for family in ("time_to_first_token", "time_per_output_token"):
        assert got[f"gen_ai_server_{family}_seconds_count", "chat", "fake"] == 2
    assert got["gen_ai_server_time_per_output_token_seconds_sum", "chat", "fake"] >= 2 * 0.02


async def test_a_failed_stream_whose_connection_ends_with_it_is_no_departed_client(
    stack: Stack,
) -> None:
    async with httpx.AsyncClient(base_url=stack.url, headers={"connection": "close"}) as http:
        body = {"model": "fake", "messages": MESSAGES, "stream": True}
        await http.post("/v1/chat/completions", json=body | {"fault": "error_event_in_stream"})
    requests, route = "llm_gateway_requests_total", "/v1/chat/completions"
    got = await scrape(stack.url)
    assert got[requests, "error_in_stream", route, "200"] == 1
    assert (requests, "client_left", route, "200") not in got


async def test_gaps_within_streams_and_folded_answers_are_measured(stack: Stack) -> None:
    create = stack.client.chat.completions.create
    play = {"pause": 0.06, "tokens": 6}
    await create(model="fake", messages=MESSAGES, extra_body=play)
    stream: Any = await create(model="fake", messages=MESSAGES, stream=True, extra_body=play)
    async for _ in stream:
        pass
    got = await scrape(stack.url)
    name = "gen_ai_client_operation_time_per_output_chunk_seconds"
    long_ones = got[f"{name}_count", "chat", "fake"] - got[f"{name}_bucket", "chat", "fake", "0.05"]
    assert long_ones >= 2 * 5
    assert got[f"{name}_sum", "chat", "fake"] >= 2 * 5 * 0.06


async def test_a_look_at_who_waits_and_at_the_process(tmp_path: Path) -> None:
    async with (
        running_engine(slots=1) as engine,
        running_gateway(
            tmp_path,
            engine,
            models=[{"id": "m", "replicas": [f"http://127.0.0.1:{engine.port}"], "slots": 1}],
            admission={"surplus": 0},
            timeouts=dict.fromkeys(("queue_seconds", "first_token_seconds", "total_seconds"), 20),
        ) as (_, url),
        openai.AsyncOpenAI(base_url=f"{url}/v1", api_key="none", max_retries=0) as client,
    ):
        chats = [
            asyncio.create_task(
                client.chat.completions.create(
                    model="m", messages=MESSAGES, extra_body={"tokens": 1000, "pause": 0.02}
                )
            )
            for _ in range(2)
        ]
        async with asyncio.timeout(15):
            while (got := await scrape(url)).get(("llm_gateway_oldest_queued_seconds", "m"), 0) < 1:
                await asyncio.sleep(0.1)
        assert got["llm_gateway_slots", "m"] == got["llm_gateway_slots_busy", "m"] == 1
        assert got["llm_gateway_in_flight", "m", "queued"] == 1
        assert got["llm_gateway_event_loop_lag_seconds_count",] >= 1
        assert got["llm_gateway_resident_memory_bytes",] > 10e6
        assert 0 < got["llm_gateway_disk_free_bytes",] < got["llm_gateway_disk_size_bytes",]
        replica = f"127.0.0.1:{engine.port}"
        assert got["llm_gateway_breaker_state", "m", replica, "closed"] == 1
        for chat in chats:
            chat.cancel()
        await asyncio.wait(chats)


async def test_an_open_breaker_is_told(tmp_path: Path) -> None:
    async with running_engine() as engine:
        dead = f"127.0.0.1:{engine.port}"
    models = [{"id": "m", "replicas": [f"http://{dead}"]}]
    breaker = {"failures": 1, "open_seconds": 30}
    async with running_gateway(tmp_path, engine, models=models, breaker=breaker) as (_, url):
        async with httpx.AsyncClient(base_url=url, timeout=10) as http:
            answer = await http.post(
                "/v1/chat/completions", json={"model": "m", "messages": MESSAGES}
            )
        assert answer.status_code == 503
        async with asyncio.timeout(10):
            while not (await scrape(url)).get(("llm_gateway_breaker_state", "m", dead, "open")):
                await asyncio.sleep(0.1)
        got = await scrape(url)
        assert got["llm_gateway_breaker_state", "m", dead, "closed"] == 0
        assert got["llm_gateway_errors_total", "engine", "m", "chat"] == 1
