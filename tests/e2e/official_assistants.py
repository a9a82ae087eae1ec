"""An application of OpenAI's Assistants API: nothing here knows where it runs.

It needs OPENAI_BASE_URL and OPENAI_API_KEY, the package `openai`, and a model that calls
`get_weather` when it is asked for the weather. It goes through every call of the beta API and of
files, uploads and vector stores, and prints what it has seen, a line each; it fails at the first
thing that is not as OpenAI has it.
"""

import hashlib
import io
import json
import time
import warnings
from collections import Counter
from typing import Any

import openai
from openai import AssistantEventHandler, OpenAI
from openai.types.beta import AssistantStreamEvent
from openai.types.beta.threads import Message, Run, Text, TextDelta
from openai.types.beta.threads.runs import RunStep, ToolCall
from typing_extensions import override

warnings.simplefilter("ignore", DeprecationWarning)

WEATHER: Any = {
    "type": "function",
    "function": {
        "name": "get_weather",
        "description": "Get the weather for a city",
        "parameters": {
            "type": "object",
            "properties": {"city": {"type": "string"}},
            "required": ["city"],
        },
    },
}
QUESTION = "What is the weather in Paris?"
SUNNY = json.dumps({"condition": "sunny", "temperature": 21})
TEXTS = {
    "bread.md": "# Bread\n\nBread is baked from flour, water, yeast and salt in a hot oven.",
    "comets.txt": "Comets are made of ice and dust and circle the sun in long orbits.",
    "bees.html": "<html><body><p>Bees live in hives and make honey.</p></body></html>",
}

client = OpenAI()
beta = client.beta
model = client.models.list().data[0].id


class Handler(AssistantEventHandler):
    """Counts what it is told; answers calls of functions by a stream of its own."""

    def __init__(self) -> None:
        super().__init__()
        self.seen: Counter[str] = Counter()
        self.text = ""
        self.calls: dict[str, str] = {}
        self.done: list[Message] = []
        self.steps: list[RunStep] = []

    @override
    def on_event(self, event: AssistantStreamEvent) -> None:
        self.seen[event.event] += 1
        if event.event == "thread.run.requires_action":
            self._answer(event.data)

    @override
    def on_text_created(self, text: Text) -> None:
        self.text = ""

    @override
    def on_text_delta(self, delta: TextDelta, snapshot: Text) -> None:
        self.text += delta.value or ""
        assert snapshot.value == self.text

    @override
    def on_message_done(self, message: Message) -> None:
        self.done.append(message)

    @override
    def on_tool_call_done(self, tool_call: ToolCall) -> None:
        self.calls[tool_call.id] = tool_call.type

    @override
    def on_run_step_done(self, run_step: RunStep) -> None:
        self.steps.append(run_step)

    def _answer(self, run: Run) -> None:
        after = Handler()
        with beta.threads.runs.submit_tool_outputs_stream(
            run_id=run.id,
            thread_id=run.thread_id,
            tool_outputs=outputs_for(run),
            event_handler=after,
        ) as stream:
            stream.until_done()
        self.seen += after.seen
        self.text = after.text
        self.done += after.done
        self.steps += after.steps


def outputs_for(run: Run) -> Any:
    assert run.required_action is not None
    calls = run.required_action.submit_tool_outputs.tool_calls
    assert [call.function.name for call in calls] == ["get_weather"]
    assert json.loads(calls[0].function.arguments) == {"city": "Paris"}
    return [{"tool_call_id": call.id, "output": SUNNY} for call in calls]


def text_of(message: Message) -> str:
    return "".join(part.text.value for part in message.content if part.type == "text")


def assistants() -> None:
    made = [
        beta.assistants.create(model=model, name=f"number {n}", metadata={"n": str(n)})
        for n in range(5)
    ]
    ids = [each.id for each in made]
    assert [each.id for each in beta.assistants.list(limit=2, order="asc")][-5:] == ids
    page = beta.assistants.list(limit=2, after=ids[2])
    assert [each.id for each in page.data] == [ids[1], ids[0]]
    before = beta.assistants.list(limit=2, order="asc", before=ids[3])
    assert [each.id for each in before.data] == ids[1:3]
    changed = beta.assistants.update(ids[0], name="changed", tools=[WEATHER], temperature=0.5)
    assert beta.assistants.retrieve(ids[0]) == changed
    assert (changed.name, changed.metadata, changed.temperature) == ("changed", {"n": "0"}, 0.5)
    for id_ in ids:
        assert beta.assistants.delete(id_).deleted
    print("assistants: made, listed page by page, changed, deleted")


