"""Stop sequences are found whatever the pieces, and nothing of them goes out."""

import random
from collections.abc import AsyncGenerator

import pytest

from api_server.inference.schemas import InferenceRequest, InferenceResponse
from api_server.inference.stop_sequences import StopScanner, until_stop


def scan(sequences: list[str], pieces: list[str]) -> tuple[str, str | None]:
    scanner = StopScanner(sequences)
    out = "".join(scanner.feed(piece) for piece in pieces)
    return out + scanner.flush(), scanner.matched


def expected(sequences: list[str], text: str) -> tuple[str, str | None]:
    """The same, the slow and obvious way: read letter by letter, look at the end."""
    for end in range(1, len(text) + 1):
        found = [sequence for sequence in sequences if text[:end].endswith(sequence)]
        if found:
            longest = max(found, key=len)
            return text[: end - len(longest)], longest
    return text, None


@pytest.mark.parametrize(
    ("sequences", "pieces", "out", "matched"),
    [
        (["END"], ["one END two"], "one ", "END"),
        (["END"], ["one E", "N", "D two"], "one ", "END"),
        (["END"], ["one EN", "TRY"], "one ENTRY", None),
        (["END"], ["one EN"], "one EN", None),
        (["END"], ["ENEND"], "EN", "END"),
        (["aab"], ["aa", "ab"], "a", "aab"),
        (["bc", "abcd"], ["abcd"], "a", "bc"),  # whole first
        (["c", "abc"], ["abc"], "", "abc"),  # at the same letter: the longer one
        (["ab", "abc"], ["xabc"], "x", "ab"),
        (["\n4.", "End of list."], ["3. blue", "\n", "4. green"], "3. blue", "\n4."),
        (["é"], ["caf", "é!"], "caf", "é"),
        (["x", "x"], ["abx"], "ab", "x"),
        ([], ["anything", " goes"], "anything goes", None),
    ],
)
def test_stops_at_the_first_whole_sequence(
    sequences: list[str], pieces: list[str], out: str, matched: str | None
) -> None:
    assert scan(sequences, pieces) == (out, matched)
    assert expected(sequences, "".join(pieces)) == (out, matched)


def test_any_split_of_a_text_gives_the_same() -> None:
    chance = random.Random(4)
    for _ in range(3000):
        letters = "ab" if chance.random() < 0.7 else "abc\n"
        text = "".join(chance.choices(letters, k=chance.randint(0, 24)))
        sequences = [
            "".join(chance.choices(letters, k=chance.randint(1, 6)))
            for _ in range(chance.randint(0, 4))
        ]
        pieces, rest = [], text
        while rest:
            size = chance.randint(0, 5)
            pieces.append(rest[:size])
            rest = rest[size:]
        assert scan(sequences, pieces) == expected(sequences, text), (sequences, pieces)


def test_holds_back_no_more_than_what_may_become_a_sequence() -> None:
    scanner = StopScanner(["stop it", "other"])
    assert scanner.feed("please sto") == "please "
    assert scanner.feed("p i") == ""
    assert scanner.feed("n") == "stop in"
    assert scanner.feed("") == ""
    assert scanner.feed("oth") == ""
    assert scanner.flush() == "oth"
    assert scanner.feed("er") == "er"  # the end that was flushed is no beginning any more


def test_says_nothing_after_a_match() -> None:
    scanner = StopScanner(["."])
    assert scanner.feed("one. two") == "one"
    assert scanner.feed(" three.") == ""
    assert scanner.flush() == ""
    assert scanner.matched == "."


def test_an_empty_sequence_is_refused() -> None:
    with pytest.raises(ValueError, match="empty"):
        StopScanner(["a", ""])


def test_a_long_sequence_costs_no_more_for_being_long() -> None:
    long = "a" * 50_000 + "b"
    scanner = StopScanner([long])
    out = "".join(scanner.feed("a" * 100) for _ in range(1000))  # seconds, were it quadratic
    assert len(out) == 50_000
    assert scanner.feed("b") == ""
    assert scanner.matched == long


class Pieces:
    """A handler's stream that knows whether it was ended."""

    def __init__(self, *pieces: str | InferenceResponse) -> None:
        self.pieces = pieces
        self.given = 0
        self.is_closed = False

    async def stream(self) -> AsyncGenerator[str | InferenceResponse, None]:
        try:
            for piece in self.pieces:
                self.given += 1
                yield piece
        finally:
            self.is_closed = True


def request(*stop_sequences: str) -> InferenceRequest:
    return InferenceRequest(
        model_id="m", prompt="p", request_id="r", stop_sequences=list(stop_sequences) or None
    )


async def test_a_stop_ends_the_handler_and_sums_up() -> None:
    source = Pieces("one ", "tw", "o thr", "ee")
    got = [piece async for piece in until_stop(source.stream(), request("two"))]
    assert got[:-1] == ["one "]
    summary = got[-1]
    assert isinstance(summary, InferenceResponse)
    assert (summary.finish_reason, summary.request_id) == ("stop_sequence", "r")
    assert source.is_closed
    assert source.given == 3


async def test_a_handlers_own_summary_is_kept() -> None:
    told = InferenceResponse(request_id="r", model_id="m", finish_reason="length")
    got = [piece async for piece in until_stop(Pieces("on", told).stream(), request("one"))]
    assert got == ["on", told]


async def test_without_a_summary_it_is_a_stop() -> None:
    *text, summary = [piece async for piece in until_stop(Pieces("a").stream(), request())]
    assert text == ["a"]
    assert isinstance(summary, InferenceResponse)
    assert summary.finish_reason == "stop"


async def test_closing_closes_the_handler() -> None:
    source = Pieces("a", "b")
    stream = until_stop(source.stream(), request("x"))
    assert await anext(stream) == "a"
    await stream.aclose()
    assert source.is_closed
