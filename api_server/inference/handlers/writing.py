"""From tokens to pieces of text that may go out: whole characters, no stop sequence. No waiting."""

import codecs
from collections.abc import Callable, Sequence
from typing import Protocol

from api_server.inference.handlers.threads import Outlet
from api_server.inference.schemas import FinishReason, InferenceRequest, InferenceResponse
from api_server.inference.stop_sequences import StopScanner

UNFINISHED = "\ufffd"
LONGEST_CHARACTER = 4
"""In bytes of UTF-8, and so in tokens."""


class Decoder(Protocol):
    """Makes text of tokens as they come."""

    def feed(self, token: int) -> str:
        """The text that is certain now; "" in the middle of a character."""

    def rest(self) -> str:
        """What was held back; the tokens have ended."""


class BytesDecoder:
    """For tokens that are bytes, of which several may make one character."""

    def __init__(self, bytes_of: Callable[[int], bytes]) -> None:
        self._bytes_of = bytes_of
        self._characters = codecs.getincrementaldecoder("utf-8")("replace")

    def feed(self, token: int) -> str:
        return self._characters.decode(self._bytes_of(token))

    def rest(self) -> str:
        return self._characters.decode(b"", final=True)


class WindowDecoder:
    """For tokenizers that only decode lists: compares the text of the last few tokens.

    A few tokens before the new one are decoded with it, since some tokenizers drop the space in
    front of a text's first word.
    """

    def __init__(self, decode: Callable[[Sequence[int]], str]) -> None:
        self._decode = decode
        self._tokens: list[int] = []
        self._known = 0
        """How many of the tokens have become text."""

    def feed(self, token: int) -> str:
        self._tokens.append(token)
        before, now = self._texts()
        is_waiting = len(self._tokens) - self._known < LONGEST_CHARACTER
        if now.endswith(UNFINISHED) and is_waiting:
            return ""
        self._tokens = self._tokens[self._known :]
        self._known = len(self._tokens)
        return now[len(before) :]

    def rest(self) -> str:
        before, now = self._texts()
        self._tokens, self._known = [], 0
        return now[len(before) :]

    def _texts(self) -> tuple[str, str]:
        return self._decode(self._tokens[: self._known]), self._decode(self._tokens)


class Writer:
    """Where a thread writes the tokens of one answer; it knows when enough is written."""

    def __init__(self, outlet: Outlet, decoder: Decoder, request: InferenceRequest) -> None:
        self.tokens = 0
        self._outlet = outlet
        self._decoder = decoder
        self._request = request
        self._scanner = StopScanner(request.stop_sequences or ())

    @property
    def wants_more(self) -> bool:
        """Whether another token is of use: somebody reads, and no stop sequence was found."""
        return not self._outlet.is_closed and self._scanner.matched is None

    def write(self, token: int) -> None:
        """Take in one token of the text."""
        self.tokens += 1
        self._put(self._decoder.feed(token))

    def finish(
        self, reason: FinishReason, *, prompt_tokens: int, seconds: float
    ) -> InferenceResponse:
        """All tokens have come, for this reason unless a stop sequence was found: the summary."""
        self._put(self._decoder.rest())
        self._outlet.put(self._scanner.flush())
        return InferenceResponse(
            request_id=self._request.request_id,
            model_id=self._request.model_id,
            finish_reason=reason if self._scanner.matched is None else "stop_sequence",
            prompt_tokens=prompt_tokens,
            generated_tokens=self.tokens,
            inference_time_ms=seconds * 1000,
        )

    def _put(self, text: str) -> None:
        if text:
            self._outlet.put(self._scanner.feed(text))
