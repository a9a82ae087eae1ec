"""What the model manager knows of one model: its state, who uses it, what went wrong."""

import asyncio
import time
from dataclasses import dataclass
from typing import Literal

from api_server.errors import StackError
from api_server.inference.catalogue import Model
from api_server.inference.handlers.base import InferenceHandler, LoadedModel

State = Literal["unloaded", "loading", "ready", "failed"]

FIRST_RETRY_SECONDS = 1.0
LAST_RETRY_SECONDS = 30.0


@dataclass(frozen=True)
class ModelStatus:
    """A model as of now. `last_used_at` is Unix time, `users` are requests that run or wait.

    `needed_bytes` and `load_seconds` are of the last load, None before the first; `error` says why
    the last one failed.
    """

    id: str
    state: State
    engine: str
    location: str
    is_in_process: bool
    users: int
    last_used_at: float | None
    load_seconds: float | None
    needed_bytes: int | None
    error: str | None


class ManagedModel:
    """The mutable side of a model. The manager's; everything else sees a `ModelStatus`."""

    def __init__(self, model: Model) -> None:
        self.model = model
        self.state: State = "unloaded"
        self.handler: InferenceHandler | None = None
        self.loaded: LoadedModel | None = None
        self.loading: asyncio.Task[LoadedModel | StackError] | None = None
        self.straggler: asyncio.Task[None] | None = None  # a load that took too long goes on
        self.leaving: asyncio.Task[None] | None = None
        self.needed_bytes: int | None = None
        self.load_seconds: float | None = None
        self.error: StackError | None = None
        self.retry_at = 0.0
        self.users = 0
        self.nobody_uses_it = asyncio.Event()
        self.nobody_uses_it.set()
        self._failures = 0
        self._last_used: float | None = None
        self._last_used_at: float | None = None

    def enter(self) -> None:
        """One more request wants it; it stays from now on."""
        self.users += 1
        self.nobody_uses_it.clear()

    def leave(self) -> None:
        """A request is done with it."""
        self.users -= 1
        self.touch()
        if not self.users:
            self.nobody_uses_it.set()

    def touch(self) -> None:
        """It was of use just now."""
        self._last_used = time.monotonic()
        self._last_used_at = time.time()

    @property
    def idle_seconds(self) -> float:
        """For how long nobody has used it."""
        return 0.0 if self._last_used is None else time.monotonic() - self._last_used

    @property
    def may_go(self) -> bool:
        """Whether unloading it would disturb nobody, and give memory back."""
        return self.loaded is not None and not self.users and self.model.is_in_process

    def became_ready(self, loaded: LoadedModel, load_seconds: float) -> None:
        self.state = "ready"
        self.loaded = loaded
        self.load_seconds = load_seconds
        self.error = None
        self._failures = 0
        self.touch()

    def failed(self, error: StackError, *, is_broken: bool) -> None:
        """Note why it is not there. A broken model is left alone for a while, doubled each time."""
        self.state = "failed"
        self.error = error
        if is_broken:
            pause = min(LAST_RETRY_SECONDS, FIRST_RETRY_SECONDS * 2.0 ** min(self._failures, 16))
            self._failures += 1
            self.retry_at = time.monotonic() + pause

    def status(self) -> ModelStatus:
        return ModelStatus(
            id=self.model.id,
            state=self.state,
            engine=self.model.engine.name,
            location=self.model.location,
            is_in_process=self.model.is_in_process,
            users=self.users,
            last_used_at=self._last_used_at,
            load_seconds=self.load_seconds,
            needed_bytes=self.needed_bytes,
            error=None if self.error is None else str(self.error),
        )
