"""Serves GGUF models in this process, with llama-cpp-python. Needs the extra `llama-cpp`.

llama_cpp is imported when the first model is loaded.
"""

import asyncio
import contextlib
import logging
import os
import time
from collections.abc import AsyncGenerator, Iterator
from functools import partial
from typing import Any

from api_server.errors import ConfigurationError, SetupError
from api_server.inference.catalogue import Model
from api_server.inference.handlers.base import InferenceHandler, LoadedModel, refuse_beams
from api_server.inference.handlers.defaults import completed
from api_server.inference.handlers.llama_cpp_answer import LlamaCppModel, generate, prompt_tokens
from api_server.inference.handlers.options import missing_extra, read_options
from api_server.inference.handlers.threads import Threads
from api_server.inference.in_process.gguf import GgufHead, read_head
from api_server.inference.schemas import InferenceRequest, InferenceResponse

OPTIONS = {"gpu_layers": 0, "threads": 0, "batch_tokens": 512}
"""`gpu_layers` go to the GPU (-1: all); `threads` 0 is one less than the cores; a prompt is read
`batch_tokens` at a time.
"""

BUFFER_BYTES = 300 * 1024 * 1024
"""An allowance for the library's buffers, beside weights and cache; on the careful side."""

UNLOAD_SECONDS = 60.0

log = logging.getLogger(__name__)


class LlamaCppHandler(InferenceHandler):
    """GGUF models, one request at a time: the library is not made for several threads.

    `repetition_penalty` counts the last 64 generated tokens. There is no beam search. A generation
    whose reader leaves ends within milliseconds, also while it reads a long prompt; on a GPU, after
    `batch_tokens` of it. A prompt is read from where it differs from the one before.
    """

    def can_handle(self, loaded_model: LoadedModel) -> bool:
        return isinstance(loaded_model.model_object, LlamaCppModel)

    def needed_bytes(self, model: Model) -> int:
        """Weights, a cache in 16 bits for one context, and buffers."""
        head = _head(model)
        return head.file_bytes + head.kv_bytes_per_token * _context(model, head) + BUFFER_BYTES

    async def load(self, model: Model) -> LlamaCppModel:
        return await asyncio.to_thread(_load, model)

    async def unload(self, loaded_model: LoadedModel) -> None:
        """Wait for a request that was left and has not ended yet, then free the weights."""
        loaded: LlamaCppModel = loaded_model.model_object
        if await loaded.threads.aclose(UNLOAD_SECONDS):
            await asyncio.to_thread(loaded.llama.close)
        else:  # freeing what a thread still works with would end the process
            log.warning("a generation does not end", extra={"model": loaded_model.model_id})

    async def count_tokens(self, loaded_model: LoadedModel, request: InferenceRequest) -> int:
        """How many tokens the prompt of a request has."""
        tokens = await asyncio.to_thread(prompt_tokens, loaded_model.model_object, request)
        return len(tokens)

    async def stream_infer(
        self, loaded_model: LoadedModel, request: InferenceRequest
    ) -> AsyncGenerator[str | InferenceResponse, None]:
        request = completed(request, loaded_model.config)
        refuse_beams(request, "llama.cpp")
        loaded: LlamaCppModel = loaded_model.model_object
        work = partial(generate, loaded, loaded_model.config, request, time.monotonic())
        pieces = loaded.threads.stream(work)
        try:
            async for piece in pieces:
                yield piece
        finally:
            await pieces.aclose()


def _head(model: Model) -> GgufHead:
    where = f"models.{model.id}.path"
    if model.path is None:
        raise ConfigurationError(f"{where} is missing; it must name a model file in GGUF format.")
    try:
        return read_head(model.path, where)
    except SetupError as exc:
        raise ConfigurationError(str(exc)) from exc


def _context(model: Model, head: GgufHead) -> int:
    return min(model.context_tokens or head.context_tokens, head.context_tokens)


def _load(model: Model) -> LlamaCppModel:
    """In a thread: takes seconds."""
    head = _head(model)
    try:
        import llama_cpp  # noqa: PLC0415 - an extra
        from llama_cpp import llama_chat_format  # noqa: PLC0415
    except (ImportError, OSError, RuntimeError) as exc:  # its own library may not fit the machine
        raise missing_extra(model.id, "llama-cpp", exc) from exc
    _keep_the_output(llama_cpp)
    options = read_options(model, OPTIONS)
    context_tokens = _context(model, head)
    threads = int(options["threads"]) or max(1, len(os.sched_getaffinity(0)) - 1)
    try:
        llama = llama_cpp.Llama(
            str(head.path),
            n_ctx=context_tokens,
            n_batch=int(options["batch_tokens"]),
            n_gpu_layers=int(options["gpu_layers"]),
            n_threads=threads,
            n_threads_batch=threads,
            verbose=False,
        )
    except (ValueError, RuntimeError, AssertionError) as exc:
        raise ConfigurationError(
            f"models.{model.id}.path: llama.cpp cannot load {head.path} ({exc})."
        ) from exc
    template = llama.metadata.get("tokenizer.chat_template")
    start_text = _text_of(llama, llama.token_bos())
    render_chat = template and llama_chat_format.Jinja2ChatFormatter(
        template=template,
        bos_token=start_text,
        eos_token=_text_of(llama, llama.token_eos()),
    )
    worker: Threads[InferenceResponse] = Threads(1, f"llama-cpp-{model.id}")
    return LlamaCppModel(llama, render_chat, start_text, context_tokens, worker)


@contextlib.contextmanager
def _untouched(disable: bool = True) -> Iterator[None]:  # noqa: ARG001 - its shape
    yield


def _into_our_log(text: str, **_: object) -> None:
    if said := text.strip():
        log.info("llama.cpp says", extra={"said": said[:500]})


def _keep_the_output(llama_cpp: Any) -> None:
    """Without `verbose` the library points this process's stdout and stderr at /dev/null while it
    loads: log lines of all others are lost, and two loads at once leave it there for good. Its own
    log level, which `verbose` sets too, is enough to keep it quiet; errors, and what it says when a
    generation is aborted, go to our log.
    """
    for module in (llama_cpp.llama, llama_cpp._internals):  # noqa: SLF001 - it has no other door
        module.suppress_stdout_stderr = _untouched
    llama_cpp._logger.print = _into_our_log  # noqa: SLF001


def _text_of(llama: Any, token: int) -> str:
    if token < 0:
        return ""
    text: bytes = llama.detokenize([token], special=True)
    return text.decode("utf-8", "replace")
