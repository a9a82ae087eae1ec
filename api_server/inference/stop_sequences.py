"""Finds where a text has to stop, while it is still being written. No waiting, no engines."""

from collections.abc import AsyncGenerator, Sequence
from contextlib import aclosing

from api_server.errors import InferenceError
from api_server.inference.schemas import FinishReason, InferenceRequest, InferenceResponse


class StopScanner:
    """Looks for stop sequences in a text that comes in pieces, whatever their boundaries.

    The sequence that is whole first wins; of two that end at the same letter, the longer one.
    That is what somebody sees who reads letter by letter, so it does not depend on the pieces.
    """

    def __init__(self, sequences: Sequence[str]) -> None:
        if not all(sequences):
            raise ValueError("a stop sequence must not be empty")
        self.matched: str | None = None
        # The longest first, so that it wins among those that end at the same letter.
        longest_first = sorted(dict.fromkeys(sequences), key=len, reverse=True)
        self._sequences = [(sequence, _borders(sequence)) for sequence in longest_first]
        self._firsts = frozenset(sequence[0] for sequence in longest_first)
        self._fitting = [0] * len(longest_first)
        self._held = ""

    def feed(self, text: str) -> str:
        """What may go out now. The beginning of a possible sequence is held back.

        Once a sequence is found, nothing more comes: neither it nor what stands behind it.
        """
        if self.matched is not None:
            return ""
        if not self._held and self._firsts.isdisjoint(text):
            return text
        read = self._held + text
        for place, letter in enumerate(text, start=len(self._held) + 1):
            if self._read(letter):
                self._held = ""
                return read[: place - len(self.matched or "")]
        held = max(self._fitting)
        self._held = read[len(read) - held :]
        return read[: len(read) - held]

    def flush(self) -> str:
        """The text has ended: what was held back is text after all."""
        held, self._held = self._held, ""
        self._fitting = [0] * len(self._fitting)
        return held

    def _read(self, letter: str) -> bool:
        """Take in one letter; whether a sequence is whole now. Knuth, Morris and Pratt's way."""
        for number, (sequence, borders) in enumerate(self._sequences):
            fitting = self._fitting[number]
            while fitting and sequence[fitting] != letter:
                fitting = borders[fitting - 1]
            fitting += sequence[fitting] == letter
            if fitting == len(sequence):
                self.matched = sequence
                return True
            self._fitting[number] = fitting
        return False


async def until_stop(
    pieces: AsyncGenerator[str | InferenceResponse, None], request: InferenceRequest
) -> AsyncGenerator[str | InferenceResponse, None]:
    """A handler's pieces up to the first stop sequence of the request; then the handler is ended.

    Always ends with a summary. Closes `pieces` in any case. Raises `InferenceError` for a piece
    that is neither text nor a summary.
    """
    scanner = StopScanner(request.stop_sequences or ())
    summary: InferenceResponse | None = None
    async with aclosing(pieces):
        async for piece in pieces:
            if isinstance(piece, InferenceResponse):
                summary = piece
                continue
            if not isinstance(piece, str):  # the edge to handlers that are not ours
                raise InferenceError(no_answer(piece))
            if text := scanner.feed(piece):
                yield text
            if scanner.matched is not None:
                break
    if rest := scanner.flush():
        yield rest
    if scanner.matched is not None:
        yield summary_of(request, "stop_sequence")
    else:
        yield summary or summary_of(request, "stop")


def no_answer(piece: object) -> str:
    """What a handler did that gave something else than it may."""
    return (
        f"The handler gave a {type(piece).__name__} where an answer is text (str) or an "
        "InferenceResponse."
    )


def summary_of(request: InferenceRequest, finish_reason: FinishReason) -> InferenceResponse:
    """What is known of an answer whose handler told nothing: why it ended."""
    return InferenceResponse(
        request_id=request.request_id, model_id=request.model_id, finish_reason=finish_reason
    )


def _borders(sequence: str) -> list[int]:
    """For each beginning of it: how long the longest beginning is that it ends with."""
    borders = [0] * len(sequence)
    fitting = 0
    for place in range(1, len(sequence)):
        while fitting and sequence[place] != sequence[fitting]:
            fitting = borders[fitting - 1]
        fitting += sequence[place] == sequence[fitting]
        borders[place] = fitting
    return borders
