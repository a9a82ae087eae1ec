"""An operator's functions in processes of their own, as runs call them."""

import asyncio
import json
import os
import sys
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from api_server.services.functions.hosts import Called, Function, FunctionHosts

ODD_MODULE = """
import os, pathlib, subprocess, time
here = pathlib.Path(__file__).parent
with (here / "imported").open("a") as file:
    file.write(f"{os.getpid()}\\n")
if (here / "broken").exists():
    raise ValueError("not set up yet")
while (here / "hangs").exists():
    time.sleep(0.05)

def greet() -> str:
    return "hello"

def start() -> str:
    (here / "started").write_text(f"{subprocess.Popen(['sleep', '600']).pid} ")
    time.sleep(600)
"""


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


@pytest.fixture
def odd(tmp_path: Path) -> Path:
    """A folder with an operator's module, and the files that say how its import goes."""
    (tmp_path / "odd_functions.py").write_text(ODD_MODULE)
    return tmp_path


def odd_hosts(folder: Path, *names: str, first: float = 20.0, again: float = 0.0) -> FunctionHosts:
    functions = {name: Function("odd_functions:greet", 20) for name in names}
    functions["get_weather"] = Function("tests.functions:get_weather", 20)
    variables = {**os.environ, "PYTHONPATH": f"{folder}:{Path.cwd()}"}
    return FunctionHosts(functions, variables, most=1, first_seconds=first, again_seconds=again)


async def names_of(hosts: FunctionHosts) -> list[str]:
    return [tool["function"]["name"] for tool in await hosts.tools()]


def imports(folder: Path) -> list[int]:
    """The processes that have imported the module, once for each time."""
    return [int(line) for line in (folder / "imported").read_text().split()]


async def test_a_function_that_could_not_be_described_is_asked_again(odd: Path) -> None:
    (odd / "broken").touch()
    hosts = odd_hosts(odd, "greet")
    assert await names_of(hosts) == ["get_weather"]
    (odd / "broken").unlink()
    async with asyncio.timeout(20):
        while await names_of(hosts) != ["greet", "get_weather"]:
            await asyncio.sleep(0.05)
    asked = len(imports(odd))
    assert await names_of(hosts) == ["greet", "get_weather"]
    assert len(imports(odd)) == asked
    await hosts.aclose()


async def test_it_is_not_asked_again_for_each_request(odd: Path) -> None:
    (odd / "broken").touch()
    hosts = odd_hosts(odd, "greet", again=600)
    for _ in range(5):
        assert await names_of(hosts) == ["get_weather"]
    assert len(imports(odd)) == 1
    await hosts.aclose()


async def test_an_import_that_hangs_keeps_requests_waiting_once(odd: Path) -> None:
    """However many functions are in that module; and it takes no place of a call."""
    (odd / "hangs").touch()
    hosts = odd_hosts(odd, "one", "two", "three", first=0.5)
    async with asyncio.timeout(10):
        described = await asyncio.gather(names_of(hosts), names_of(hosts))
    assert list(described) == [[], []]
    async with asyncio.timeout(0):  # goes off at the first wait
        assert await names_of(hosts) == []
    assert not (await call(hosts, "get_weather", city="Oslo")).has_failed
    async with asyncio.timeout(10):
        while not (odd / "imported").exists():
            await asyncio.sleep(0.05)
    await hosts.aclose()
    assert len(imports(odd)) == 1
    with pytest.raises(ProcessLookupError):
        os.kill(imports(odd)[0], 0)


async def test_what_a_function_has_started_ends_with_it(odd: Path) -> None:
    variables = {**os.environ, "PYTHONPATH": f"{odd}:{Path.cwd()}"}
    hosts = FunctionHosts({"start": Function("odd_functions:start", 60)}, variables)
    calling = asyncio.create_task(call(hosts, "start"))
    async with asyncio.timeout(20):
        while not (odd / "started").exists() or not (odd / "started").read_text().endswith(" "):
            await asyncio.sleep(0.05)
    state = Path(f"/proc/{(odd / 'started').read_text().strip()}/stat")
    assert "(sleep) Z" not in state.read_text()
    calling.cancel()
    async with asyncio.timeout(5):
        while state.exists() and "(sleep) Z" not in state.read_text():  # nobody may reap it
            await asyncio.sleep(0.05)
    await asyncio.wait({calling}, timeout=5)
    await hosts.aclose()


async def test_a_function_that_hangs_keeps_no_other_from_being_described(
    odd: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("api_server.services.functions.hosts.DESCRIBE_SECONDS", 2.0)
    (odd / "hangs").touch()
    hosts = odd_hosts(odd, "greet")
    async with asyncio.timeout(40):
        while await names_of(hosts) != ["get_weather"]:
            await asyncio.sleep(0.05)
    await hosts.aclose()


async def test_no_more_processes_wait_than_calls_may_have_and_they_end(odd: Path) -> None:
    hosts = odd_hosts(odd, "greet")
    await asyncio.gather(call(hosts, "greet"), hosts.tools())
    assert len(set(imports(odd))) == 2, "one that was called, one that described"
    (process,) = hosts._idle
    assert process.returncode is None
    await hosts.aclose()
    assert process.returncode is not None


async def test_who_finds_no_free_process_waits_its_own_seconds(odd: Path) -> None:
    functions = {
        "sleep": Function("tests.functions:sleep", 60),
        "greet": Function("odd_functions:greet", 0.3),
    }
    hosts = FunctionHosts(functions, dict(os.environ), most=1)
    holding = asyncio.create_task(call(hosts, "sleep", seconds=60))
    await asyncio.sleep(0)
    async with asyncio.timeout(10):
        refused = await call(hosts, "greet")
    assert refused == Called(
        "Error: it was not called: no process was free for 0.3 s.", has_failed=True
    )
    assert not (odd / "imported").exists()
    holding.cancel()
    await asyncio.wait({holding}, timeout=5)
    await hosts.aclose()


async def test_a_process_that_cannot_be_started_fails_the_call(
    hosts: FunctionHosts, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def never(*_: object, **__: object) -> None:
        await asyncio.Event().wait()

    with monkeypatch.context() as patched:
        patched.setattr(sys, "executable", "/nonexistent")
        assert (await call(hosts, "get_weather", city="Oslo")).has_failed
        assert await hosts.tools() == []
    with monkeypatch.context() as patched:
        patched.setattr(asyncio, "create_subprocess_exec", never)
        async with asyncio.timeout(10):
            slow = await call(hosts, "nap", seconds=0)
        assert slow == Called("Error: it took longer than 0.6 s.", has_failed=True)
    assert not (await call(hosts, "get_weather", city="Oslo")).has_failed
