"""One answer of a GGUF model, from its prompt to its last token. Runs in a thread."""

import contextlib
import ctypes
import logging
import time
from dataclasses import dataclass
from typing import Any

from api_server.errors import InferenceError
from api_server.inference.catalogue import Model
from api_server.inference.handlers.prompts import (
    answer_tokens,
    no_template,
    plain_messages,
    unreadable_chat,
)
from api_server.inference.handlers.threads import Outlet, Threads
from api_server.inference.handlers.writing import BytesDecoder, Writer
from api_server.inference.schemas import (
    FinishReason,
    GenerationParams,
    InferenceRequest,
    InferenceResponse,
)

GREEDY = 0.0
DEFAULT_TEMPERATURE = 0.8
COLDEST = 1e-4
"""Temperatures below may overflow; the likeliest token has all the probability by then."""

log = logging.getLogger(__name__)


@dataclass(eq=False)
class LlamaCppModel:
    """A loaded model. `start_text` is what it wants before every text, and templates may write
    too; `abort` is what the running generation is ended with.
    """

    llama: Any
    render_chat: Any
    start_text: str
    context_tokens: int
    threads: Threads[InferenceResponse]
    abort: Any = None


def generate(
    loaded: LlamaCppModel, model: Model, request: InferenceRequest, began: float, outlet: Outlet
) -> InferenceResponse:
    """One answer: its text goes to the outlet, the summary is returned. `began` is monotonic."""
    prompt = prompt_tokens(loaded, request)
    params = request.params
    wanted = answer_tokens(len(prompt), params.max_new_tokens, loaded.context_tokens, model)
    decoder = BytesDecoder(lambda token: loaded.llama.detokenize([token]))
    writer = Writer(outlet, decoder, request)
    reason: FinishReason = "length"
    _end_with(loaded, outlet)
    try:
        if _run(loaded, prompt, params, wanted, writer):
            reason = "stop"
    except Exception as exc:  # the edge to a library that raises what it likes
        if not outlet.is_closed:  # else it was we who aborted it
            log.exception("llama.cpp failed", extra={"request_id": request.request_id})
            raise InferenceError(f"llama.cpp failed ({type(exc).__name__}).") from exc
    return writer.finish(reason, prompt_tokens=len(prompt), seconds=time.monotonic() - began)


def _run(
    loaded: LlamaCppModel, prompt: list[int], params: GenerationParams, wanted: int, writer: Writer
) -> bool:
    """Write tokens until the model ends its answer (True) or enough are there (False)."""
    import llama_cpp  # noqa: PLC0415

    vocabulary = llama_cpp.llama_model_get_vocab(loaded.llama.model)
    with contextlib.closing(loaded.llama.generate(prompt, **_sampling(params))) as tokens:
        for token in tokens:
            if llama_cpp.llama_vocab_is_eog(vocabulary, token):
                return True
            writer.write(token)
            if writer.tokens >= wanted or not writer.wants_more:
                break
    return False


def _sampling(params: GenerationParams) -> dict[str, float]:
    """The library's names; what is None stays its own choice, but for a rule that nobody asked
    for (min_p).
    """
    temperature = DEFAULT_TEMPERATURE if params.temperature is None else params.temperature
    is_greedy = params.is_greedy or temperature < COLDEST
    given = {
        "top_k": params.top_k,
        "top_p": params.top_p,
        "repeat_penalty": params.repetition_penalty,
    }
    chosen = {name: value for name, value in given.items() if value is not None}
    return {"temp": GREEDY if is_greedy else temperature, "min_p": 0.0, **chosen}


def prompt_tokens(loaded: LlamaCppModel, request: InferenceRequest) -> list[int]:
    """The prompt as the model reads it, with one start token, whoever has written that."""
    text = request.prompt if request.messages is None else _rendered(loaded, request)
    has_start = bool(loaded.start_text) and str(text).startswith(loaded.start_text)
    tokens: list[int] = loaded.llama.tokenize(
        str(text).encode(), add_bos=not has_start, special=True
    )
    return tokens


def _rendered(loaded: LlamaCppModel, request: InferenceRequest) -> str:
    import jinja2  # noqa: PLC0415

    messages = plain_messages(request)
    if not loaded.render_chat:
        raise no_template()
    try:
        text: str = loaded.render_chat(messages=messages).prompt
    except (jinja2.TemplateError, ValueError, TypeError, KeyError) as exc:
        raise unreadable_chat(exc) from exc
    return text


def _end_with(loaded: LlamaCppModel, outlet: Outlet) -> None:
    """Have the library stop in the middle of its work once the outlet is closed.

    It asks a C function after each piece of work, from threads that must not wait for Python's
    lock: `strlen` does, of a text of ours that is empty until then. Each generation has its own
    text, for the outlet of the one before may be closed late.
    """
    import llama_cpp  # noqa: PLC0415

    flag = ctypes.create_string_buffer(2)
    strlen = ctypes.cast(ctypes.CDLL(None).strlen, llama_cpp.llama_cpp.ggml_abort_callback)
    llama_cpp.llama_set_abort_callback(loaded.llama.ctx, strlen, ctypes.cast(flag, ctypes.c_void_p))
    loaded.abort = (flag, strlen)

    def raise_flag() -> None:
        flag[0] = b"\x01"

    outlet.on_close(raise_flag)
