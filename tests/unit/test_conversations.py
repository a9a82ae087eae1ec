"""Threads in memory: in order, bounded, each message once."""

import asyncio

import pytest

from api_server.errors import OverloadedError, QueueTimeoutError
from api_server.inference.conversations.store import MAX_WAITING, MemoryConversations, Message


def said(role: str, content: str) -> Message:
    return {"role": role, "content": content}


async def contents(threads: MemoryConversations, thread_id: str = "t") -> list[str]:
    return [message["content"] for message in await threads.history(thread_id)]


async def test_messages_come_back_in_order() -> None:
    threads = MemoryConversations()
    assert await threads.history("t") == ()
    await threads.append("t", [said("user", "a"), said("assistant", "b")])
    await threads.append("t", [said("user", "c")])
    await threads.append("other", [said("user", "x")])
    assert await contents(threads) == ["a", "b", "c"]


async def test_a_message_with_an_id_is_written_once() -> None:
    threads = MemoryConversations()
    for _ in range(3):
        await threads.append("t", [said("user", "a")], message_id="msg_1")
    await threads.append("t", [said("user", "a")])
    assert await contents(threads) == ["a", "a"]


async def test_ids_are_bounded_as_messages_are() -> None:
    threads = MemoryConversations(max_messages=4)
    for number in range(10):
        await threads.append("t", [said("user", "a")], message_id=str(number))
    known = [number for number in range(10) if await threads.has("t", str(number))]
    assert known == [6, 7, 8, 9]
    assert not await threads.has("u", "9")


async def test_the_oldest_messages_go_and_what_is_left_begins_with_a_user() -> None:
    threads = MemoryConversations(max_messages=4)
    for number in range(4):
        await threads.append("t", [said("user", f"u{number}"), said("assistant", f"a{number}")])
    assert await contents(threads) == ["u2", "a2", "u3", "a3"]
    await threads.append("t", [said("user", "u4")])
    assert await contents(threads) == ["u3", "a3", "u4"]


async def test_a_turn_larger_than_a_thread_keeps_its_last_message() -> None:
    threads = MemoryConversations(max_messages=2)
    await threads.append("t", [said("user", "u")] + [said("tool", str(n)) for n in range(5)])
    assert await contents(threads) == ["4"]


async def test_the_threads_used_least_recently_go() -> None:
    threads = MemoryConversations(max_threads=2)
    for thread_id in ("a", "b", "a", "c"):
        await threads.append(thread_id, [said("user", thread_id)])
    assert await contents(threads, "a") == ["a", "a"]
    assert await contents(threads, "b") == []
    assert await contents(threads, "c") == ["c"]


async def test_turns_of_one_thread_come_in_order_and_others_at_the_same_time() -> None:
    threads = MemoryConversations()
    diary: list[str] = []

    async def turn(thread_id: str, name: str) -> None:
        async with threads.turn(thread_id):
            diary.append(f"+{name}")
            await asyncio.sleep(0.01)
            diary.append(f"-{name}")

    await asyncio.gather(turn("t", "1"), turn("t", "2"), turn("t", "3"), turn("u", "other"))
    of_one = [line for line in diary if "other" not in line]
    assert of_one == ["+1", "-1", "+2", "-2", "+3", "-3"]
    assert diary.index("+other") < diary.index("-1")
    assert threads._turns == {}, "nothing is left of turns that are over"


async def test_a_turn_that_is_given_up_lets_the_next_one_in() -> None:
    threads = MemoryConversations()
    async with threads.turn("t"):
        waiting = asyncio.create_task(threads.turn("t").__aenter__())
        await asyncio.sleep(0.01)
        waiting.cancel()
        await asyncio.wait({waiting})
    async with asyncio.timeout(1), threads.turn("t"):
        pass
    assert threads._turns == {}


async def test_waiting_for_a_turn_is_bounded() -> None:
    threads = MemoryConversations(turn_seconds=0.02)
    async with threads.turn("t"):
        with pytest.raises(QueueTimeoutError, match=r"not answered in 0\.02 s"):
            async with threads.turn("t"):
                pass
    async with threads.turn("t"):
        pass


async def test_who_waits_for_a_turn_is_bounded_in_number() -> None:
    threads = MemoryConversations()
    async with threads.turn("t"):
        waiting = [asyncio.create_task(threads.turn("t").__aenter__()) for _ in range(MAX_WAITING)]
        await asyncio.sleep(0.01)
        with pytest.raises(OverloadedError):
            async with threads.turn("t"):
                pass
        for task in waiting:
            task.cancel()
        await asyncio.wait(waiting)
