"""How a text is cut into chunks."""

import random
import time
from itertools import pairwise

import pytest

from api_server.errors import InvalidRequestError
from api_server.inference.estimating import estimate_tokens
from api_server.services.retrieval.chunking import (
    CHARACTERS_OF_A_TOKEN,
    Piece,
    Strategy,
    halves,
    pieces,
    strategy_of,
)

ALPHABET = "abcdefghij    \n\n.!?,;:0123ABC\t\r 日本語。мир é😀\x1c\x01\u2028"


def tokens(text: str) -> int:
    return estimate_tokens(text.encode("utf-8", "replace"))


def prose(words: int) -> str:
    chance = random.Random(words)
    made = []
    for number in range(words):
        made.append("".join(chance.choices("etaoinshrdlu", k=chance.randint(1, 10))))
        if number % 11 == 10:
            made[-1] += "."
        if number % 97 == 96:
            made[-1] += "\n\n"
    return " ".join(made)


@pytest.mark.parametrize("seed", range(300))
def test_whatever_the_text_the_chunks_are_true(seed: int) -> None:
    chance = random.Random(seed)
    length = chance.choice([0, 1, 5, 200, 3000])
    text = "".join(chance.choices(ALPHABET[: chance.randint(1, len(ALPHABET))], k=length))
    most = chance.choice([1, 2, 10, 100, 800])
    strategy = Strategy(most, chance.randint(0, most // 2))
    found = list(pieces(text, strategy))
    covered = set[int]()
    for piece in found:
        chunk = text[piece.start : piece.end]
        assert chunk
        assert chunk == chunk.strip()
        assert tokens(chunk) <= most or len(chunk) == 1
        assert len(chunk) <= most * CHARACTERS_OF_A_TOKEN
        covered |= set(range(piece.start, piece.end))
    assert all(text[at].isspace() for at in set(range(len(text))) - covered)
    assert [each.start for each in found] == sorted({each.start for each in found})
    for one, two in pairwise(found):
        assert one.end < two.end, "each brings something new"
        shared = text[two.start : one.end]
        assert tokens(shared) <= strategy.overlap_tokens + 1


def test_auto_is_800_tokens_of_which_400_are_said_twice() -> None:
    assert strategy_of('{"type": "auto"}') == Strategy(800, 400)
    text = prose(5000)
    found = list(pieces(text, Strategy()))
    lengths = [tokens(text[each.start : each.end]) for each in found[:-1]]
    assert all(550 <= length <= 800 for length in lengths), lengths
    shared = [tokens(text[two.start : one.end]) for one, two in pairwise(found)]
    assert all(150 <= each <= 400 for each in shared), shared


def test_it_is_cut_between_paragraphs_then_sentences_then_words() -> None:
    text = prose(5000)
    for piece in list(pieces(text, Strategy(300, 0)))[:-1]:
        behind = text[piece.end : piece.end + 3].lstrip(" ")
        assert text[piece.end - 1] == "." or behind.startswith("\n\n")
    words = "word " * 2000
    for piece in pieces(words, Strategy(100, 50)):
        assert words[piece.start : piece.end].startswith("word")
        assert words[piece.start : piece.end].endswith("word")


def test_a_short_text_is_one_chunk_and_blanks_are_none() -> None:
    assert list(pieces("  a word \n", Strategy())) == [Piece(2, 8)]
    assert list(pieces(" \n\t" * 10_000, Strategy())) == []
    assert list(pieces("", Strategy())) == []


@pytest.mark.parametrize(
    "unit",
    ["word ", "x", "\x01", " " * 50 + "a", "\n", "日本。", "a.\n\n", "=" * 10 + "\n", "\u2003a"],
)
def test_the_time_is_linear(unit: str) -> None:
    """Sixteen times the text may take so much longer, and not its square; with room for noise."""

    def seconds(length: int) -> float:
        text = (unit * (length // len(unit) + 1))[:length]
        began = time.process_time()
        count = sum(1 for _ in pieces(text, Strategy()))
        assert count <= length
        return time.process_time() - began

    seconds(10_000)
    short = min(seconds(50_000) for _ in range(3))
    assert seconds(800_000) < 16 * max(short, 0.005) * 4


def test_a_model_with_a_short_context_gets_short_chunks() -> None:
    assert Strategy().within(8192) == Strategy()
    assert Strategy().within(460) == Strategy(460, 230)
    assert Strategy(800, 100).within(460) == Strategy(460, 100)


def test_a_chunk_that_is_too_long_after_all_is_halved() -> None:
    text = prose(500)
    (whole,) = pieces(text, Strategy(4096, 0))
    parts = halves(text, whole)
    assert len(parts) in {2, 3}
    assert parts[0].start == whole.start
    assert parts[-1].end == whole.end
    joined = "".join(text[each.start : each.end] for each in parts)
    assert joined.split() != []
    assert "".join(joined.split()) == "".join(text[whole.start : whole.end].split())


@pytest.mark.parametrize(
    ("size", "overlap"), [(99, 0), (4097, 0), (100, 51), (800, -1), (4096, 2049)]
)
def test_what_the_reference_does_not_allow_is_refused(size: int, overlap: int) -> None:
    static = f'{{"max_chunk_size_tokens": {size}, "chunk_overlap_tokens": {overlap}}}'
    with pytest.raises(InvalidRequestError) as refused:
        strategy_of(f'{{"type": "static", "static": {static}}}')
    assert refused.value.param == "chunking_strategy"


def test_a_static_strategy_is_taken_at_its_word() -> None:
    static = '{"max_chunk_size_tokens": 100, "chunk_overlap_tokens": 50}'
    assert strategy_of(f'{{"type": "static", "static": {static}}}') == Strategy(100, 50)
