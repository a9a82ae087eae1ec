"""Lose nothing of a run: take its stream up where it broke off, and resume the run if it failed.

make local                       # in one terminal
pip install openai               # in another
export OPENAI_API_KEY="$(cat .local/development.key)"
python examples/resume_run.py

Kill the engine (kill -9 of the llama-server) while it writes: the run fails, says that it can be
resumed, and is. Kill the gateway (`api_server serve`): the run goes on when somebody takes it up.
"""

import json
import os
import time
import warnings
from collections.abc import Iterator
from typing import Any

import openai
from openai.types.beta.threads import Run

warnings.simplefilter("ignore", DeprecationWarning)  # OpenAI ended its own; this one goes on

QUESTION = "Tell me a story."
LEAVE_AFTER = 8
TRIES = 5

client = openai.OpenAI(
    base_url=os.environ.get("OPENAI_BASE_URL", "http://127.0.0.1:8000/v1"),
    api_key=os.environ.get("OPENAI_API_KEY", "none"),
)


def events(stream: openai.Stream[Any]) -> Iterator[tuple[int, str, Any]]:
    """Number, name and content of each event: the client's own way has no numbers.

    Raises `ConnectionError` where the stream breaks off.
    """
    number, name = 0, ""
    try:
        for line in stream.response.iter_lines():
            field, _, value = line.partition(": ")
            if field == "id":
                number = int(value)
            elif field == "event":
                name = value
            elif field == "data" and name not in {"done", "error"}:
                yield number, name, json.loads(value)
    except Exception as exc:  # whatever library the client reads with
        raise ConnectionError(f"{type(exc).__name__}: {exc}") from exc


def follow(run: Run, after: int) -> openai.Stream[Any]:
    """What a run has told since an event, and what it still will."""
    return client.get(
        f"/threads/{run.thread_id}/runs/{run.id}/events",
        cast_to=object,
        options={"params": {"after": after}},
        stream=True,
        stream_cls=openai.Stream[Any],
    )


def resume(run: Run) -> Run:
    """Try again what failed; what was completed stays."""
    return client.post(f"/threads/{run.thread_id}/runs/{run.id}/resume", cast_to=Run)


def show(name: str, content: Any) -> None:
    """Print text as it comes, and how the run is."""
    if name == "thread.message.delta":
        for part in content["delta"]["content"]:
            print(part["text"]["value"], end="", flush=True)
    elif name.startswith("thread.run.") and "step" not in name:
        print(f"\n[{name}]", flush=True)


def to_the_end(run: Run, last: int) -> Run:
    """Follow a run behind an event, whatever happens, and resume it where it failed."""
    for _ in range(TRIES):
        try:
            with follow(run, last) as stream:
                for last, name, content in events(stream):  # noqa: B007, PLR1704
                    show(name, content)
            run = client.beta.threads.runs.retrieve(run.id, thread_id=run.thread_id)
            if run.status in {"failed", "expired"}:
                print(f"[{run.last_error.message if run.last_error else run.status}]")
                run = resume(run)
            elif run.status not in {"queued", "in_progress", "cancelling"}:
                break
        except (openai.APIConnectionError, ConnectionError) as exc:
            print(f"\n[{exc} Again after event {last}]")
            time.sleep(1)
    return run


assistant = client.beta.assistants.create(
    model=client.models.list().data[0].id,
    temperature=0,  # 1 where nothing is said, as at OpenAI: too much for a tiny model
)
thread = client.beta.threads.create(messages=[{"role": "user", "content": QUESTION}])
with client.post(
    f"/threads/{thread.id}/runs",
    cast_to=object,
    body={"assistant_id": assistant.id, "stream": True},
    stream=True,
    stream_cls=openai.Stream[Any],
) as stream:
    for number, name, content in events(stream):
        show(name, content)
        if number == 1:
            begun = Run.construct(**content)
        if number >= LEAVE_AFTER:
            break
print(f"\n[left after event {number}; the run goes on without us]")
run = to_the_end(begun, number)
text = client.beta.threads.messages.list(thread.id, run_id=run.id).data[0].content[0]
print(f"in the thread now ({run.status}): {text.text.value if text.type == 'text' else text}")
client.beta.threads.delete(thread.id)
client.beta.assistants.delete(assistant.id)
