"""What is kept for an app, through the front, by the official client with its key: files, vector
stores, assistants, threads and runs. `make start` is all that was done for it.
"""

import hashlib
import json
import os
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import httpx
import openai
import pytest
from openai.types.beta.threads import Run
from openai.types.beta.threads.runs import ToolCall

from tests.compose.apps import make_app
from tests.compose.conftest import MOST_FILE_BYTES, Stack
from tests.compose.project import Project
from tests.compose.watching import eventually
from tests.documents import docx, pdf
from tests.run_homes import Told, events_of

pytestmark = [
    pytest.mark.timeout(240),
    pytest.mark.filterwarnings("ignore:.*deprecated:DeprecationWarning"),
]

FINAL = {"completed", "failed", "cancelled", "expired", "incomplete"}
RUN_SECONDS = 60
"""A gateway that was killed holds its runs for `jobs.lease_seconds` yet."""

RUNS = 48

LARGE = 24 * 2**20
QUESTION = "What is the capital of France?"
STORY = "Tell me a story."
TEXTS = {
    "clock.txt": b"The clock of the town hall is wound by hand each Monday morning.",
    "bees.docx": docx("<w:p><w:r><w:t>Bees carry pollen from flower to flower.</w:t></w:r></w:p>"),
    "harbour.pdf": pdf(["Ships enter the harbour only while the lighthouse is lit."]),
}
ASKED = {
    "clock.txt": "Who winds up the clock?",
    "bees.docx": "How do insects help plants?",
    "harbour.pdf": "When may a boat come into port?",
}


@pytest.fixture(scope="module")
def app(stack: Stack) -> dict[str, str]:
    return make_app(stack.project, "kept")


@pytest.fixture
def client(stack: Stack, app: dict[str, str]) -> Iterator[openai.OpenAI]:
    url = f"{stack.url}/v1"
    with openai.OpenAI(base_url=url, api_key=app["key"], max_retries=4, timeout=60) as client:
        yield client


@pytest.fixture
def assistant(client: openai.OpenAI) -> str:
    return client.beta.assistants.create(model="tiny", temperature=0).id


def texts_of(client: openai.OpenAI, thread_id: str) -> list[str]:
    """Of all messages, the oldest first."""
    messages = client.beta.threads.messages.list(thread_id, order="asc").data
    parts = [part for message in messages for part in message.content]
    return [part.text.value for part in parts if part.type == "text"]


def calls_of(client: openai.OpenAI, run: Run) -> list[ToolCall]:
    """What a run has called."""
    steps = client.beta.threads.runs.steps.list(run.id, thread_id=run.thread_id).data
    details = [step.step_details for step in steps]
    return [call for each in details if each.type == "tool_calls" for call in each.tool_calls]


def until_final(client: openai.OpenAI, thread_id: str, run_id: str) -> Run:
    """The run, as it has ended."""

    def run() -> Run:
        return client.beta.threads.runs.retrieve(run_id, thread_id=thread_id)

    eventually(lambda: run().status in FINAL, RUN_SECONDS, "the run has ended")
    return run()


def kill_gateway(project: Project) -> None:
    """And wait until Docker has started it again."""
    container = project.container("api-server")
    before = project.state(container)["Pid"]
    project.crash(container)
    eventually(
        lambda: project.state(container)["Pid"] not in (0, before), 30, "it is started again"
    )
    project.wait_healthy("api-server")


def test_a_file_comes_back_as_it_went(stack: Stack, client: openai.OpenAI) -> None:
    content = os.urandom(LARGE)
    file = client.files.create(file=("large.bin", content), purpose="user_data")
    assert file.bytes == LARGE
    came = client.files.content(file.id).read()
    assert hashlib.sha256(came).digest() == hashlib.sha256(content).digest()
    other = make_app(stack.project, "not-kept")["key"]
    headers = {"authorization": f"Bearer {other}"}
    answer = httpx.get(f"{stack.url}/v1/files/{file.id}/content", headers=headers, timeout=10)
    assert answer.status_code == 404, "it is another app's"
    client.files.delete(file.id)
    with pytest.raises(openai.NotFoundError):
        client.files.content(file.id)


