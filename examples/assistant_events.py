"""Watch everything that a run tells, with the official client's event handler.

make local                       # in one terminal
pip install openai               # in another
export OPENAI_API_KEY="$(cat .local/development.key)"
python examples/assistant_events.py
"""

import os
import warnings

from openai import AssistantEventHandler, OpenAI
from openai.types.beta import AssistantStreamEvent
from openai.types.beta.threads import Message, Text, TextDelta
from openai.types.beta.threads.runs import RunStep
from typing_extensions import override

warnings.simplefilter("ignore", DeprecationWarning)  # OpenAI ended its own; this one goes on


class Watcher(AssistantEventHandler):
    """Prints an answer while it is written, and what happens round it."""

    @override
    def on_event(self, event: AssistantStreamEvent) -> None:
        if event.event.startswith("thread.run") and "delta" not in event.event:
            print(f"[{event.event}]")

    @override
    def on_text_delta(self, delta: TextDelta, snapshot: Text) -> None:
        print(delta.value, end="", flush=True)

    @override
    def on_message_done(self, message: Message) -> None:
        print(f"\n[{message.id} is {message.status}]")

    @override
    def on_run_step_done(self, run_step: RunStep) -> None:
        if run_step.usage is not None:
            used = run_step.usage
            print(f"[{used.prompt_tokens} tokens read, {used.completion_tokens} written]")


client = OpenAI(
    base_url=os.environ.get("OPENAI_BASE_URL", "http://127.0.0.1:8000/v1"),
    api_key=os.environ.get("OPENAI_API_KEY", "none"),
)
assistant = client.beta.assistants.create(
    model=client.models.list().data[0].id,
    temperature=0,  # 1 where nothing is said, as at OpenAI: too much for a tiny model
)
thread = client.beta.threads.create()
for question in ("My name is Maria.", "What is my name?"):
    print(question)
    client.beta.threads.messages.create(thread.id, role="user", content=question)
    with client.beta.threads.runs.stream(
        thread_id=thread.id, assistant_id=assistant.id, event_handler=Watcher()
    ) as stream:
        stream.until_done()
client.beta.threads.delete(thread.id)
client.beta.assistants.delete(assistant.id)