def threads_and_messages() -> None:
    thread = beta.threads.create(metadata={"of": "mine"})
    assert beta.threads.retrieve(thread.id) == thread
    assert beta.threads.update(thread.id, metadata={"of": "yours"}).metadata == {"of": "yours"}
    made = [
        beta.threads.messages.create(thread.id, role="user", content=f"message {n}")
        for n in range(7)
    ]
    texts = [text_of(each) for each in beta.threads.messages.list(thread.id, limit=2, order="asc")]
    assert texts == [f"message {n}" for n in range(7)]
    first = made[0].id
    changed = beta.threads.messages.update(first, thread_id=thread.id, metadata={"k": "v"})
    assert beta.threads.messages.retrieve(first, thread_id=thread.id) == changed
    assert beta.threads.messages.delete(first, thread_id=thread.id).deleted
    assert len(list(beta.threads.messages.list(thread.id, limit=3))) == 6
    assert beta.threads.delete(thread.id).deleted
    print("threads and messages: made, listed page by page, changed, deleted")


def runs() -> None:
    assistant = beta.assistants.create(model=model, temperature=0)
    thread = beta.threads.create(messages=[{"role": "user", "content": "Hello!"}])
    ids: Any = {"thread_id": thread.id, "assistant_id": assistant.id}
    run = beta.threads.runs.create_and_poll(**ids, poll_interval_ms=50)
    assert run.status == "completed", run
    assert run.usage is not None
    assert run.usage.total_tokens == run.usage.prompt_tokens + run.usage.completion_tokens > 0
    (answer,) = beta.threads.messages.list(thread.id, run_id=run.id)
    assert answer.role == "assistant"
    assert text_of(answer)
    (step,) = beta.threads.runs.steps.list(run.id, thread_id=thread.id)
    assert step == beta.threads.runs.steps.retrieve(step.id, thread_id=thread.id, run_id=run.id)
    changed = beta.threads.runs.update(run.id, thread_id=thread.id, metadata={"k": "v"})
    assert beta.threads.runs.retrieve(run.id, thread_id=thread.id) == changed
    second = beta.threads.runs.create_and_poll(
        **ids,
        instructions="You are a helpful assistant.",
        additional_messages=[{"role": "user", "content": "Tell me a story."}],
        truncation_strategy={"type": "last_messages", "last_messages": 1},
        max_completion_tokens=256,
        poll_interval_ms=50,
    )
    assert second.status == "completed"
    assert [each.id for each in beta.threads.runs.list(thread.id, limit=1)] == [second.id, run.id]
    whole = beta.threads.create_and_run_poll(
        assistant_id=assistant.id,
        thread={"messages": [{"role": "user", "content": "My name is Maria."}]},
        poll_interval_ms=50,
    )
    assert whole.status == "completed"
    print("runs: polled, with messages of their own, of a new thread")


def streams() -> None:
    assistant = beta.assistants.create(model=model, temperature=0)
    thread = beta.threads.create(messages=[{"role": "user", "content": "Tell me a story."}])
    handler = Handler()
    with beta.threads.runs.stream(
        thread_id=thread.id, assistant_id=assistant.id, event_handler=handler
    ) as stream:
        stream.until_done()
        assert text_of(stream.get_final_messages()[0]) == handler.text
        assert stream.get_final_run().status == "completed"
    assert [text_of(each) for each in handler.done] == [handler.text]
    for name in ("run.created", "run.queued", "run.in_progress", "run.step.created"):
        assert handler.seen[f"thread.{name}"] == 1, name
    assert handler.seen["thread.message.delta"] > 1
    assert handler.seen["thread.run.completed"] == 1
    again = Handler()
    with beta.threads.create_and_run_stream(
        assistant_id=assistant.id,
        thread={"messages": [{"role": "user", "content": "Tell me a story."}]},
        event_handler=again,
    ) as stream:
        stream.until_done()
    assert again.seen["thread.created"] == 1
    assert again.text == handler.text
    plain = beta.threads.runs.create(thread_id=thread.id, assistant_id=assistant.id, stream=True)
    assert next(reversed([event.event for event in plain])) == "thread.run.completed"
    print("streams: with an event handler, of a new thread, without")


