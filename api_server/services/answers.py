"""Reads an answer that comes in one piece, as far as the gateway needs to know it. Pure."""

from typing import TypeVar

import msgspec

from api_server.errors import InferenceError

T = TypeVar("T")


class _Details(msgspec.Struct):
    cached_tokens: int | None = None


class _Usage(msgspec.Struct):
    prompt_tokens: int | None = None
    completion_tokens: int | None = None
    prompt_tokens_details: _Details | None = None

    @property
    def cached_tokens(self) -> int | None:
        return self.prompt_tokens_details.cached_tokens if self.prompt_tokens_details else None


class _Choice(msgspec.Struct):
    finish_reason: str | None = None


class PlainAnswer(msgspec.Struct):
    """A chat or a text that is passed on as it came."""

    choices: list[_Choice]
    usage: _Usage | None = None


PLAIN_ANSWER = msgspec.json.Decoder(PlainAnswer)


def read_answer(decoder: msgspec.json.Decoder[T], body: bytes) -> T:
    """Raises `InferenceError` for anything that is no answer, such as an error with status 200."""
    try:
        return decoder.decode(body)
    except (msgspec.DecodeError, RecursionError) as exc:
        raise InferenceError("The model's engine sent something that is no answer.") from exc
