"""Serves models behind any engine that speaks OpenAI's HTTP API; `replicas/` has the way there."""

import asyncio
from collections.abc import AsyncGenerator, Mapping

from api_server.errors import ConfigurationError, InferenceError
from api_server.inference import sse
from api_server.inference.catalogue import Model
from api_server.inference.chunks import Json, decode, merge_tool_call
from api_server.inference.engines import RunningUsage
from api_server.inference.handlers.base import InferenceHandler, LoadedModel, refuse_beams
from api_server.inference.handlers.openai_body import body_of, path_of, prefix_of
from api_server.inference.replicas.replica_set import ReplicaSet
from api_server.inference.schemas import (
    FinishReason,
    InferenceRequest,
    InferenceResponse,
    ToolCall,
)
from api_server.inference.stop_sequences import StopScanner
from api_server.inference.wire import Call

_REASONS: Mapping[str, FinishReason] = {
    "length": "length",
    "tool_calls": "tool_calls",
    "function_call": "tool_calls",
}
"""All others (stop, eos, ...) are a stop."""


class OpenAICompatibleHandler(InferenceHandler):
    """Models behind HTTP. Each has one `ReplicaSet`, whoever asks for it."""

    def __init__(self) -> None:
        self._replica_sets: dict[str, tuple[Model, ReplicaSet]] = {}

    def can_handle(self, loaded_model: LoadedModel) -> bool:
        return isinstance(loaded_model.model_object, ReplicaSet)

    def replica_set(self, model: Model) -> ReplicaSet:
        """The way to a model's engines, the same for every caller. Connects to nothing."""
        known, replicas = self._replica_sets.get(model.id, (None, None))
        if replicas is None or known != model:
            replicas = ReplicaSet(model)
            self._replica_sets[model.id] = (model, replicas)
        return replicas

    async def load(self, model: Model) -> ReplicaSet:
        """Begin to watch the replicas; they themselves load the model."""
        if not model.replicas:
            raise ConfigurationError(f"'{model.id}' has no replicas: no URL of an engine.")
        replicas = self.replica_set(model)
        await replicas.start()
        return replicas

    async def unload(self, loaded_model: LoadedModel) -> None:
        """End the watch, drop idle connections."""
        replicas: ReplicaSet = loaded_model.model_object
        await replicas.aclose()

    async def aclose(self) -> None:
        """The same for every model."""
        for _, replicas in self._replica_sets.values():
            await replicas.aclose()

    async def count_tokens(
        self, loaded_model: LoadedModel, request: InferenceRequest
    ) -> int | None:
        """By the engine; of chats only. It does not wait for engines that are away."""
        if request.messages is None:
            return None
        replicas: ReplicaSet = loaded_model.model_object
        body = body_of(request, loaded_model.config)
        return await replicas.count_tokens(Call(path_of(request), body, request.request_id))

    async def stream_infer(
        self, loaded_model: LoadedModel, request: InferenceRequest
    ) -> AsyncGenerator[str | InferenceResponse, None]:
        """Always a stream, whose end ends the generation in the engine.

        Stop sequences are not sent up: an engine's `stop` does not say whether it met one. The
        first one found here closes the stream.
        """
        model = loaded_model.config
        replicas: ReplicaSet = loaded_model.model_object
        refuse_beams(request, f"the engine of '{model.id}'")
        call = Call(
            path_of(request),
            body_of(request, model),
            request.request_id,
            prefix=prefix_of(request) if replicas.wants_prefix else b"",
            deadline=asyncio.get_running_loop().time() + model.timeouts.queue_seconds,
        )
        scanner = StopScanner(request.stop_sequences or ())
        answer = _Answer(model.engine.running_usage)
        stream = await replicas.open_stream(call)
        try:
            block = stream.first
            while block:
                for data in sse.payloads(block):
                    if text := scanner.feed(answer.add(data)):
                        yield text
                    if scanner.matched is not None:
                        break
                block = b"" if scanner.matched is not None else await stream.next_block()
        finally:
            stream.close()
        if rest := scanner.flush():
            yield rest
        yield answer.summary(request, has_met_stop=scanner.matched is not None)


class _Answer:
    """What the events of one answer add up to, beside its text."""

    def __init__(self, running_usage: RunningUsage | None) -> None:
        self._running_usage = running_usage
        self._finish_reason: str | None = None
        self._tool_calls: list[Json] = []
        self._prompt_tokens: int | None = None
        self._generated_tokens: int | None = None
        self._has_begun = False
        self._pieces = 0

    def add(self, data: bytes) -> str:
        """Take in the data of one event; returns its text. Raises `InferenceError` for no event."""
        chunk = decode(data) if data != sse.DONE else None
        if chunk is None:
            return ""
        self._count(chunk)
        text = ""
        for choice in chunk.get("choices") or ():
            self._has_begun = True
            delta = choice.get("delta") or {}
            for piece in delta.get("tool_calls") or ():
                merge_tool_call(self._tool_calls, piece)
            piece_of_text = choice.get("text") or delta.get("content") or ""
            if not isinstance(piece_of_text, str):
                raise InferenceError("The model's engine sent text that is none.")
            text += piece_of_text
            self._finish_reason = choice.get("finish_reason") or self._finish_reason
        self._pieces += bool(text)
        return text

    def summary(self, request: InferenceRequest, *, has_met_stop: bool) -> InferenceResponse:
        """Why it ended, and the counts: the engine's, or else one for each event with text."""
        if not self._has_begun:
            raise InferenceError("The model's engine ended its answer without having begun it.")
        generated = self._generated_tokens
        return InferenceResponse(
            request_id=request.request_id,
            model_id=request.model_id,
            finish_reason="stop_sequence" if has_met_stop else self._reason(),
            tool_calls=[] if has_met_stop else [_tool_call(call) for call in self._tool_calls],
            prompt_tokens=self._prompt_tokens,
            generated_tokens=self._pieces if generated is None else generated,
        )

    def _reason(self) -> FinishReason:
        if self._finish_reason == "content_filter":
            raise InferenceError("The model's engine withheld its answer: a content filter.")
        if self._finish_reason == "abort":
            raise InferenceError("The model's engine aborted its answer.")
        if self._tool_calls:
            return "tool_calls"  # some engines call that a stop
        return _REASONS.get(self._finish_reason or "", "stop")

    def _count(self, chunk: Json) -> None:
        running = self._running_usage
        counts = chunk.get(running.place) if running is not None else None
        if running is not None and isinstance(counts, dict):
            self._prompt_tokens = _sum(counts, running.prompt)
            self._generated_tokens = _sum(counts, running.generated)
        if usage := chunk.get("usage"):
            self._prompt_tokens = usage.get("prompt_tokens")
            self._generated_tokens = usage.get("completion_tokens")


def _sum(counts: Json, names: tuple[str, ...]) -> int | None:
    numbers = [number for name in names if isinstance(number := counts.get(name), int)]
    return sum(numbers) if len(numbers) == len(names) else None


def _tool_call(call: Json) -> ToolCall:
    function = call["function"]
    return ToolCall(id=call["id"], name=function["name"], arguments=function["arguments"])