def test_a_file_that_is_too_long_is_refused_through_the_front_too(client: openai.OpenAI) -> None:
    content = bytes(2 * MOST_FILE_BYTES)
    with pytest.raises(openai.APIStatusError) as refused:
        client.files.create(file=("long.bin", content), purpose="user_data")
    assert refused.value.status_code == 413


def test_a_file_that_is_sent_in_parts_is_one(client: openai.OpenAI) -> None:
    parts = [os.urandom(3 * 2**20), os.urandom(2**20)]
    upload = client.uploads.create(
        filename="parts.bin",
        purpose="assistants",
        bytes=sum(map(len, parts)),
        mime_type="application/octet-stream",
    )
    ids = [client.uploads.parts.create(upload.id, data=part).id for part in parts]
    made = client.uploads.complete(upload.id, part_ids=ids).file
    assert made is not None
    assert client.files.content(made.id).read() == b"".join(parts)


def test_a_run_streams_its_answer_into_the_thread(client: openai.OpenAI, assistant: str) -> None:
    thread = client.beta.threads.create(messages=[{"role": "user", "content": QUESTION}])
    with client.beta.threads.runs.stream(thread_id=thread.id, assistant_id=assistant) as stream:
        told = "".join(stream.text_deltas)
        run = stream.get_final_run()
    assert run.status == "completed"
    assert run.usage is not None
    assert run.usage.completion_tokens > 0
    assert "Paris" in told
    assert texts_of(client, thread.id) == [QUESTION, told]


async def test_a_run_whose_gateway_is_killed_is_done_by_the_next_one(
    stack: Stack, client: openai.OpenAI, assistant: str
) -> None:
    """Killed while the engine is at it. The stream breaks off, and is taken up where it did."""
    thread = client.beta.threads.create(messages=[{"role": "user", "content": STORY}]).id
    runs = f"/v1/threads/{thread}/runs"
    told: list[Told] = []
    headers = {"authorization": f"Bearer {client.api_key}"}
    async with httpx.AsyncClient(base_url=stack.url, headers=headers, timeout=60) as http:
        with stack.project.paused(stack.project.container("llama-cpp")):
            wish = {"assistant_id": assistant, "stream": True}
            async with http.stream("POST", runs, json=wish) as answer:
                with pytest.raises(httpx.HTTPError):
                    async for event in events_of(answer):
                        told.append(event)
                        if event.event == "thread.run.in_progress":
                            kill_gateway(stack.project)
        run_id = told[0].data["id"]
        ended = until_final(client, thread, run_id)
        assert ended.status == "completed", ended.last_error
        after = {"after": told[-1].id}
        async with http.stream("GET", f"{runs}/{run_id}/events", params=after) as answer:
            rest = [event async for event in events_of(answer)]
    assert [each.event for each in rest[-2:]] == ["thread.run.completed", "done"]
    question, said = texts_of(client, thread)
    assert question == STORY
    deltas = [each.data["delta"] for each in rest if each.event == "thread.message.delta"]
    assert "".join(part["text"]["value"] for each in deltas for part in each["content"]) == said


def test_runs_that_write_while_their_gateway_is_killed_end_once(
    stack: Stack, client: openai.OpenAI, assistant: str
) -> None:
    def begin(number: int) -> Run:
        said = f"{STORY} {number}"
        return client.beta.threads.create_and_run(
            assistant_id=assistant, thread={"messages": [{"role": "user", "content": said}]}
        )

    with ThreadPoolExecutor(16) as pool:
        begun = list(pool.map(begin, range(RUNS)))
    kill_gateway(stack.project)
    for run in begun:
        assert until_final(client, run.thread_id, run.id).status == "completed"
        assert len(texts_of(client, run.thread_id)) == 2
    steps = client.beta.threads.runs.steps
    listed = [steps.list(run.id, thread_id=run.thread_id).data for run in begun]
    assert "failed" in {step.status for each in listed for step in each}, "some were half written"


