"""Runs over the real engine, by the official client."""

from typing import Any

import openai
import pytest

pytestmark = pytest.mark.filterwarnings("ignore:.*deprecated:DeprecationWarning")

WEATHER: Any = {
    "type": "function",
    "function": {
        "name": "get_weather",
        "description": "Get the current weather of a city.",
        "parameters": {
            "type": "object",
            "properties": {"city": {"type": "string"}},
            "required": ["city"],
        },
    },
}


def test_a_run_streams_an_answer(client: openai.OpenAI) -> None:
    assistant = client.beta.assistants.create(model="tiny", instructions="Be brief.", temperature=0)
    question = "What is the capital of France?"
    thread = client.beta.threads.create(messages=[{"role": "user", "content": question}])
    with client.beta.threads.runs.stream(
        thread_id=thread.id, assistant_id=assistant.id, max_completion_tokens=256
    ) as stream:
        text = "".join(stream.text_deltas)
    (message,) = [
        each for each in client.beta.threads.messages.list(thread.id) if each.role == "assistant"
    ]
    assert message.content[0].type == "text"
    assert message.content[0].text.value == text != ""
    (run,) = client.beta.threads.runs.list(thread.id)
    assert run.status in ("completed", "incomplete")
    assert run.usage is not None
    assert run.usage.prompt_tokens > 0
    assert run.usage.completion_tokens > 0


def test_a_run_calls_a_function(client: openai.OpenAI) -> None:
    assistant = client.beta.assistants.create(model="tiny", tools=[WEATHER], temperature=0)
    question = "What is the weather in Paris?"
    thread = client.beta.threads.create(messages=[{"role": "user", "content": question}])
    run = client.beta.threads.runs.create_and_poll(
        thread_id=thread.id,
        assistant_id=assistant.id,
        tool_choice={"type": "function", "function": {"name": "get_weather"}},
        poll_interval_ms=100,
    )
    assert run.status == "requires_action", run.last_error
    assert run.required_action is not None
    calls = run.required_action.submit_tool_outputs.tool_calls
    assert {call.function.name for call in calls} == {"get_weather"}
    run = client.beta.threads.runs.submit_tool_outputs_and_poll(
        thread_id=thread.id,
        run_id=run.id,
        tool_outputs=[{"tool_call_id": call.id, "output": "sunny, 20 C"} for call in calls],
        poll_interval_ms=100,
    )
    if run.status == "requires_action":  # a tiny model may want to know it once more
        run = client.beta.threads.runs.cancel(run.id, thread_id=thread.id)
        assert run.status == "cancelled"
    else:
        assert run.status in ("completed", "incomplete"), run.last_error
    steps = client.beta.threads.runs.steps.list(run.id, thread_id=thread.id, order="asc")
    assert steps.data[0].type == "tool_calls"
    assert steps.data[0].status == "completed"