def functions() -> None:
    assistant = beta.assistants.create(model=model, temperature=0, tools=[WEATHER])
    new: Any = {"messages": [{"role": "user", "content": QUESTION}]}
    thread = beta.threads.create(**new)
    handler = Handler()
    with beta.threads.runs.stream(
        thread_id=thread.id, assistant_id=assistant.id, event_handler=handler
    ) as stream:
        stream.until_done()
    assert handler.seen["thread.run.requires_action"] == 1
    assert handler.seen["thread.run.step.delta"] >= 1
    assert handler.seen["thread.run.completed"] == 1
    assert "sunny" in handler.text
    assert {step.type for step in handler.steps} == {"tool_calls", "message_creation"}
    thread = beta.threads.create(**new)
    run = beta.threads.runs.create_and_poll(
        thread_id=thread.id, assistant_id=assistant.id, poll_interval_ms=50
    )
    assert run.status == "requires_action"
    run = beta.threads.runs.submit_tool_outputs_and_poll(
        run_id=run.id, thread_id=thread.id, tool_outputs=outputs_for(run), poll_interval_ms=50
    )
    assert run.status == "completed"
    newest = next(iter(beta.threads.messages.list(thread.id)))
    assert "21" in text_of(newest)
    steps = list(beta.threads.runs.steps.list(run.id, thread_id=thread.id, order="asc", limit=1))
    called = steps[0].step_details
    assert called.type == "tool_calls"
    assert called.tool_calls[0].type == "function"
    assert called.tool_calls[0].function.output == SUNNY
    forced = beta.threads.create_and_run_poll(
        assistant_id=assistant.id,
        thread=new,
        tool_choice={"type": "function", "function": {"name": "get_weather"}},
        poll_interval_ms=50,
    )
    ended = beta.threads.runs.cancel(forced.id, thread_id=forced.thread_id)
    assert beta.threads.runs.poll(ended.id, thread_id=forced.thread_id).status == "cancelled"
    print("functions: answered by a stream, by polling; a run that waits is cancelled")


def files() -> None:
    content = b"".join(b"line %d\n" % n for n in range(1000))
    file = client.files.create(file=("lines.txt", content), purpose="assistants")
    assert (file.bytes, file.filename, file.purpose) == (len(content), "lines.txt", "assistants")
    assert client.files.retrieve(file.id) == file
    assert client.files.wait_for_processing(file.id, poll_interval=0.1).id == file.id
    assert client.files.content(file.id).read() == content
    more = [client.files.create(file=(f"{n}.txt", b"x"), purpose="user_data").id for n in range(3)]
    listed = [each.id for each in client.files.list(purpose="user_data", limit=1, order="asc")]
    assert listed[-3:] == more
    for id_ in (file.id, *more):
        assert client.files.delete(id_).deleted
    print("files: kept, read, listed page by page, deleted")


def uploads() -> None:
    content = b"half of it, " * 1000
    upload = client.uploads.create(
        filename="halves.txt", purpose="assistants", bytes=2 * len(content), mime_type="text/plain"
    )
    parts = [client.uploads.parts.create(upload.id, data=content).id for _ in range(2)]
    done = client.uploads.complete(
        upload.id, part_ids=parts, md5=hashlib.md5(content * 2).hexdigest()
    )
    assert done.status == "completed"
    assert done.file is not None
    assert client.files.content(done.file.id).read() == content * 2
    given_up = client.uploads.create(
        filename="none.txt", purpose="assistants", bytes=10, mime_type="text/plain"
    )
    assert client.uploads.cancel(given_up.id).status == "cancelled"
    whole = client.uploads.upload_file_chunked(
        file=content,
        filename="c.txt",
        bytes=len(content),
        mime_type="text/plain",
        purpose="assistants",
        part_size=5000,
    )
    assert whole.file is not None
    assert client.files.content(whole.file.id).read() == content
    print("uploads: of parts, given up, in chunks")


