"""One generation in this process: a task that asks the handler, and whoever reads its pieces."""

import asyncio
import logging
from contextlib import AbstractAsyncContextManager, aclosing
from typing import Protocol

from api_server.errors import (
    ApiError,
    ConfigurationError,
    EngineTimeoutError,
    InferenceError,
    InvalidRequestError,
)
from api_server.inference import cancelling
from api_server.inference.catalogue import Model
from api_server.inference.handlers.base import InferenceHandler, LoadedModel
from api_server.inference.in_process.events import AnswerEvents
from api_server.inference.schemas import InferenceRequest, InferenceResponse
from api_server.inference.stop_sequences import until_stop

ROOM = 64
"""How many pieces may lie unread before the handler has to wait."""

Piece = str | InferenceResponse

log = logging.getLogger(__name__)


class Keeper(Protocol):
    """Who loads models and knows their handlers: what is needed here of the model manager."""

    def use(self, model_id: str) -> AbstractAsyncContextManager[LoadedModel]:
        """The model, loaded if it is not; it stays loaded until the end of the context."""

    def handler_for(self, loaded: LoadedModel) -> InferenceHandler:
        """Who serves it. Raises `NoSuitableHandlerError`."""


class Generation:
    """A running answer. All of the handler's work is in `task`, which `close` ends."""

    def __init__(self, model: Model, keeper: Keeper, request: InferenceRequest) -> None:
        self._model = model
        self._keeper = keeper
        self._request = request
        self._pieces: asyncio.Queue[Piece | ApiError | None] = asyncio.Queue(ROOM)
        self._first: Piece | ApiError | None = None
        self.task = asyncio.create_task(self._run())

    async def begin(self) -> None:
        """Wait until the model is loaded and its first piece is there. Raises `ApiError`."""
        timeouts = self._model.timeouts
        await self._next(timeouts.total_seconds, "was not loaded")
        self._first = await self._next(timeouts.first_token_seconds, "produced no first token")

    async def next_pieces(self) -> list[Piece]:
        """All pieces that are there, one at least; the last of all is a summary.

        Raises `ApiError` where the answer breaks off.
        """
        piece, self._first = self._first, None
        if piece is None:
            piece = await self._next(self._model.timeouts.idle_seconds, "produced nothing more")
        if isinstance(piece, ApiError):
            raise piece
        pieces: list[Piece] = []
        while piece is not None:
            pieces.append(_checked(piece))
            piece = None
            if not self._pieces.empty():
                following = self._pieces.get_nowait()
                if isinstance(following, ApiError):
                    self._first = following  # after what came before it
                else:
                    piece = following
        return pieces

    def close(self) -> None:
        """End the generation, if it has not ended."""
        self.task.cancel()

    async def _next(self, seconds: float, what: str) -> Piece | None:
        """None says that the model is loaded, and comes once."""
        if self._pieces.empty():
            try:
                async with asyncio.timeout(seconds):
                    piece = await self._pieces.get()
            except TimeoutError as exc:
                raise EngineTimeoutError(
                    f"The model '{self._model.id}' {what} within {seconds:g} s."
                ) from exc
        else:
            piece = self._pieces.get_nowait()
        if isinstance(piece, ApiError):
            raise piece
        return piece

    async def _run(self) -> None:
        error: ApiError
        is_loaded = False
        try:
            async with self._keeper.use(self._model.id) as loaded:
                handler = self._keeper.handler_for(loaded)
                await self._pieces.put(None)
                is_loaded = True
                pieces = until_stop(handler.stream_infer(loaded, self._request), self._request)
                async with aclosing(pieces):
                    async for piece in pieces:
                        await self._pieces.put(piece)
            return
        except ApiError as exc:
            error = exc
        except ConfigurationError as exc:
            error = InvalidRequestError(str(exc)) if is_loaded else misconfigured(self._model, exc)
        except asyncio.CancelledError:
            if cancelling.is_wanted():
                raise
            error = InferenceError(
                f"The handler of '{self._model.id}' cancelled the request itself."
            )
        except Exception as exc:  # the edge to handlers that are not ours
            fields = {"request_id": self._request.request_id, "model": self._model.id}
            log.exception("a handler failed", extra=fields)
            error = InferenceError(
                f"The handler of '{self._model.id}' failed ({type(exc).__name__})."
            )
        await self._pieces.put(error)


class AnswerStream:
    """A running answer as OpenAI's events."""

    def __init__(self, answer: Generation, events: AnswerEvents, *, wants_usage: bool) -> None:
        self.first = b""
        self._answer = answer
        self._events = events
        self._wants_usage = wants_usage
        self._is_done = False

    async def begin(self) -> None:
        """Wait for the first piece. Raises `ApiError`."""
        await self._answer.begin()
        self.first = self._events.opening() + await self.next_block()

    async def next_block(self) -> bytes:
        """The next whole events; b"" after `[DONE]`. Raises `ApiError` where it breaks off."""
        if self._is_done:
            return b""
        block = b""
        for piece in await self._answer.next_pieces():
            if isinstance(piece, str):
                block += self._events.text(piece)
            else:
                block += self._events.ending(piece, with_usage=self._wants_usage)
                self._is_done = True
        return block

    def close(self) -> None:
        """End the generation, if it has not ended."""
        self._answer.close()


async def whole_answer(answer: Generation, events: AnswerEvents) -> bytes:
    """Read a generation to its end into the JSON of a plain answer."""
    await answer.begin()
    texts: list[str] = []
    while True:
        for piece in await answer.next_pieces():
            if not isinstance(piece, str):
                return events.whole("".join(texts), piece)
            texts.append(piece)


def misconfigured(model: Model, reason: ConfigurationError) -> InferenceError:
    """What a client hears of a model whose entry is wrong; the operator's log has the rest."""
    log.error("a model cannot be loaded", extra={"model": model.id, "reason": str(reason)})
    return InferenceError(f"The model '{model.id}' is not set up correctly on this server.")


def _checked(piece: Piece) -> Piece:
    if isinstance(piece, InferenceResponse) and piece.error_message is not None:
        raise InferenceError(piece.error_message)
    return piece
