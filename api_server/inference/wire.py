"""How the gateway reaches a model: OpenAI's bodies go in, OpenAI's events come out, as bytes.

One protocol for engines behind HTTP (`replicas/replica_set.py`) and models in this process
(`in_process.py`), so that nobody above needs to know which it is.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol

from api_server.errors import ApiError


def _nothing(_: ApiError) -> None:
    return


@dataclass(slots=True)
class Call:
    """One request to a model.

    `path` is OpenAI's (`/v1/chat/completions`), `body` its JSON; `request_id` is free of line
    breaks. `weight` is how many answers it wants at the same time. `prefix` is what the requests of
    one conversation have in common, b"" where nothing is known. While no engine can take it, it
    waits until `deadline` (in the loop's time; 0: not at all). Who cancels it after `gives_up_at`
    does so because the engine took too long, not because nobody waits. `on_retry` hears of each
    failed try. `replica` is where it went in the end.
    """

    path: str
    body: bytes
    request_id: str
    weight: int = 1
    prefix: bytes = b""
    deadline: float = 0.0
    on_retry: Callable[[ApiError], None] = _nothing
    gives_up_at: float = math.inf
    replica: str | None = None


class EventSource(Protocol):
    """A running answer. Whoever has one closes it; closing before the end ends the generation."""

    first: bytes
    """The first whole events, each ended by a blank line."""

    async def next_block(self) -> bytes:
        """The next whole events; b"" after `[DONE]`. Raises `ApiError` where it breaks off."""

    def close(self) -> None:
        """Give everything back; call it once, whatever happened."""


class Wire(Protocol):
    """The way to one model. Cancelling a call ends what an engine does for it."""

    async def ask(self, call: Call) -> bytes:
        """One answer in one piece. Raises `ApiError`."""

    async def open_stream(self, call: Call) -> EventSource:
        """Start a generation and wait for its first event. Raises `ApiError`."""

    async def count_tokens(self, call: Call) -> int | None:
        """How many tokens the prompt in a chat's body has; None where nobody can tell."""

    async def is_ready(self) -> bool:
        """Whether a token could be served now. Never raises, 1 s at most (2 s the first time)."""

    @property
    def problems(self) -> list[str]:
        """What keeps engines from being used that are there, in sentences."""
