"""Cuts a text into chunks for a vector store. Pure; the time is linear in the text.

Lengths are tokens by estimate (`inference.estimating.estimate_tokens`), rather too many than too
few. A chunk ends where a paragraph, a line, a sentence or a word does, as far as one does in its
last quarter, and begins at such a place as well.
"""

import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass

import msgspec

from api_server.errors import InvalidRequestError
from api_server.inference.estimating import estimate_tokens

AUTO_TOKENS = 800
AUTO_OVERLAP_TOKENS = 400
LEAST_TOKENS, MOST_TOKENS = 100, 4096
CHARACTERS_OF_A_TOKEN = 8
"""No chunk has more for each token; characters that hardly count by estimate are no text."""

WORD = re.compile(r"\s+")
BORDERS = (
    re.compile(r"\n[ \t]*\n\s*"),
    re.compile(r"\n\s*"),
    re.compile(r"[.!?…]['\")\]]*\s+|[。！？]"),  # noqa: RUF001 - as they are written
    WORD,
)
"""What ends a paragraph, a line, a sentence, a word: what is before the end of a match belongs
together.
"""

_BLANK = re.compile(r"\s*")


@dataclass(frozen=True, slots=True)
class Strategy:
    """The longest chunk, and how much of the one before the next repeats: half of it at most."""

    tokens: int = AUTO_TOKENS
    overlap_tokens: int = AUTO_OVERLAP_TOKENS

    def within(self, tokens: int) -> "Strategy":
        """The same for a model that takes no more than so many."""
        if self.tokens <= tokens:
            return self
        return Strategy(tokens, min(self.overlap_tokens, tokens // 2))


@dataclass(frozen=True, slots=True)
class Piece:
    """`text[start:end]`, never empty, without blanks around it."""

    start: int
    end: int


class _Static(msgspec.Struct):
    max_chunk_size_tokens: int
    chunk_overlap_tokens: int


class _Told(msgspec.Struct):
    type: str = "auto"
    static: _Static | None = None


def strategy_of(chunking: str) -> Strategy:
    """Of OpenAI's `chunking_strategy`, as JSON. Raises `InvalidRequestError`."""
    try:
        told = msgspec.json.decode(chunking, type=_Told)
    except msgspec.MsgspecError as exc:
        raise InvalidRequestError(f"chunking_strategy: {exc}.", param="chunking_strategy") from exc
    if told.static is None:
        return Strategy()
    tokens, overlap = told.static.max_chunk_size_tokens, told.static.chunk_overlap_tokens
    if not LEAST_TOKENS <= tokens <= MOST_TOKENS or not 0 <= overlap <= tokens // 2:
        raise InvalidRequestError(
            f"chunking_strategy: max_chunk_size_tokens must be {LEAST_TOKENS} to {MOST_TOKENS}, "
            "and chunk_overlap_tokens no more than half of it.",
            param="chunking_strategy",
        )
    return Strategy(tokens, overlap)


def pieces(
    text: str, strategy: Strategy, begin: int = 0, end: int | None = None
) -> Iterator[Piece]:
    """The chunks of a text, or of a part of it, in their order; cut as they are asked for.

    Every character but blanks is in one at least.
    """
    last = len(text) if end is None else end
    overlap = min(strategy.overlap_tokens, strategy.tokens // 2)
    start = said = _after_blanks(text, begin, last)
    while said < last:
        stop = _end(text, start, last, strategy.tokens, said)
        if stop <= said:  # what is repeated leaves no room for anything new
            start = said
            continue
        yield Piece(start, start + len(text[start:stop].rstrip()))
        said = _after_blanks(text, stop, last)
        start = _after_blanks(text, _next_start(text, start, stop, overlap), last)


def halves(text: str, piece: Piece) -> list[Piece]:
    """A chunk that an engine finds too long, in two or a few; as it is where nothing is to cut."""
    tokens = estimate_tokens(text[piece.start : piece.end].encode("utf-8", "replace"))
    return list(pieces(text, Strategy(max(1, (tokens + 1) // 2), 0), piece.start, piece.end))


def _end(text: str, start: int, last: int, tokens: int, said: int) -> int:
    """Behind the last character of a chunk: at least one, and blanks do no harm; where it can be,
    behind what was `said` before.
    """
    most = min(last, start + tokens * CHARACTERS_OF_A_TOKEN)
    stop = max(start + 1, _furthest(start, most, lambda at: _tokens(text, start, at) <= tokens))
    if stop >= last:
        return last
    lowest = max(said, start + (stop - start) * 3 // 4)
    for border in BORDERS:
        if border is WORD and text[stop].isspace():
            return stop
        ends = [match.end() for match in border.finditer(text, lowest, stop)]
        if ends and ends[-1] > max(start, said):
            return ends[-1]
    return stop


def _next_start(text: str, start: int, stop: int, overlap: int) -> int:
    """Where the chunk after `text[start:stop]` begins: it repeats no more than the overlap, nor
    than half of that chunk, from where something begins.
    """
    if not overlap:
        return stop
    half = (stop - start) // 2
    shared = _furthest(0, half, lambda count: _tokens(text, stop - count, stop) <= overlap)
    earliest = stop - shared
    for border in BORDERS:
        match = border.search(text, earliest, earliest + shared // 2)
        if match is not None:
            return match.end()
    return earliest


def _furthest(low: int, high: int, holds: Callable[[int], bool]) -> int:
    """The greatest number from `low` to `high` of which it holds, as it does of `low`."""
    while low < high:
        middle = (low + high + 1) // 2
        if holds(middle):
            low = middle
        else:
            high = middle - 1
    return low


def _tokens(text: str, start: int, stop: int) -> int:
    return estimate_tokens(text[start:stop].encode("utf-8", "replace"))


def _after_blanks(text: str, start: int, last: int) -> int:
    match = _BLANK.match(text, start, last)
    return match.end() if match is not None else start
