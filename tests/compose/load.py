"""Clients that go on asking while something happens to the stack, and note all that they saw."""

import asyncio
import contextlib
import json
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field

import httpx

CLIENT_SECONDS = 90.0
"""No client waits for longer; the gateway's own time-outs are shorter."""


@dataclass(frozen=True)
class Seen:
    """One request, as its client saw it. status: 0 where no answer came."""

    began: float
    seconds: float
    status: int
    is_whole: bool
    is_stream: bool
    degraded: str = ""
    retry_after: str | None = None
    note: str = ""

    @property
    def is_served(self) -> bool:
        return self.status == 200 and self.is_whole


@dataclass
class Load:
    """What happened so far."""

    seen: list[Seen] = field(default_factory=list)

    def between(self, start: float, end: float) -> list[Seen]:
        """Those that began in this time."""
        return [each for each in self.seen if start <= each.began <= end]

    @property
    def failed(self) -> list[Seen]:
        return [each for each in self.seen if not each.is_served]

    @property
    def degraded(self) -> set[str]:
        """Every value of x-degraded that was seen."""
        return {each.degraded for each in self.seen if each.degraded}


def body(
    content: str, *, stream: bool, max_tokens: int = 12, **fields: object
) -> dict[str, object]:
    """A chat of one question; a temperature that no cache answers for."""
    return {
        "model": "tiny",
        "messages": [{"role": "user", "content": content}],
        "max_tokens": max_tokens,
        "temperature": 0.5,
        "stream": stream,
        **fields,
    }


async def ask(client: httpx.AsyncClient, chat: dict[str, object]) -> Seen:
    """Send one chat and read the answer to its end."""
    began = time.monotonic()
    status, is_whole, note = 0, False, ""
    headers = httpx.Headers()
    try:
        async with client.stream("POST", "/v1/chat/completions", json=chat) as answer:
            status, headers = answer.status_code, answer.headers
            text = (await answer.aread()).decode()
            is_whole = is_complete(text, is_stream=bool(chat["stream"])) if status == 200 else True
            note = "" if status == 200 and is_whole else text[-300:]
    except httpx.HTTPError as exc:
        note = repr(exc)
    return Seen(
        began,
        time.monotonic() - began,
        status,
        is_whole,
        bool(chat["stream"]),
        headers.get("x-degraded", ""),
        headers.get("retry-after"),
        note,
    )


def is_complete(text: str, *, is_stream: bool) -> bool:
    """Whether an answer came to its own end, and not to that of a connection."""
    if not is_stream:
        with contextlib.suppress(json.JSONDecodeError):
            return "choices" in json.loads(text)
        return False
    return text.rstrip().endswith("data: [DONE]") and '"error"' not in text


@asynccontextmanager
async def running_load(url: str, key: str, clients: int = 4) -> AsyncIterator[Load]:
    """Clients that ask one chat after the other, plain and streamed in turn.

    At the end of the block each finishes what it is at.
    """
    load = Load()
    is_over = asyncio.Event()

    async def one(number: int, client: httpx.AsyncClient) -> None:
        turn = 0
        while not is_over.is_set():
            chat = body(f"What is {number} plus {turn % 10}?", stream=(number + turn) % 2 == 0)
            load.seen.append(await ask(client, chat))
            turn += 1
            await asyncio.sleep(0.2)

    headers = {"authorization": f"Bearer {key}"}
    async with httpx.AsyncClient(base_url=url, headers=headers, timeout=CLIENT_SECONDS) as client:
        tasks = [asyncio.create_task(one(number, client)) for number in range(clients)]
        try:
            yield load
        finally:
            is_over.set()
            await asyncio.wait(tasks, timeout=CLIENT_SECONDS + 5)
            for task in tasks:
                task.cancel()
    for task in tasks:
        task.result()
