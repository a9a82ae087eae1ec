"""One message in, its answer out: the conversation endpoint, without any client library.

make local                       # in one terminal, then in another
export OPENAI_API_KEY="$(cat .local/development.key)"
python examples/conversation.py
"""

import json
import os
import urllib.request
from typing import Any

URL = os.environ.get("OPENAI_BASE_URL", "http://127.0.0.1:8000/v1").removesuffix("/v1")
KEY = os.environ.get("OPENAI_API_KEY", "none")


def process(content: str, thread_id: str | None = None) -> str:
    """Print the answer while it is written; the thread that it stands in."""
    body: dict[str, Any] = {
        "messages": [{"role": "user", "content": content}],
        "inferenceType": "local",
        "userId": "maria",
        "threadId": thread_id,
    }
    request = urllib.request.Request(
        f"{URL}/api/messages/process",
        json.dumps(body).encode(),
        {"content-type": "application/json", "authorization": f"Bearer {KEY}"},
    )
    with urllib.request.urlopen(request, timeout=60) as answer:
        for line in answer:
            data = line.decode().removeprefix("data: ").strip()
            if data == "[ERROR]":
                raise SystemExit("the run failed; GET /v1/threads/.../runs/... says why")
            if data and data != "[DONE]":
                told = json.loads(data)
                thread_id = told.get("thread_id", thread_id)
                print(told.get("chunk", ""), end="", flush=True)
    print()
    assert thread_id is not None, "the first line names it"
    return thread_id


thread = process("My name is Maria.")
process("What is my name?", thread)
print(f"[all of it is kept: GET /v1/threads/{thread}/messages]")
