"""`file_search` in runs: from a file to the citation that points into the answer."""

import re
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import httpx
import pytest

from tests.fake_engine import answers
from tests.qdrant import QdrantServer, running_vector_server
from tests.s3 import S3Server
from tests.vector_gateway import VectorGateway, play_words, vector_gateway
from tests.wire import assert_valid

TEXTS = {
    "apples.txt": "Apples grow on trees in orchards of the north.",
    "comets.txt": "Comets are made of ice and dust and circle the sun in long orbits.",
}
CALL = {"name": "file_search", "arguments": '{"query": "Comets of ice and dust"}'}
TOOL: Any = {"type": "file_search"}
RESULTS: Any = "step_details.tool_calls[*].file_search.results[*].content"

pytestmark = pytest.mark.filterwarnings("ignore:.*deprecated:DeprecationWarning")


@pytest.fixture
async def gateway(
    tmp_path: Path,
    postgres_url: str,
    s3_server: S3Server,
    qdrant_server: QdrantServer,
    monkeypatch: pytest.MonkeyPatch,
) -> AsyncIterator[VectorGateway]:
    play_words(monkeypatch)
    qdrant_server.ask("DELETE", "/collections/stack-chunks")
    async with vector_gateway(tmp_path, postgres_url, s3_server, qdrant_server) as made:
        answer_with_the_first_mark(made, monkeypatch)
        await order_a_call(made)
        yield made


async def order_a_call(gateway: VectorGateway) -> None:
    """The model calls the tool before it answers."""
    async with httpx.AsyncClient() as http:
        url = f"http://127.0.0.1:{gateway.engine.port}/fault"
        (await http.post(url, json={"calls": [CALL]})).raise_for_status()


def answer_with_the_first_mark(gateway: VectorGateway, monkeypatch: pytest.MonkeyPatch) -> None:
    """The model cites the first passage that it was shown."""
    plain = answers.piece

    def piece(path: str, model: str, text: str, finish_reason: str | None) -> str:
        last = gateway.engine.bodies[-1].get("messages", [{}])[-1]
        marks = re.findall(r"【[^】]*】", str(last.get("content")))
        if text and last.get("role") == "tool" and marks:
            text = f"Ice{marks[0]}."
        return plain(path, model, text, finish_reason)

    monkeypatch.setattr(answers, "piece", piece)


async def test_an_answer_cites_the_file_that_it_rests_on(gateway: VectorGateway) -> None:
    client = gateway.client
    store = await gateway.store_of(TEXTS)
    files = {each.id: each for each in (await client.files.list()).data}
    assistant = await client.beta.assistants.create(
        model="fake",
        tools=[{"type": "file_search", "file_search": {"max_num_results": 1}}],
        tool_resources={"file_search": {"vector_store_ids": [store]}},
    )
    thread = await client.beta.threads.create(messages=[{"role": "user", "content": "Ice?"}])
    run = await client.beta.threads.runs.create_and_poll(
        thread_id=thread.id, assistant_id=assistant.id, poll_interval_ms=50
    )
    assert run.status == "completed", run
    (message, _) = (await client.beta.threads.messages.list(thread.id)).data
    part = message.content[0]
    assert part.type == "text"
    (first, *_) = part.text.annotations
    assert first.type == "file_citation"
    assert part.text.value[first.start_index : first.end_index] == first.text
    assert files[first.file_citation.file_id].filename == "comets.txt"
    path = f"/v1/threads/{thread.id}/runs/{run.id}/steps"
    shown = await gateway.ask("GET", path, params={"include[]": RESULTS, "order": "asc"})
    assert_valid("ListRunStepsResponse", shown.json())
    (call,) = shown.json()["data"][0]["step_details"]["tool_calls"]
    (result,) = call["file_search"]["results"]
    assert result["content"] == [{"type": "text", "text": TEXTS["comets.txt"]}]
    bare = (await gateway.ask("GET", path, params={"order": "asc"})).json()["data"][0]
    (result,) = bare["step_details"]["tool_calls"][0]["file_search"]["results"]
    assert "content" not in result
    assert result["file_name"] == "comets.txt"
    metrics = (await gateway.ask("GET", "/metrics")).text
    duration = "gen_ai_server_request_duration_seconds_count"
    counted = [line for line in metrics.splitlines() if line.startswith(duration)]
    assert not any('operation_name="embeddings"' in line for line in counted), "a run's, not asked"


