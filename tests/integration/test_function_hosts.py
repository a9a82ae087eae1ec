"""An operator's functions in processes of their own, as runs call them."""

import asyncio
import json
import os
from collections.abc import AsyncIterator

import pytest

from api_server.services.functions.hosts import Called, Function, FunctionHosts


@pytest.fixture
async def hosts() -> AsyncIterator[FunctionHosts]:
    names = ("get_weather", "in_time", "sleep", "fail", "die", "leave", "half")
    functions = {name: Function(f"tests.functions:{name}", 10) for name in names}
    functions["nap"] = Function("tests.functions:sleep", 0.6)
    functions["nowhere"] = Function("tests.functions:not_there", 10)
    hosts = FunctionHosts(functions, dict(os.environ), most=2)
    yield hosts
    await hosts.aclose()


async def call(hosts: FunctionHosts, name: str, **arguments: object) -> Called:
    return await hosts.call(name, json.dumps(arguments))


async def test_functions_are_called_and_may_print(hosts: FunctionHosts) -> None:
    said = await call(hosts, "get_weather", city="Paris")
    assert (json.loads(said.output), said.has_failed) == ({"city": "Paris", "degrees": 21}, False)
    assert await call(hosts, "in_time", seconds=0.01) == Called("done", has_failed=False)


async def test_what_fails_is_told_to_the_model(hosts: FunctionHosts) -> None:
    failed = await call(hosts, "fail")
    assert failed.has_failed
    assert "no such luck" in failed.output
    wrong = await call(hosts, "get_weather", town="Paris")
    assert wrong.has_failed
    assert "city" in wrong.output
    garbage = await hosts.call("get_weather", "{")
    assert garbage.has_failed
    assert "not JSON" in garbage.output


async def test_what_would_break_the_answer_does_not(hosts: FunctionHosts) -> None:
    left = await call(hosts, "leave")
    assert left == Called("Error: SystemExit: 3.", has_failed=True)
    assert await call(hosts, "half") == Called("a?b", has_failed=False)


async def test_a_function_that_is_not_there_shows_nothing_of_the_machine(
    hosts: FunctionHosts,
) -> None:
    missing = await call(hosts, "nowhere")
    assert missing == Called("Error: this function is not set up correctly.", has_failed=True)


async def test_one_that_hangs_or_ends_its_process_hurts_no_other(hosts: FunctionHosts) -> None:
    slow, dead, fine = await asyncio.gather(
        call(hosts, "nap", seconds=30), call(hosts, "die"), call(hosts, "get_weather", city="Rome")
    )
    assert slow == Called("Error: it took longer than 0.6 s.", has_failed=True)
    assert dead == Called("Error: the function ended without an answer.", has_failed=True)
    assert not fine.has_failed
    assert not (await call(hosts, "get_weather", city="Oslo")).has_failed


async def test_a_process_that_ended_while_it_was_idle_costs_no_call(hosts: FunctionHosts) -> None:
    await call(hosts, "get_weather", city="Oslo")
    (process,) = hosts._idle
    process.kill()
    await process.wait()
    assert not (await call(hosts, "get_weather", city="Oslo")).has_failed


async def test_a_cancelled_call_ends_its_process(hosts: FunctionHosts) -> None:
    calling = asyncio.create_task(call(hosts, "sleep", seconds=30))
    await asyncio.sleep(1.0)
    calling.cancel()
    await asyncio.wait({calling}, timeout=3)
    assert calling.cancelled()
    assert not (await call(hosts, "get_weather", city="Oslo")).has_failed


async def test_processes_end_with_the_one_that_started_them(hosts: FunctionHosts) -> None:
    """Their input ends then, also in the middle of a call."""
    await call(hosts, "get_weather", city="Oslo")
    (process,) = hosts._idle
    assert process.stdin is not None
    told = {"name": "sleep", "call": "tests.functions:sleep", "arguments": '{"seconds": 30}'}
    process.stdin.write(json.dumps(told).encode() + b"\n")
    await process.stdin.drain()
    await asyncio.sleep(0.2)
    process.stdin.close()
    async with asyncio.timeout(5):
        await process.wait()