def vector_stores() -> str:
    """The id of one with all of the texts."""
    store = client.vector_stores.create(name="texts", metadata={"a": "b"})
    first = client.vector_stores.files.upload_and_poll(
        vector_store_id=store.id,
        file=("apples.txt", b"Apples grow on trees in the orchards of the north."),
        attributes={"about": "fruit"},
        poll_interval_ms=100,
    )
    assert first.status == "completed", first
    batch = client.vector_stores.file_batches.upload_and_poll(
        store.id,
        files=[(name, io.BytesIO(text.encode())) for name, text in TEXTS.items()],
        poll_interval_ms=100,
    )
    assert (batch.status, batch.file_counts.completed) == ("completed", 3)
    inside = client.vector_stores.file_batches.list_files(batch.id, vector_store_id=store.id)
    assert len(list(inside)) == 3
    files = client.vector_stores.files
    assert len(list(files.list(store.id, limit=2))) == 4
    assert client.vector_stores.retrieve(store.id).file_counts.completed == 4
    for question, name in (
        ("What is bread made of?", "bread.md"),
        ("Where do comets fly?", "comets.txt"),
        ("Who makes honey?", "bees.html"),
    ):
        found = list(client.vector_stores.search(store.id, query=question, max_num_results=3))
        assert found[0].filename == name, (question, found)
        assert [each.score for each in found] == sorted((e.score for e in found), reverse=True)
    fruit = client.vector_stores.search(
        store.id, query="food", filters={"type": "eq", "key": "about", "value": "fruit"}
    )
    assert [each.filename for each in fruit] == ["apples.txt"]
    files.update(first.id, vector_store_id=store.id, attributes={"about": "trees"})
    assert files.retrieve(first.id, vector_store_id=store.id).attributes == {"about": "trees"}
    (said,) = files.content(first.id, vector_store_id=store.id)
    assert (said.text or "").startswith("Apples grow")
    assert files.delete(first.id, vector_store_id=store.id).deleted
    again = files.create_and_poll(first.id, vector_store_id=store.id, poll_interval_ms=100)
    assert again.status == "completed"
    changed = client.vector_stores.update(
        store.id, name="new", expires_after={"anchor": "last_active_at", "days": 3}
    )
    assert (changed.name, changed.expires_after is not None) == ("new", True)
    other = client.vector_stores.create()
    batch = client.vector_stores.file_batches.create(other.id, file_ids=[first.id])
    batch = client.vector_stores.file_batches.cancel(batch.id, vector_store_id=other.id)
    assert batch.file_counts.in_progress == 0
    assert store.id in [each.id for each in client.vector_stores.list(limit=1)]
    assert client.vector_stores.delete(other.id).deleted
    print("vector stores: files taken in, one by one and in batches; searched, filtered, changed")
    return store.id


def file_search(store_id: str) -> None:
    assistant = beta.assistants.create(
        model=model,
        temperature=0,
        tools=[{"type": "file_search", "file_search": {"max_num_results": 2}}],
        tool_resources={"file_search": {"vector_store_ids": [store_id]}},
    )
    thread = beta.threads.create(messages=[{"role": "user", "content": "What is bread made of?"}])
    handler = Handler()
    with beta.threads.runs.stream(
        thread_id=thread.id,
        assistant_id=assistant.id,
        tool_choice={"type": "file_search"},
        event_handler=handler,
    ) as stream:
        stream.until_done()
        run = stream.get_final_run()
    assert run.status == "completed", run
    assert set(handler.calls.values()) == {"file_search"}
    steps = beta.threads.runs.steps.list(
        run.id,
        thread_id=thread.id,
        order="asc",
        include=["step_details.tool_calls[*].file_search.results[*].content"],
    )
    called = steps.data[0].step_details
    assert called.type == "tool_calls"
    assert called.tool_calls[0].type == "file_search"
    results = called.tool_calls[0].file_search.results or []
    assert 1 <= len(results) <= 2
    assert all(each.content and each.content[0].text for each in results)
    known = {each.file_id for each in results}
    cited = 0
    for message in handler.done:
        for part in message.content:
            assert part.type == "text"
            for mark in part.text.annotations:
                assert mark.type == "file_citation"
                assert mark.file_citation.file_id in known
                assert part.text.value[mark.start_index : mark.end_index] == mark.text
                cited += 1
    print(f"file search: {len(results)} passages were read, {cited} cited")


