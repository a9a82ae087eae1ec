"""The way from threads to the event loop, and from tokens to text."""

import asyncio
import threading
import time
from collections.abc import Sequence
from contextlib import aclosing

import pytest

from api_server.inference.handlers.threads import ROOM, Outlet, Threads
from api_server.inference.handlers.writing import BytesDecoder, WindowDecoder, Writer
from api_server.inference.schemas import InferenceRequest

SECONDS = 5.0


async def until(condition: object) -> None:
    async with asyncio.timeout(SECONDS):
        while not condition():  # type: ignore[operator]
            await asyncio.sleep(0.001)


def letters(outlet: Outlet) -> str:
    for letter in "abc":
        outlet.put(letter)
    outlet.put("")
    return "done"


async def test_pieces_come_in_order_then_the_result() -> None:
    threads: Threads[str] = Threads(1, "test")
    assert [piece async for piece in threads.stream(letters)] == ["a", "b", "c", "done"]
    assert await threads.aclose(SECONDS)


async def test_an_error_comes_after_the_pieces_before_it() -> None:
    def fail(outlet: Outlet) -> str:
        outlet.put("a")
        raise ValueError("broken")

    threads: Threads[str] = Threads(1, "test")
    pieces = []
    with pytest.raises(ValueError, match="broken"):
        async for piece in threads.stream(fail):
            pieces.append(piece)  # noqa: PERF401 - what came before the error is kept
    assert pieces == ["a"]
    assert await threads.aclose(SECONDS)


async def test_a_thread_waits_for_a_slow_reader_and_ends_when_it_goes() -> None:
    written = 0

    def endless(outlet: Outlet) -> str:
        nonlocal written
        while not outlet.is_closed:
            outlet.put("x")
            written += 1
        return "ended"

    threads: Threads[str] = Threads(1, "test")
    async with aclosing(threads.stream(endless)) as pieces:
        assert await anext(pieces) == "x"
        await until(lambda: written == ROOM + 1)
        await asyncio.sleep(0.05)
        assert written == ROOM + 1
        assert threads.running == 1
    await until(lambda: threads.running == 0)
    assert await threads.aclose(SECONDS)


async def test_closing_does_not_wait_but_the_thread_stays_taken() -> None:
    may_end = threading.Event()

    def stubborn(outlet: Outlet) -> str:
        outlet.put("x")
        may_end.wait(SECONDS)
        return "ended"

    threads: Threads[str] = Threads(1, "test")
    began = time.monotonic()
    async with aclosing(threads.stream(stubborn)) as pieces:
        await anext(pieces)
    assert time.monotonic() - began < 1
    following = threads.stream(letters)
    first = asyncio.ensure_future(anext(following))
    await asyncio.sleep(0.05)
    assert not first.done()
    assert not await threads.aclose(0.01)
    may_end.set()
    with pytest.raises(RuntimeError, match="shutdown"):
        await first


async def test_no_more_threads_work_than_were_allowed() -> None:
    most = working = 0
    lock = threading.Lock()

    def work(_: Outlet) -> str:
        nonlocal most, working
        with lock:
            working += 1
            most = max(most, working)
        time.sleep(0.01)
        with lock:
            working -= 1
        return "done"

    async def one(threads: Threads[str]) -> list[str]:
        return [piece async for piece in threads.stream(work)]

    threads: Threads[str] = Threads(2, "test")
    assert await asyncio.gather(*(one(threads) for _ in range(8))) == [["done"]] * 8
    assert most == 2
    assert await threads.aclose(SECONDS)


async def test_what_ends_the_work_is_called_however_late_it_is_named() -> None:
    called = []
    outlet = Outlet(asyncio.get_running_loop())
    outlet.on_close(lambda: called.append("early"))
    outlet.close()
    outlet.on_close(lambda: called.append("late"))
    assert called == ["early", "late"]


TEXT = "Grüße, 世界 🌍!"


def one_byte(token: int) -> bytes:
    return bytes([token])


def as_text(tokens: Sequence[int]) -> str:
    return bytes(tokens).decode("utf-8", "replace")


@pytest.mark.parametrize(
    "decoder", [BytesDecoder(one_byte), WindowDecoder(as_text)], ids=["bytes", "window"]
)
def test_only_whole_characters_go_out(decoder: BytesDecoder | WindowDecoder) -> None:
    pieces = [decoder.feed(byte) for byte in TEXT.encode()]
    assert "".join(pieces) == TEXT
    assert not any("\ufffd" in piece for piece in pieces)
    assert decoder.rest() == ""


@pytest.mark.parametrize(
    "decoder", [BytesDecoder(one_byte), WindowDecoder(as_text)], ids=["bytes", "window"]
)
def test_a_character_that_never_ends_is_shown_as_unknown(
    decoder: BytesDecoder | WindowDecoder,
) -> None:
    assert decoder.feed(0xE4) == ""
    assert decoder.rest() == "\ufffd"


def test_bytes_that_are_no_text_do_not_hold_back_what_follows() -> None:
    decoder = WindowDecoder(as_text)
    assert "".join(decoder.feed(0xFF) for _ in range(8)) == "\ufffd" * 8
    assert decoder.feed(ord("a")) == "a"


def test_a_tokenizer_that_drops_the_first_space_keeps_those_between_words() -> None:
    words = [" one", " two", " three"]

    def decode(tokens: Sequence[int]) -> str:
        return "".join(words[token] for token in tokens).removeprefix(" ")

    decoder = WindowDecoder(decode)
    assert [decoder.feed(token) for token in range(3)] == ["one", " two", " three"]


async def test_a_writer_stops_at_a_stop_sequence_and_counts() -> None:
    request = InferenceRequest(model_id="m", prompt="p", stop_sequences=["c d"])
    outlet = Outlet(asyncio.get_running_loop())
    writer = Writer(outlet, BytesDecoder(one_byte), request)
    for byte in b"ab c d e":
        if writer.wants_more:
            writer.write(byte)
    summary = writer.finish("length", prompt_tokens=7, seconds=0.5)
    await asyncio.sleep(0)
    text = "".join(outlet.pieces.get_nowait() or "" for _ in range(outlet.pieces.qsize()))
    assert text == "ab "
    assert summary.finish_reason == "stop_sequence"
    assert (summary.prompt_tokens, summary.generated_tokens) == (7, 6)
    assert summary.inference_time_ms == 500
