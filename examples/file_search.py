"""Ask this repository's documentation: files in a vector store, searched, and cited by a run.

make local EMBEDDINGS=on         # in one terminal
pip install openai               # in another
export OPENAI_API_KEY="$(cat .local/development.key)"
python examples/file_search.py

Files of yours: python examples/file_search.py notes.md report.pdf (all of docs/ takes a minute on
two cores). The search is real. The answers are not, with the tiny model of `make local`: it
asks the tool for something else, cannot read what it gets, and cites nothing. A larger model puts
marks behind its sentences; they become the annotations that `print_answer` shows.
"""

import os
import sys
import warnings
from pathlib import Path

from openai import OpenAI
from openai.types.beta.threads import Message

warnings.simplefilter("ignore", DeprecationWarning)  # OpenAI ended its own; this one goes on

DOCS = sorted((Path(__file__).resolve().parent.parent / "docs").glob("*.md"))
QUESTIONS = [
    "What happens to rate limits when Redis is down?",
    "How is a model's answer cached?",
    "How do I make and restore a backup?",
]

client = OpenAI(
    base_url=os.environ.get("OPENAI_BASE_URL", "http://127.0.0.1:8000/v1"),
    api_key=os.environ.get("OPENAI_API_KEY", "none"),
)


def print_passages(thread_id: str, run_id: str) -> None:
    """What the tool gave the model: score, file, and how the passage begins."""
    steps = client.beta.threads.runs.steps.list(
        run_id,
        thread_id=thread_id,
        include=["step_details.tool_calls[*].file_search.results[*].content"],
    )
    for step in steps:
        if step.step_details.type == "tool_calls":
            for call in step.step_details.tool_calls:
                if call.type == "file_search":
                    for each in call.file_search.results or []:
                        text = " ".join(part.text or "" for part in each.content or [])
                        print(f"    {each.score:.2f}  {each.file_name}: {text[:60]!r}")


def print_answer(message: Message) -> None:
    """The answer, and the files that it points to."""
    for part in message.content:
        if part.type == "text":
            print(f"  the answer: {part.text.value}")
            for mark in part.text.annotations:
                if mark.type == "file_citation":
                    file = client.files.retrieve(mark.file_citation.file_id)
                    print(f"    {mark.start_index}-{mark.end_index} cites {file.filename}")
            if not part.text.annotations:
                print("    (cites nothing)")


paths = [Path(name) for name in sys.argv[1:]] or DOCS
store = client.vector_stores.create(name="documentation")
batch = client.vector_stores.file_batches.upload_and_poll(
    store.id, files=paths, poll_interval_ms=500
)
print(f"{batch.file_counts.completed} of {len(paths)} files taken in")
assistant = client.beta.assistants.create(
    model=client.models.list().data[0].id,
    temperature=0,
    tools=[{"type": "file_search", "file_search": {"max_num_results": 2}}],
    tool_resources={"file_search": {"vector_store_ids": [store.id]}},
)
for question in QUESTIONS:
    print(question)
    for result in client.vector_stores.search(store.id, query=question, max_num_results=3):
        print(f"  {result.score:.2f}  {result.filename}: {result.content[0].text[:60]!r}")
    thread = client.beta.threads.create(messages=[{"role": "user", "content": question}])
    run = client.beta.threads.runs.create_and_poll(
        thread_id=thread.id,
        assistant_id=assistant.id,
        tool_choice={"type": "file_search"},
        poll_interval_ms=200,
    )
    print(f"  in a run ({run.status}) the model searched for itself, and got:")
    print_passages(thread.id, run.id)
    for message in client.beta.threads.messages.list(thread.id, run_id=run.id):
        print_answer(message)
    client.beta.threads.delete(thread.id)
file_ids = [file.id for file in client.vector_stores.files.list(store.id)]
client.beta.assistants.delete(assistant.id)
client.vector_stores.delete(store.id)
for file_id in file_ids:
    client.files.delete(file_id)
