"""The supervisor's promises, with real children that are small shell programs."""

import asyncio
import os
import sys
from collections.abc import Awaitable, Callable
from pathlib import Path

import pytest

from api_server.errors import SetupError
from api_server.local import process as process_module
from api_server.local import supervisor as supervisor_module
from api_server.local.process import Command, keep_log_small
from api_server.local.supervisor import Supervisor, Watch
from tests.said import Said


async def yes() -> bool:
    return True


async def no() -> bool:
    return False


async def fine() -> None:
    return


def supervisor(
    tmp_path: Path,
    script: str,
    *,
    is_ready: Callable[[], Awaitable[bool]] = yes,
    verify: Callable[[], Awaitable[None]] = fine,
    start_seconds: float = 5,
) -> tuple[Supervisor, Said]:
    said = Said()
    command = Command("the child", ["sh", "-c", script], dict(os.environ), tmp_path / "child.log")
    watch = Watch(is_ready, verify, start_seconds, hang_seconds=5, stop_seconds=0.3)
    return Supervisor(command, watch, said), said


async def test_child_that_ends_while_starting_is_told_with_its_last_words(tmp_path: Path) -> None:
    child, _ = supervisor(tmp_path, "echo no such luck; exit 3", is_ready=no)
    with pytest.raises(SetupError, match=r"exit code 3(.|\n)*no such luck"):
        await child.start()


async def test_answer_of_a_stranger_does_not_hide_a_dead_child(tmp_path: Path) -> None:
    """Something else answers on the port; our child is dead all the same."""

    async def after_a_moment() -> bool:
        await asyncio.sleep(0.3)
        return False

    child, _ = supervisor(tmp_path, "exit 1", is_ready=after_a_moment)
    with pytest.raises(SetupError, match="exit code 1"):
        await child.start()


async def test_child_that_never_becomes_ready_is_given_up(tmp_path: Path) -> None:
    child, _ = supervisor(tmp_path, "exec sleep 60", is_ready=no, start_seconds=0.3)
    with pytest.raises(SetupError, match=r"was not ready after 0\.3 s"):
        await child.start()
    await child.stop()


async def test_child_that_is_not_what_was_wanted_is_refused(tmp_path: Path) -> None:
    async def wrong() -> None:
        raise SetupError("4 slots, not 8")

    child, _ = supervisor(tmp_path, "exec sleep 60", verify=wrong)
    with pytest.raises(SetupError, match="4 slots"):
        await child.start()
    await child.stop()


async def test_restarts_back_off_and_a_stable_child_is_forgiven(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[int] = []

    def delay(crashes: int) -> float:
        asked.append(crashes)
        return 0.01

    monkeypatch.setattr(supervisor_module, "restart_delay_seconds", delay)
    child, said = supervisor(tmp_path, "sleep 0.1; exit 7")
    await child.start()
    task = asyncio.create_task(child.keep_up())
    while len(asked) < 3:
        await asyncio.sleep(0.02)
    monkeypatch.setattr(supervisor_module, "STABLE_SECONDS", 0.0)
    while len(asked) < 5:
        await asyncio.sleep(0.02)
    task.cancel()
    await asyncio.gather(task, return_exceptions=True)
    await child.stop()
    assert asked[:3] == [1, 2, 3]
    assert asked[-1] == 1
    assert "the child died (exit code 7); starting it again in 0.01 s" in said.lines
    assert "the child is back" in said.lines


async def test_child_that_ignores_term_is_killed(tmp_path: Path) -> None:
    child, _ = supervisor(tmp_path, "trap '' TERM; while :; do sleep 0.05; done")
    await child.start()
    await asyncio.sleep(0.2)
    async with asyncio.timeout(4):
        await child.stop()
    await child.stop()


async def test_stop_in_a_cancelled_task_still_gives_the_child_its_grace(tmp_path: Path) -> None:
    """asyncio.timeout would break here before Python 3.11.4, and the child would be killed."""
    mark = tmp_path / "ended-well"
    child, _ = supervisor(tmp_path, f"trap 'sleep 0.1; touch {mark}; exit' TERM; sleep 60 & wait")

    async def run() -> None:
        await child.start()
        await asyncio.sleep(0.2)
        try:
            await asyncio.sleep(60)
        finally:
            await child.stop()

    task = asyncio.create_task(run())
    await asyncio.sleep(0.6)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert mark.exists()


async def test_program_that_is_not_there_ends_with_a_sentence(tmp_path: Path) -> None:
    command = Command("the child", [str(tmp_path / "none")], {}, tmp_path / "log")
    child = Supervisor(command, Watch(no, fine, 5, 5, 1), Said())
    with pytest.raises(SetupError, match=r"none cannot be started: No such file"):
        await child.start()


async def test_tether_refuses_when_the_parent_is_gone(tmp_path: Path) -> None:
    tether = Path(process_module.__file__).with_name("tether.py")
    mark = tmp_path / "ran"
    program = await asyncio.create_subprocess_exec(
        *(sys.executable, "-S", "-I", str(tether), "1", "touch", str(mark))
    )
    assert await program.wait() == 1
    assert not mark.exists()


def test_large_log_is_moved_aside(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(process_module, "MAX_LOG_BYTES", 10)
    path = tmp_path / "a.log"
    keep_log_small(path)
    path.write_text("short")
    keep_log_small(path)
    assert path.read_text() == "short"
    with path.open("a") as log:
        log.write(" and now too long")
        log.flush()
        keep_log_small(path)
        assert path.read_text() == ""
        log.write("on")
    assert path.read_text() == "on"
    assert (tmp_path / "a.log.1").read_text() == "short and now too long"