def attached() -> None:
    """A file of a message comes into a vector store of its thread."""
    file = client.files.create(
        file=("sky.txt", b"The sky over the sea is green."), purpose="assistants"
    )
    thread = beta.threads.create(
        messages=[
            {
                "role": "user",
                "content": "Look.",
                "attachments": [{"file_id": file.id, "tools": [{"type": "file_search"}]}],
            }
        ]
    )
    resources = beta.threads.retrieve(thread.id).tool_resources
    assert resources is not None
    assert resources.file_search is not None
    (store_id,) = resources.file_search.vector_store_ids or []
    until = time.monotonic() + 30
    while client.vector_stores.retrieve(store_id).status != "completed":
        assert time.monotonic() < until, "the attached file is not taken in"
        time.sleep(0.1)
    found = client.vector_stores.search(store_id, query="What colour is the sky?")
    assert [each.file_id for each in found] == [file.id]
    print("attachments: found in the thread's own vector store")


def errors(store_id: str) -> None:
    assistant = beta.assistants.create(model=model, temperature=0, tools=[WEATHER])
    thread = beta.threads.create(messages=[{"role": "user", "content": QUESTION}])
    ids: Any = {"thread_id": thread.id, "assistant_id": assistant.id}
    missing = [
        lambda: beta.assistants.retrieve("asst_none"),
        lambda: beta.threads.retrieve("thread_none"),
        lambda: beta.threads.messages.retrieve("msg_none", thread_id=thread.id),
        lambda: beta.threads.runs.retrieve("run_none", thread_id=thread.id),
        lambda: beta.threads.runs.create(thread_id=thread.id, assistant_id="asst_none"),
        lambda: client.files.retrieve("file-none"),
        lambda: client.uploads.cancel("upload_none"),
        lambda: client.vector_stores.retrieve("vs_none"),
        lambda: client.vector_stores.files.retrieve("file-none", vector_store_id=store_id),
    ]
    for ask in missing:
        refused(openai.NotFoundError, ask)
    run = beta.threads.runs.create_and_poll(**ids, poll_interval_ms=50)
    assert run.status == "requires_action"
    no_purpose: Any = "no-such-purpose"
    wrong = [
        lambda: beta.assistants.create(model=model, tools=[{"type": "code_interpreter"}]),
        lambda: beta.assistants.create(model=model, metadata={str(n): "x" for n in range(17)}),
        lambda: beta.assistants.list(limit=0),
        lambda: beta.assistants.list(after="asst_none"),
        lambda: beta.threads.runs.create(**ids),  # one is active
        lambda: beta.threads.messages.create(thread.id, role="user", content="x"),  # the same
        lambda: beta.threads.runs.submit_tool_outputs(
            run.id, thread_id=thread.id, tool_outputs=[{"tool_call_id": "none", "output": "x"}]
        ),
        lambda: client.files.create(file=("a.txt", b"x"), purpose=no_purpose),
        lambda: client.vector_stores.search(store_id, query=""),
    ]
    for ask in wrong:
        refused(openai.BadRequestError, ask)
    beta.threads.runs.cancel(run.id, thread_id=thread.id)
    refused(openai.BadRequestError, lambda: beta.threads.runs.cancel(run.id, thread_id=thread.id))
    print(f"errors: {len(missing)} times not found, {len(wrong) + 1} times a bad request")


def refused(error: type[openai.APIStatusError], ask: Any) -> None:
    try:
        found = ask()
    except error as exc:
        told: Any = exc.body
        if isinstance(told, dict) and told["message"]:
            return
        raise
    raise AssertionError(f"{error.__name__} was expected, not {found!r}")


assistants()
threads_and_messages()
runs()
streams()
functions()
files()
uploads()
kept = vector_stores()
file_search(kept)
attached()
errors(kept)
assert client.vector_stores.delete(kept).deleted
print("done")