def test_files_of_several_formats_are_found_by_what_they_say(client: openai.OpenAI) -> None:
    store = client.vector_stores.create(name="town")
    batch = client.vector_stores.file_batches.upload_and_poll(
        store.id, files=list(TEXTS.items()), poll_interval_ms=200
    )
    assert batch.file_counts.completed == len(TEXTS), batch
    for name, question in ASKED.items():
        found = client.vector_stores.search(store.id, query=question).data
        assert found[0].filename == name
    file = next(each for each in client.files.list() if each.filename == "clock.txt")
    client.files.delete(file.id)
    left = client.vector_stores.search(store.id, query=ASKED["clock.txt"]).data
    assert "clock.txt" not in [each.filename for each in left]


def test_a_run_searches_the_files_of_its_assistant(client: openai.OpenAI) -> None:
    store = client.vector_stores.create(name="one")
    client.vector_stores.files.upload_and_poll(
        vector_store_id=store.id,
        file=("clock.txt", TEXTS["clock.txt"]),
        poll_interval_ms=200,
    )
    assistant = client.beta.assistants.create(
        model="tiny",
        temperature=0,
        tools=[{"type": "file_search", "file_search": {"max_num_results": 1}}],
        tool_resources={"file_search": {"vector_store_ids": [store.id]}},
    )
    thread = client.beta.threads.create(messages=[{"role": "user", "content": ASKED["clock.txt"]}])
    run = client.beta.threads.runs.create_and_poll(
        thread_id=thread.id,
        assistant_id=assistant.id,
        tool_choice={"type": "file_search"},
        poll_interval_ms=200,
    )
    assert run.status == "completed", run.last_error
    calls = calls_of(client, run)
    assert [call.type for call in calls] == ["file_search"]
    assert calls[0].type == "file_search"
    assert [each.file_name for each in calls[0].file_search.results or []] == ["clock.txt"]


def test_a_function_of_the_operator_is_called(client: openai.OpenAI, assistant: str) -> None:
    run = client.beta.threads.create_and_run_poll(
        assistant_id=assistant,
        thread={"messages": [{"role": "user", "content": "What time is it?"}]},
        tools=[{"type": "function", "function": {"name": "hour"}}],
        tool_choice={"type": "function", "function": {"name": "hour"}},
        poll_interval_ms=200,
    )
    assert run.status == "completed", run.last_error
    (call,) = calls_of(client, run)
    assert call.type == "function"
    assert call.function.output == "a quarter past nine"


def test_what_was_at_openai_is_taken_in(
    stack: Stack, client: openai.OpenAI, tmp_path: Path
) -> None:
    """By the command of docs/start.md, from a folder of the host."""
    file = {"id": "file-moved", "object": "file", "bytes": 3, "created_at": 1_700_000_000}
    file |= {"filename": "moved.txt", "purpose": "assistants", "path": "moved.txt"}
    (tmp_path / "moved.txt").write_text("old")
    (tmp_path / "dump.json").write_text(json.dumps({"files": [file]}))
    tmp_path.chmod(0o755)
    options = ["--rm", "--no-deps", "-T", "--volume", f"{tmp_path}:/dump:ro", "api-server"]
    command = ["import-assistants", "/dump/dump.json", "--app", "kept"]
    stack.project.compose("run", *options, *command)
    assert client.files.content("file-moved").read() == b"old"


def test_one_call_is_a_whole_turn_of_a_conversation(
    stack: Stack, client: openai.OpenAI, app: dict[str, str]
) -> None:
    headers = {"authorization": f"Bearer {app['key']}"}
    turn = {"messages": [{"role": "user", "content": QUESTION}], "inferenceType": "local"}
    url = f"{stack.url}/api/messages/process"
    lines = httpx.post(url, json=turn, headers=headers, timeout=60).text.split()
    assert lines[-2:] == ["data:", "[DONE]"]
    thread = json.loads(lines[1])["thread_id"]
    assert len(texts_of(client, thread)) == 2
