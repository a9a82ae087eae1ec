"""Runs by the official client and its helpers, untouched."""

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import openai
import pytest
from openai import AssistantEventHandler
from openai.types.beta.threads import Text, TextDelta
from typing_extensions import override

from tests.run_homes import CALL, WEATHER, Home, assistants_home

pytestmark = pytest.mark.filterwarnings("ignore:.*deprecated:DeprecationWarning")


@pytest.fixture
async def home(tmp_path: Path, postgres_url: str) -> AsyncIterator[Home]:
    async with assistants_home(tmp_path, postgres_url) as home:
        yield home


class Handler(AssistantEventHandler):
    """Notes what it is told."""

    def __init__(self) -> None:
        super().__init__()
        self.texts: list[str] = []
        self.done: list[str] = []
        self.calls: list[str] = []
        self.outputs: list[Any] = []

    @override
    def on_text_delta(self, delta: TextDelta, snapshot: Text) -> None:
        self.texts.append(delta.value or "")

    @override
    def on_text_done(self, text: Text) -> None:
        self.done.append(text.value)

    @override
    def on_tool_call_done(self, tool_call: Any) -> None:
        self.calls.append(tool_call.function.arguments)


def ask(client: openai.OpenAI, assistant: str) -> None:
    threads = client.beta.threads
    thread = threads.create(messages=[{"role": "user", "content": "hi"}])
    run = threads.runs.create_and_poll(
        thread_id=thread.id, assistant_id=assistant, poll_interval_ms=50
    )
    assert run.status == "completed"
    messages = threads.messages.list(thread.id)
    assert messages.data[0].content[0].text.value == "xxxxx"  # type: ignore[union-attr]
    handler = Handler()
    threads.messages.create(thread.id, role="user", content="again")
    with threads.runs.stream(
        thread_id=thread.id, assistant_id=assistant, event_handler=handler
    ) as stream:
        stream.until_done()
    assert "".join(handler.texts) == "xxxxx"
    assert handler.done == ["xxxxx"]
    (message,) = handler.get_final_messages()
    assert message.status == "completed"
    assert handler.current_run is not None
    assert handler.current_run.status == "completed"


def call(client: openai.OpenAI, assistant: str) -> None:
    threads = client.beta.threads
    thread = threads.create(messages=[{"role": "user", "content": "hi"}])
    handler = Handler()
    with threads.runs.stream(
        thread_id=thread.id, assistant_id=assistant, event_handler=handler
    ) as stream:
        stream.until_done()
    assert handler.calls[-1] == CALL["arguments"]
    run = handler.current_run
    assert run is not None
    assert run.required_action is not None
    (wanted,) = run.required_action.submit_tool_outputs.tool_calls
    with threads.runs.submit_tool_outputs_stream(
        thread_id=thread.id,
        run_id=run.id,
        tool_outputs=[{"tool_call_id": wanted.id, "output": "sunny"}],
    ) as rest:
        assert "".join(rest.text_deltas) == "xxxxx"
    run = threads.runs.retrieve(run.id, thread_id=thread.id)
    assert run.status == "completed"
    run = threads.runs.create_and_poll(
        thread_id=thread.id, assistant_id=assistant, poll_interval_ms=50
    )
    assert run.status == "requires_action"
    assert run.required_action is not None
    (wanted,) = run.required_action.submit_tool_outputs.tool_calls
    run = threads.runs.submit_tool_outputs_and_poll(
        thread_id=thread.id,
        run_id=run.id,
        tool_outputs=[{"tool_call_id": wanted.id, "output": "rain"}],
        poll_interval_ms=50,
    )
    assert run.status == "completed"
    steps = threads.runs.steps.list(run.id, thread_id=thread.id, order="asc")
    assert [step.type for step in steps] == ["tool_calls", "message_creation"]
    run = threads.create_and_run_poll(
        assistant_id=assistant,
        thread={"messages": [{"role": "user", "content": "hi"}]},
        tool_choice="none",
        poll_interval_ms=50,
    )
    assert run.status == "completed"
    run = threads.create_and_run_poll(
        assistant_id=assistant,
        thread={"messages": [{"role": "user", "content": "hi"}]},
        poll_interval_ms=50,
    )
    assert run.status == "requires_action"
    cancelled = threads.runs.cancel(run.id, thread_id=run.thread_id)
    assert cancelled.status == "cancelled"


async def test_it_asks_polls_and_streams(home: Home) -> None:
    await asyncio.to_thread(ask, home.plain, await home.assistant())


async def test_it_answers_calls(home: Home) -> None:
    home.engine.obey(calls=[CALL])
    await asyncio.to_thread(call, home.plain, await home.assistant(tools=[WEATHER]))
