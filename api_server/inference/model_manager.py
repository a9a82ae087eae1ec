"""Loads models when they are needed, keeps count of who uses them, and lets them go again."""

import asyncio
import logging
import time
from collections.abc import AsyncIterator, Callable, Iterable, Sequence
from contextlib import asynccontextmanager
from typing import Any, Self

from api_server.errors import (
    EngineTimeoutError,
    InferenceError,
    ModelBusyError,
    NoSuitableHandlerError,
    ShuttingDownError,
    StackError,
)
from api_server.inference import cancelling, memory
from api_server.inference.catalogue import Catalogue, Model
from api_server.inference.engines import HandlerKind
from api_server.inference.handlers.base import InferenceHandler, LoadedModel
from api_server.inference.handlers.custom import load_handler_class
from api_server.inference.handlers.openai_compatible import OpenAICompatibleHandler
from api_server.inference.in_process.wire import InProcessWire
from api_server.inference.managed_model import ManagedModel, ModelStatus
from api_server.inference.wire import Wire

MARGIN_BYTES = 256 * 1024 * 1024
"""Of memory, left free beside what a model needs: estimates are no promises."""

LOAD_SECONDS = 600.0
UNLOAD_SECONDS = 60.0
BUSY_SECONDS = 30.0
SWEEP_SECONDS = 1.0

# By name, since the libraries that they need are optional and slow to import.
_BUILT_IN: dict[HandlerKind, str] = {
    "transformers": "api_server.inference.handlers.transformers:TransformersHandler",
    "llama-cpp": "api_server.inference.handlers.llama_cpp:LlamaCppHandler",
}

log = logging.getLogger(__name__)


