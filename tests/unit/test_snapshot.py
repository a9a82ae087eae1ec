"""The file of apps is believed only where nobody else could have written it."""

import multiprocessing
import os
import time
from pathlib import Path

import pytest

from api_server.services.access.directory import CONFIRM_SECONDS, Directory
from api_server.services.access.snapshot import (
    UNFINISHED_SECONDS,
    Content,
    read_snapshot,
    write_snapshot,
)
from api_server.stores.apps import AppRow, Changes


@pytest.fixture
def path(tmp_path: Path) -> Path:
    path = tmp_path / "apps.snapshot"
    write_snapshot(path, Content(7, [], []))
    return path


def test_our_own_file_is_believed(path: Path) -> None:
    found = read_snapshot(path)
    assert found is not None
    assert found[0].change == 7
    assert path.stat().st_mode & 0o777 == 0o600


@pytest.mark.parametrize("mode", [0o620, 0o602])
def test_a_file_that_others_may_write_to_is_not(path: Path, mode: int) -> None:
    path.chmod(mode)
    assert read_snapshot(path) is None


def test_a_file_of_somebody_else_is_not(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    other = os.geteuid() + 1
    monkeypatch.setattr(os, "geteuid", lambda: other)
    assert read_snapshot(path) is None


# several gateways that share the folder, as containers do


def write_often(path: Path, change: int, until: float) -> None:
    """In a container each is process number 1."""
    os.getpid = lambda: 1
    row = AppRow(str(change), f"app-{change}" * 20_000, "{}")
    while time.monotonic() < until:
        write_snapshot(path, Content(change, [row], []))


def test_gateways_in_containers_write_whole_files(path: Path) -> None:
    until = time.monotonic() + 1.5
    context = multiprocessing.get_context("fork")
    writers = [context.Process(target=write_often, args=(path, n, until)) for n in range(1, 4)]
    for writer in writers:
        writer.start()
    read = 0
    while time.monotonic() < until:
        found = read_snapshot(path)
        assert found is not None
        read += 1
    for writer in writers:
        writer.join(10)
        assert writer.exitcode == 0
    assert read > 10
    assert [each.name for each in path.parent.iterdir()] == [path.name]


def test_what_a_dead_writer_left_is_removed(path: Path) -> None:
    left, fresh = (path.with_name(f"{path.name}.{name}") for name in ("left", "fresh"))
    for each in (left, fresh):
        each.write_bytes(b"{")
    long_ago = time.time() - UNFINISHED_SECONDS - 1
    os.utime(left, (long_ago, long_ago))
    write_snapshot(path, Content(8, [], []))
    assert not left.exists()
    assert fresh.exists(), "somebody may be writing it"


class Source:
    """A database that knows no apps; `change` is its newest."""

    def __init__(self, change: int) -> None:
        self.change = change

    async def last_change(self) -> int:
        return self.change

    async def changes_since(self, known: int | None) -> Changes:
        return Changes(self.change, [], [], is_whole=known is None)


async def test_only_what_a_gateway_wrote_itself_is_confirmed(tmp_path: Path) -> None:
    """One that lags and dies must not leave an old file that others call true."""
    path, now = tmp_path / "apps.snapshot", [1000.0]

    def change() -> int:
        found = read_snapshot(path)
        assert found is not None
        return found[0].change

    new = Directory(Source(10), path, clock=lambda: now[0])
    old = Directory(Source(9), path, clock=lambda: now[0])
    await new.refresh()
    await old.refresh()
    assert change() == 9
    await new.refresh()
    assert change() == 9, "they do not write against each other all the time"
    now[0] += CONFIRM_SECONDS + 1
    await new.refresh()
    assert change() == 10