async def test_a_stream_shows_what_was_found_on_request(gateway: VectorGateway) -> None:
    client = gateway.client
    file_id = await gateway.upload("comets.txt", TEXTS["comets.txt"])
    static = {"max_chunk_size_tokens": 200, "chunk_overlap_tokens": 10}
    wish: Any = {"file_ids": [file_id], "chunking_strategy": {"type": "static", "static": static}}
    assistant = await client.beta.assistants.create(
        model="fake", tools=[TOOL], tool_resources={"file_search": {"vector_stores": [wish]}}
    )
    assert assistant.tool_resources is not None
    assert assistant.tool_resources.file_search is not None
    store = (assistant.tool_resources.file_search.vector_store_ids or [""])[0]
    taken = await client.vector_stores.files.poll(
        file_id, vector_store_id=store, poll_interval_ms=50
    )
    assert taken.to_dict()["chunking_strategy"] == {"type": "static", "static": static}
    thread = await client.beta.threads.create(messages=[{"role": "user", "content": "Ice?"}])
    found = {}
    for include in ([RESULTS], []):
        events = await client.beta.threads.runs.create(
            thread.id, assistant_id=assistant.id, stream=True, include=include
        )
        async for event in events:
            if event.event == "thread.run.step.completed":
                assert_valid("RunStepObject", event.data.to_dict())
                if event.data.type == "tool_calls":
                    details = event.data.to_dict()["step_details"]
                    (call,) = details["tool_calls"]  # type: ignore[index]
                    found[len(include)] = call["file_search"]["results"]
    assert found[1][0]["content"] == [{"type": "text", "text": TEXTS["comets.txt"]}]
    assert found[0] == [{k: v for k, v in found[1][0].items() if k != "content"}]


async def test_an_attachment_comes_into_the_threads_own_store(gateway: VectorGateway) -> None:
    client = gateway.client
    file = await gateway.upload("comets.txt", TEXTS["comets.txt"])
    assistant = await client.beta.assistants.create(model="fake", tools=[TOOL])
    attachment: Any = {"file_id": file, "tools": [TOOL]}
    thread = await client.beta.threads.create(
        messages=[{"role": "user", "content": "Ice?", "attachments": [attachment]}]
    )
    resources = thread.tool_resources
    assert resources is not None
    assert resources.file_search is not None
    (store,) = resources.file_search.vector_store_ids or []
    made = await client.vector_stores.retrieve(store)
    assert made.expires_after is not None
    assert made.expires_after.days == 7
    await client.vector_stores.files.poll(file, vector_store_id=store, poll_interval_ms=50)
    run = await client.beta.threads.runs.create_and_poll(
        thread_id=thread.id, assistant_id=assistant.id, poll_interval_ms=50
    )
    assert run.status == "completed", run
    (message, _) = (await client.beta.threads.messages.list(thread.id)).data
    part = message.content[0]
    assert part.type == "text"
    assert {each.type for each in part.text.annotations} == {"file_citation"}


async def test_without_files_the_model_is_told_so(gateway: VectorGateway) -> None:
    client = gateway.client
    assistant = await client.beta.assistants.create(model="fake", tools=[TOOL])
    thread = await client.beta.threads.create(messages=[{"role": "user", "content": "Ice?"}])
    run = await client.beta.threads.runs.create_and_poll(
        thread_id=thread.id, assistant_id=assistant.id, poll_interval_ms=50
    )
    assert run.status == "completed", run
    assert "no files to search" in gateway.engine.bodies[-1]["messages"][-1]["content"]


async def test_while_qdrant_is_away_the_model_is_told_and_runs_go_on(
    tmp_path: Path, postgres_url: str, s3_server: S3Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    play_words(monkeypatch)
    with running_vector_server(tmp_path / "vectors") as own:
        async with vector_gateway(tmp_path, postgres_url, s3_server, own.address) as gateway:
            await order_a_call(gateway)
            store, client = await gateway.store_of(TEXTS), gateway.client
            assistant = await client.beta.assistants.create(
                model="fake",
                tools=[TOOL],
                tool_resources={"file_search": {"vector_store_ids": [store]}},
            )
            thread = await client.beta.threads.create(
                messages=[{"role": "user", "content": "Ice?"}]
            )
            own.kill()
            run = await client.beta.threads.runs.create_and_poll(
                thread_id=thread.id, assistant_id=assistant.id, poll_interval_ms=50
            )
            assert run.status == "completed", run
            told = gateway.engine.bodies[-1]["messages"][-1]
            assert told["role"] == "tool"
            assert "cannot be searched now" in told["content"]
