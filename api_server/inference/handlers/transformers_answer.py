"""One answer of a Hugging Face model, from its prompt to its last token. Runs in a thread."""

import logging
import threading
import time
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

from api_server.errors import InferenceError, ResourceNotAvailableError
from api_server.inference.catalogue import Model
from api_server.inference.handlers.prompts import (
    answer_tokens,
    no_template,
    plain_messages,
    unreadable_chat,
    without_doubled_start,
)
from api_server.inference.handlers.threads import Outlet, Threads
from api_server.inference.handlers.writing import WindowDecoder, Writer
from api_server.inference.schemas import (
    FinishReason,
    GenerationParams,
    InferenceRequest,
    InferenceResponse,
)

COLDEST = 1e-4
"""Temperatures below overflow 16 bits; the likeliest token has all the probability by then."""

log = logging.getLogger(__name__)


class ReaderLeftError(Exception):
    """Ends a forward pass whose result nobody wants any more."""


@dataclass(eq=False)
class TransformersModel:
    """A loaded model with its tokenizer. `working` knows the outlet of the thread that asks."""

    model: Any
    tokenizer: Any
    context_tokens: int
    threads: Threads[InferenceResponse]
    working: threading.local


def generate(
    loaded: TransformersModel,
    model: Model,
    request: InferenceRequest,
    began: float,
    outlet: Outlet,
) -> InferenceResponse:
    """One answer: its text goes to the outlet, the summary is returned. `began` is monotonic."""
    prompt = prompt_tokens(loaded, request)
    params = request.params
    wanted = answer_tokens(len(prompt), params.max_new_tokens, loaded.context_tokens, model)
    decode = partial(
        loaded.tokenizer.decode, skip_special_tokens=True, clean_up_tokenization_spaces=False
    )
    writer = Writer(outlet, WindowDecoder(decode), request)
    answer = _Answer(writer, _end_tokens(loaded))
    loaded.working.outlet = outlet
    try:
        _run(loaded, prompt, _settings(loaded, params, wanted), answer)
    except ReaderLeftError:
        log.debug("a generation was left", extra={"request_id": request.request_id})
    except Exception as exc:  # the edge to a library that raises what it likes
        if is_out_of_memory(exc):
            raise ResourceNotAvailableError("There is not enough memory for this request.") from exc
        log.exception("transformers failed", extra={"request_id": request.request_id})
        raise InferenceError(f"transformers failed ({type(exc).__name__}).") from exc
    finally:
        loaded.working.outlet = None
    reason: FinishReason = "stop" if answer.has_ended else "length"
    return writer.finish(reason, prompt_tokens=len(prompt), seconds=time.monotonic() - began)


def is_out_of_memory(error: Exception) -> bool:
    """Whether torch could not get the memory that it asked for; on a CPU it says so in words."""
    import torch  # noqa: PLC0415

    is_named = isinstance(error, MemoryError | torch.OutOfMemoryError)
    return is_named or "can't allocate memory" in str(error)


class _Answer:
    """What transformers calls a streamer: takes the prompt first, then each new token."""

    def __init__(self, writer: Writer, ends: frozenset[int]) -> None:
        self.has_ended = False
        self._writer = writer
        self._ends = ends
        self._has_prompt = False

    def put(self, tokens: Any) -> None:
        """Called by transformers, with the prompt and then with each token."""
        if not self._has_prompt:
            self._has_prompt = True
            return
        self.add(tokens.tolist())

    def add(self, tokens: Sequence[int]) -> None:
        """Take in tokens up to the end of the answer."""
        for token in tokens:
            self.has_ended = self.has_ended or token in self._ends
            if not self.has_ended and self._writer.wants_more:
                self._writer.write(token)

    def end(self) -> None:
        """Called by transformers; the end is told in the summary."""

    def is_enough(self, tokens: Any, _scores: Any, **_: Any) -> Any:
        """What transformers calls a stopping criterion: asked after each token."""
        return tokens.new_full((tokens.shape[0],), not self._writer.wants_more, dtype=bool)


def _run(loaded: TransformersModel, prompt: list[int], settings: Any, answer: _Answer) -> None:
    import torch  # noqa: PLC0415
    import transformers  # noqa: PLC0415

    is_beam_search = settings.num_beams > 1
    tokens = torch.tensor([prompt], device=loaded.model.device)
    with torch.inference_mode():
        output = loaded.model.generate(
            input_ids=tokens,
            attention_mask=torch.ones_like(tokens),
            generation_config=settings,
            stopping_criteria=transformers.StoppingCriteriaList([answer.is_enough]),
            **({} if is_beam_search else {"streamer": answer}),
        )
    if is_beam_search:
        answer.add(output[0, len(prompt) :].tolist())


def _settings(loaded: TransformersModel, params: GenerationParams, wanted: int) -> Any:
    """What is None stays the model's own choice, as its generation_config.json has it."""
    import transformers  # noqa: PLC0415

    is_greedy = params.is_greedy or (params.temperature or 1.0) < COLDEST
    given: dict[str, Any] = {
        "max_new_tokens": wanted,
        "do_sample": False if is_greedy else params.do_sample,
        "num_beams": params.num_beams or 1,
        "early_stopping": bool(params.early_stopping),
        "repetition_penalty": params.repetition_penalty,
        "pad_token_id": _pad_token(loaded),
    }
    if is_greedy:
        given |= {"temperature": 1.0, "top_p": 1.0, "top_k": 50}  # the defaults, and not used
    else:
        sampling = {"temperature": params.temperature, "top_p": params.top_p}
        given |= sampling | {"top_k": params.top_k}
    chosen = {name: value for name, value in given.items() if value is not None}
    return transformers.GenerationConfig(**chosen)


def prompt_tokens(loaded: TransformersModel, request: InferenceRequest) -> list[int]:
    """The prompt as the model reads it, with one start token, whoever has written that."""
    tokenizer = loaded.tokenizer
    if request.messages is None:
        tokens = tokenizer(request.prompt, verbose=False)["input_ids"]
    else:  # a template writes the start token itself
        text = _rendered(tokenizer, request)
        tokens = tokenizer(text, add_special_tokens=False, verbose=False)["input_ids"]
    return without_doubled_start(tokens, tokenizer.bos_token_id)


def _rendered(tokenizer: Any, request: InferenceRequest) -> str:
    import jinja2  # noqa: PLC0415

    messages = plain_messages(request)
    if not tokenizer.chat_template:
        raise no_template()
    try:
        text: str = tokenizer.apply_chat_template(
            messages, add_generation_prompt=True, tokenize=False
        )
    except (jinja2.TemplateError, ValueError, TypeError, KeyError) as exc:
        raise unreadable_chat(exc) from exc
    return text


def _end_tokens(loaded: TransformersModel) -> frozenset[int]:
    ends = loaded.model.generation_config.eos_token_id
    if ends is None:
        ends = loaded.tokenizer.eos_token_id
    return frozenset(() if ends is None else [ends] if isinstance(ends, int) else ends)


def _pad_token(loaded: TransformersModel) -> int | None:
    """Without one, transformers takes the end token and says so in the log each time."""
    known = (loaded.model.generation_config.pad_token_id, loaded.tokenizer.pad_token_id)
    found = next((token for token in known if token is not None), None)
    return found if found is not None else min(_end_tokens(loaded), default=None)
