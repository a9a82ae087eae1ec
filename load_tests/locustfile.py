"""People who chat, for Locust: `locust -f load_tests/locustfile.py --host http://127.0.0.1:8000`.

The key is OPENAI_API_KEY, the model MODEL_NAME. An answer that breaks off, or has no token, is a
failure. `(first token)` is the time from sending a streamed request to its first token.
"""

import json
import os
import random
import time
from typing import Any

from locust import HttpUser, between, task
from requests.exceptions import RequestException

CHAT = "/v1/chat/completions"
MODEL = os.environ.get("MODEL_NAME") or "llama-3.3-8b-instruct"
KEY = os.environ.get("OPENAI_API_KEY", "")
ONLY_HOST = os.environ.get("ONLY_HOST", "")
"""Whoever reaches the page can name another host there, to which the key would go."""
MAX_TOKENS = 64
CONNECT_SECONDS = 5
READ_SECONDS = 120
"""Between two pieces of an answer; the first may wait in the gateway's queue."""

QUESTIONS = (
    "Hello! Who are you?",
    "What is the capital of France?",
    "What is the opposite of hot?",
    "Name three colours of a rainbow.",
    "Explain in two sentences what a cache is.",
)


class Chatter(HttpUser):
    """Asks, reads, thinks for a moment, and asks again. Three of four answers are streamed."""

    wait_time = between(0.5, 2.0)

    def on_start(self) -> None:
        """Each request carries the key."""
        if ONLY_HOST:
            self.client.base_url = ONLY_HOST
        if KEY:
            self.client.headers["authorization"] = f"Bearer {KEY}"

    @task(3)
    def streamed(self) -> None:
        """Reads the events as they come."""
        began = time.perf_counter()
        with self._ask("streamed", stream=True) as answer:
            if answer.status_code != 200:
                answer.failure(_refusal(answer))
                return
            first_token_ms, fault = _read(answer, began)
            # Else Locust would count the time until the head of the answer.
            answer.request_meta["response_time"] = 1000 * (time.perf_counter() - began)
            if fault is not None:
                answer.failure(fault)
                return
            answer.success()
        self.environment.events.request.fire(
            request_type="POST",
            name=f"{CHAT} (first token)",
            response_time=first_token_ms,
            response_length=0,
            exception=None,
            context={},
        )

    @task(1)
    def plain(self) -> None:
        """Waits for the whole answer."""
        with self._ask("plain", stream=False) as answer:
            if answer.status_code != 200:
                answer.failure(_refusal(answer))
            elif not _tokens(answer):
                answer.failure("no answer, or one without a token")
            else:
                answer.success()

    def _ask(self, kind: str, *, stream: bool) -> Any:
        body = {
            "model": MODEL,
            "messages": [{"role": "user", "content": random.choice(QUESTIONS)}],  # noqa: S311
            "max_tokens": MAX_TOKENS,
            "stream": stream,
        }
        return self.client.post(
            CHAT,
            json=body,
            name=f"{CHAT} ({kind})",
            stream=stream,
            catch_response=True,
            timeout=(CONNECT_SECONDS, READ_SECONDS),
        )


def _tokens(answer: Any) -> int:
    """Of a plain answer; 0 for what is none."""
    try:
        return int(answer.json()["usage"]["completion_tokens"])
    except (ValueError, KeyError, TypeError):
        return 0


def _read(answer: Any, began: float) -> tuple[float | None, str | None]:
    """Milliseconds until the first token, and what is wrong with the stream."""
    first_token_ms = None
    try:
        for line in answer.iter_lines():
            if line == b"data: [DONE]":
                return first_token_ms, None if first_token_ms is not None else "no token"
            event = json.loads(line[6:]) if line.startswith(b"data: ") else {}
            if "error" in event:
                return first_token_ms, f"an error in the stream: {event['error'].get('code')}"
            if first_token_ms is None and _has_text(event):
                first_token_ms = 1000 * (time.perf_counter() - began)
    except (RequestException, ValueError) as exc:
        return first_token_ms, f"the stream broke off: {type(exc).__name__}"
    return first_token_ms, "the stream broke off: no [DONE]"


def _has_text(event: Any) -> bool:
    """Whether an event carries a piece of the answer."""
    return any((choice.get("delta") or {}).get("content") for choice in event.get("choices", ()))


def _refusal(answer: Any) -> str:
    """Why there is no answer: what the connection met, or the status and code of an error."""
    if not answer.status_code:
        return type(answer.error).__name__
    try:
        code = answer.json()["error"]["code"]
    except (ValueError, KeyError, TypeError):
        code = "no error of the stack"
    return f"{answer.status_code} {code}"