class LLMModelManager:
    """The models of a catalogue and their handlers. Belongs to one event loop.

    `handlers` are asked, in their order, before the built-in ones. Nothing is loaded and nothing
    connects before the first `use`, `load` or `load_configured_models`. `async with manager`, or
    `start` and `aclose`, also unloads what has been idle for long, and everything at the end.
    """

    def __init__(
        self,
        models: Iterable[Model] | Catalogue,
        handlers: Sequence[InferenceHandler] | None = None,
        *,
        free_memory_bytes: Callable[[], int] = memory.free_memory_bytes,
        margin_bytes: int = MARGIN_BYTES,
        load_seconds: float = LOAD_SECONDS,
        busy_seconds: float = BUSY_SECONDS,
    ) -> None:
        self.catalogue = models if isinstance(models, Catalogue) else Catalogue(models)
        self._models = {model.id: ManagedModel(model) for model in self.catalogue}
        for model in self.catalogue:
            if missing := [name for name in model.fallbacks if name not in self.catalogue]:
                fields = {"model": model.id, "fallbacks": missing}
                log.warning("fallbacks that do not exist are passed over", extra=fields)
        self._registered = list(handlers or ())
        self._http = OpenAICompatibleHandler()
        self._by_path: dict[str, InferenceHandler] = {}
        self._wires: dict[str, InProcessWire] = {}
        self._free_memory_bytes = free_memory_bytes
        self._margin_bytes = margin_bytes
        self._reserved_bytes = 0
        self._making_room = asyncio.Lock()
        self._load_seconds = load_seconds
        self._busy_seconds = busy_seconds
        self._sweeper: asyncio.Task[None] | None = None
        self._is_closed = False

    async def __aenter__(self) -> Self:
        await self.start()
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.aclose()

    def register_handler(self, handler: InferenceHandler) -> None:
        """Ask this handler too: after those registered before it, before the built-in ones."""
        self._registered.append(handler)

    def wire(self, model_id: str) -> Wire:
        """The way to a model for OpenAI's bodies. Raises `ModelNotFoundError`."""
        model = self.catalogue.find(model_id)
        # Not asked of models in this process: what their handlers import may fail, when they load.
        handler = None if model.is_in_process or model.handler else self._loader(model)
        if isinstance(handler, OpenAICompatibleHandler):
            return handler.replica_set(model)
        if model.id not in self._wires:
            self._wires[model.id] = InProcessWire(model, self, self._models[model.id].status)
        return self._wires[model.id]

    def handler_for(self, loaded: LoadedModel) -> InferenceHandler:
        """Who serves a model: the first registered handler that can, or else who loaded it.

        Raises `NoSuitableHandlerError`.
        """
        for handler in self._registered:
            if handler.can_handle(loaded):
                return handler
        known = self._models.get(loaded.model_id)
        loader = known.handler if known is not None else None
        loader = loader or self._loader(loaded.config)
        if not loader.can_handle(loaded):
            raise _no_handler(loaded.config)
        return loader

    @asynccontextmanager
    async def use(self, model_id: str) -> AsyncIterator[LoadedModel]:
        """A model, loaded if it is not; it stays loaded for as long as somebody uses it.

        Raises what `load` raises.
        """
        known = self._find(model_id)
        known.enter()
        try:
            yield await self._ready(known)
        finally:
            known.leave()

    async def load(self, model_id: str) -> LoadedModel:
        """Load a model if it is not; concurrent callers share one load.

        Cancelling a caller does not end it. Raises `ModelNotFoundError`,
        `ResourceNotAvailableError` where it does not fit into memory, `ConfigurationError`, or what
        else its handler raises; for a while after such an error the same again, without a try; also
        while a load goes on that took too long.
        """
        return await self._ready(self._find(model_id))

    async def unload(self, model_id: str) -> None:
        """Give back what a model takes. Waits for the requests that use it, a bounded time.

        Raises `ModelNotFoundError`, and `ModelBusyError` where they do not come to an end.
        """
        known = self._find(model_id)
        try:
            async with asyncio.timeout(self._busy_seconds):
                while known.users or known.loading is not None:
                    if known.loading is not None:
                        await asyncio.wait({known.loading})
                    await known.nobody_uses_it.wait()
        except TimeoutError as exc:
            raise ModelBusyError(
                f"'{model_id}' is still in use by {known.users} requests after "
                f"{self._busy_seconds:g} s; try again later."
            ) from exc
        await self._let_go(known)

    async def load_configured_models(self) -> None:
        """Load what is to be there at the start. What fails has the state `failed`; no error."""
        at_start = [known for known in self._models.values() if known.model.load == "at_start"]
        results = await asyncio.gather(
            *(self._ready(known) for known in at_start), return_exceptions=True
        )
        for known, result in zip(at_start, results, strict=True):
            if isinstance(result, StackError):
                fields = {"model": known.model.id, "reason": str(result)}
                log.error("a model could not be loaded at the start", extra=fields)
            elif isinstance(result, BaseException):
                raise result

    async def evict_idle(self) -> list[str]:
        """Unload the models in this process that were idle for longer than they may; their ids."""
        gone: list[str] = []
        for known in self._models.values():
            limit = known.model.idle_seconds
            if limit is not None and known.may_go and known.idle_seconds >= limit:
                await self._let_go(known)
                gone.append(known.model.id)
        return gone

    def states(self) -> list[ModelStatus]:
        """All models of the catalogue, as of now."""
        return [known.status() for known in self._models.values()]

    async def start(self) -> None:
        """Begin to watch for idle models."""
        self._is_closed = False
        if self._sweeper is None:
            self._sweeper = asyncio.create_task(self._sweep())

    async def aclose(self) -> None:
        """Unload everything. What is still in use after a bounded wait is left to the process."""
        self._is_closed = True
        tasks: set[asyncio.Task[Any]] = {
            known.loading for known in self._models.values() if known.loading is not None
        }
        tasks |= {known.straggler for known in self._models.values() if known.straggler is not None}
        if self._sweeper is not None:
            tasks.add(self._sweeper)
            self._sweeper = None
        for task in tasks:
            task.cancel()
        if tasks:
            await asyncio.wait(tasks, timeout=self._busy_seconds)
        for wire in self._wires.values():
            await wire.aclose()
        for known in self._models.values():
            if known.loaded is not None and known.model.is_in_process:
                try:
                    await self.unload(known.model.id)
                except ModelBusyError:
                    log.warning("a model is in use and stays", extra={"model": known.model.id})
        for known in self._models.values():
            if known.loaded is not None and not known.model.is_in_process:
                await self._let_go(known)
        await self._http.aclose()

    def _find(self, model_id: str) -> ManagedModel:
        return self._models[self.catalogue.find(model_id).id]

    def _loader(self, model: Model) -> InferenceHandler:
        """Who loads a model: the handler that its entry names, the first registered one that
        recognises the entry, or the built-in one of its engine.
        """
        if model.handler is not None:
            return self._handler_at(model.handler)
        for handler in self._registered:
            if handler.can_handle(LoadedModel(model, None)):
                return handler
        kind = model.engine.handler
        if kind == "http":
            return self._http
        if kind == "custom":
            raise _no_handler(model)
        return self._handler_at(_BUILT_IN[kind])

    def _handler_at(self, path: str) -> InferenceHandler:
        if path not in self._by_path:
            self._by_path[path] = load_handler_class(path)()
        return self._by_path[path]

    async def _ready(self, known: ManagedModel) -> LoadedModel:
        if known.loaded is not None:
            return known.loaded
        if self._is_closed:
            raise ShuttingDownError("The models are being unloaded; nothing is loaded any more.")
        if known.loading is None:
            is_too_soon = known.straggler is not None or time.monotonic() < known.retry_at
            if known.error is not None and is_too_soon:
                raise known.error.with_traceback(None)
            known.loading = asyncio.create_task(self._load(known))
        loading = known.loading
        # wait() neither cancels the task with us, nor us with the task.
        await asyncio.wait({loading})
        if loading.cancelled():
            raise ShuttingDownError("The models are being unloaded; nothing is loaded any more.")
        result = loading.result()
        if isinstance(result, StackError):
            raise result.with_traceback(None)
        return result

    async def _load(self, known: ManagedModel) -> LoadedModel | StackError:
        """One load, shared by all who wait for it: its error is a value, for nobody may wait."""
        model = known.model
        known.state = "loading"
        known.error = None
        began = time.monotonic()
        is_broken = False
        error: StackError
        try:
            if known.leaving is not None:
                await asyncio.wait({known.leaving})
            known.handler = handler = self._loader(model)
            known.needed_bytes = await asyncio.to_thread(handler.needed_bytes, model)
            await self._reserve(known, known.needed_bytes)
            is_broken = True
            model_object = await self._load_in_time(known, handler, known.needed_bytes)
            loaded = LoadedModel(model, model_object)
            known.became_ready(loaded, time.monotonic() - began)
            return loaded
        except asyncio.CancelledError:
            if cancelling.is_wanted():
                known.state = "unloaded"
                raise
            error = InferenceError(f"The handler of '{model.id}' cancelled its loading itself.")
        except StackError as exc:
            error = exc
        except Exception as exc:  # a defect of a handler, at the top of a task of its own
            log.exception("a handler failed to load a model", extra={"model": model.id})
            # Clients read this; the text of an error may name files, addresses and passwords.
            error = InferenceError(
                f"The handler of '{model.id}' failed to load it ({type(exc).__name__})."
            )
            error.__cause__ = exc.with_traceback(None)  # which would keep half a model alive
        finally:
            known.loading = None
        known.failed(error, is_broken=is_broken)
        return error

    async def _reserve(self, known: ManagedModel, needed_bytes: int) -> None:
        """Keep room in memory for one load; idle models go for it."""
        if needed_bytes:
            async with self._making_room:
                await self._make_room(known, needed_bytes + self._margin_bytes)
                self._reserved_bytes += needed_bytes

    async def _load_in_time(
        self, known: ManagedModel, handler: InferenceHandler, reserved_bytes: int
    ) -> Any:
        """What the handler loads. What is reserved stays so until the load has really ended, in
        time or not: a thread cannot be ended.
        """

        async def load() -> Any:
            return await handler.load(known.model)

        def give_back(_: object) -> None:
            self._reserved_bytes -= reserved_bytes

        loading = asyncio.create_task(load())
        loading.add_done_callback(give_back)
        if await _has_ended(loading, self._load_seconds):
            return loading.result()
        known.straggler = asyncio.create_task(self._see_off(known, handler, loading))
        raise EngineTimeoutError(
            f"Loading '{known.model.id}' took longer than the {self._load_seconds:g} s allowed."
        )

    async def _see_off(
        self, known: ManagedModel, handler: InferenceHandler, loading: asyncio.Task[Any]
    ) -> None:
        """Wait for a load that took too long; what it makes after all is unloaded."""
        try:
            await _has_ended(loading, None)
            if not loading.cancelled() and loading.exception() is None:
                await self._unload(known, handler, LoadedModel(known.model, loading.result()))
        finally:
            known.straggler = None

    async def _make_room(self, known: ManagedModel, needed_bytes: int) -> None:
        idle = sorted(
            (other for other in self._models.values() if other.may_go and other.needed_bytes),
            key=lambda other: -other.idle_seconds,
        )
        gives_back = [(other.model.id, other.needed_bytes or 0) for other in idle]
        free_bytes = self._free_memory_bytes() - self._reserved_bytes
        going = memory.who_makes_room(known.model.id, needed_bytes, free_bytes, gives_back)
        for model_id in going:
            if self._models[model_id].may_go:
                await self._let_go(self._models[model_id])
        if going:  # they may have given back less than thought
            free_bytes = self._free_memory_bytes() - self._reserved_bytes
            memory.who_makes_room(known.model.id, needed_bytes, free_bytes, [])

    async def _let_go(self, known: ManagedModel) -> None:
        """Unload a model that nobody uses; whoever wants it meanwhile waits and loads it anew."""
        if known.loaded is not None and known.handler is not None:
            known.leaving = asyncio.create_task(self._unload(known, known.handler, known.loaded))
            known.loaded = None
            known.state = "unloaded"
        if known.leaving is not None:
            await asyncio.wait({known.leaving})

    async def _unload(
        self, known: ManagedModel, handler: InferenceHandler, loaded: LoadedModel
    ) -> None:
        fields = {"model": loaded.model_id}
        try:
            async with asyncio.timeout(UNLOAD_SECONDS):
                await handler.unload(loaded)
            level = logging.INFO if loaded.config.is_in_process else logging.DEBUG
            log.log(level, "model unloaded", extra=fields)
        except Exception:  # at the top of a task of its own; nobody could do more about it
            log.exception("a handler failed to unload a model", extra=fields)
        finally:
            known.leaving = None

    async def _sweep(self) -> None:
        while True:
            await asyncio.sleep(SWEEP_SECONDS)
            await self.evict_idle()


async def _has_ended(task: asyncio.Task[Any], seconds: float | None) -> bool:
    """Wait for a task, which is cancelled with us; it goes on when the time is over."""
    try:
        done, _ = await asyncio.wait({task}, timeout=seconds)
        return bool(done)
    except asyncio.CancelledError:
        task.cancel()
        await asyncio.wait({task})
        raise


def _no_handler(model: Model) -> NoSuitableHandlerError:
    return NoSuitableHandlerError(
        f"No handler serves '{model.id}' (engine {model.engine.name}). Name one in its entry "
        "(handler: package.module:Class), or register one."
    )
