"""A run while a leg does it: what it was asked for, and how far it is."""

import time
from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Protocol

import msgspec

from api_server.observability.record import RequestRecord
from api_server.schemas.apps import Caller
from api_server.schemas.assistants import Function, ToolResources
from api_server.services.client import Client
from api_server.services.runs.endings import Ended
from api_server.services.runs.objects import wish_of
from api_server.services.runs.reply import Reply
from api_server.services.runs.tools import Tools
from api_server.services.runs.writing import Pen
from api_server.stores.run_rows import Loaded
from api_server.stores.runs import RunStore

_RESOURCES = msgspec.json.Decoder(ToolResources)


class Chats(Protocol):
    """`services.completions.Completions`."""

    async def chat(self, body: bytes, client: Client, record: RequestRecord) -> None:
        """Answer one chat."""


@dataclass(frozen=True)
class Bench:
    """What every leg works with. `ended` gets the record of each request to an engine, `run_ended`
    each run that ended."""

    store: RunStore
    chats: Chats
    tools: Tools
    ended: Callable[[RequestRecord], None]
    run_ended: Ended
    max_rounds: int


class UnderWay:
    """One run, for as long as a leg has it. `reply` is the answer that is not whole yet; `heard`
    the conversation, where it was loaded with the run.
    """

    def __init__(self, loaded: Loaded, caller: Caller, tools: Tools, pen: Pen) -> None:
        self.pen = pen
        self.caller = caller
        self.wish = wish_of(loaded.run)
        self.here = tools.by_name(self.wish.tools)
        functions = (tool for tool in self.wish.tools if isinstance(tool, Function))
        self.functions = frozenset(tool.function.name for tool in functions)
        self.steps = list(loaded.steps)
        self.actions = list(loaded.actions)
        self.half_messages = loaded.half_messages
        self.heard = list(loaded.heard) if loaded.heard is not None else None
        self.thread_resources = _RESOURCES.decode(loaded.thread_resources or "{}")
        self.reply: Reply | None = None
        self._clock = (loaded.at, time.monotonic())

    @property
    def has_begun(self) -> bool:
        """Whether something was shown of an answer that is not whole yet."""
        return self.reply is not None and self.reply.has_begun

    def forget(self, reply: Reply) -> None:
        """It is whole: its rows are the run's now."""
        if self.reply is reply:
            self.reply = None

    def number_of(self, step_id: str) -> int:
        return next(n for n, step in enumerate(self.steps) if step.id == step_id)

    def now(self) -> datetime:
        """PostgreSQL's clock, and never ahead of it."""
        at, then = self._clock
        return at + timedelta(seconds=time.monotonic() - then)
