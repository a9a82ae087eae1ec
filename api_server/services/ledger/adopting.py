"""What processes that are gone have left in the spool. Blocks: for threads."""

import contextlib
import fcntl
import os
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import msgspec

from api_server.services.ledger.spool import LIVE, LOCK, SEALED, Segment, remove

AT_ONCE = 32
"""Processes whose heir one is at the same time."""


@dataclass
class Legacy:
    """A folder whose process is gone, locked for us until `release`."""

    folder: Path
    lock: int
    segments: list[Segment] = field(default_factory=list)

    def release(self) -> None:
        """Give it up, and remove it where nothing is left."""
        if not _files(self.folder):
            remove(self.folder)
        os.close(self.lock)


def adopt(spool: Path, *, most: int = AT_ONCE) -> list[Legacy]:
    """Folders of processes that live no more, the oldest first, unless others were faster.

    At most so many: each costs an open file until it is released.
    """
    found: list[Legacy] = []
    for folder in _folders(spool):
        if len(found) >= most:
            break
        try:
            lock = os.open(folder / LOCK, os.O_RDWR)
        except FileNotFoundError:  # somebody else has just cleared it
            continue
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            os.close(lock)
            continue
        segments = [segment for path in _files(folder) if (segment := segment_of(path))]
        found.append(Legacy(folder, lock, segments))
    return found


def segment_of(path: Path) -> Segment | None:
    """The segment in a file; of a live one the lines are counted."""
    if path.suffix == SEALED:
        rows = path.stem.partition("-")[2]
        return Segment(path, int(rows) if rows.isdigit() else 0)
    if path.suffix == LIVE:
        with contextlib.suppress(FileNotFoundError):
            return Segment(path, path.read_bytes().count(b'"kind":"closed"'), was_live=True)
    return None


@dataclass(frozen=True)
class Depth:
    """What waits in the spool: about so many rows, the oldest of them since `oldest_at` (Unix
    time in seconds; None where there are none), in files of so many bytes.
    """

    rows: int = 0
    oldest_at: float | None = None
    size_bytes: int = 0


class _At(msgspec.Struct):
    at: int = 0


def depth(spool: Path) -> Depth:
    """Over the segments of all processes, dead and alive."""
    rows, size, oldest = 0, 0, []
    for folder in _folders(spool):
        for path in _files(folder):
            segment = segment_of(path)
            if segment is None:
                continue
            with contextlib.suppress(FileNotFoundError):  # shipped in this moment
                size += path.stat().st_size
                rows += segment.rows
                if segment.rows and (began := _first_time(path)):
                    oldest.append(began)
    return Depth(rows, min(oldest, default=None), size)


def size_bytes(spool: Path) -> int:
    """Of all segments in the spool."""
    total = 0
    for folder in _folders(spool):
        for path in _files(folder):
            with contextlib.suppress(FileNotFoundError):
                total += path.stat().st_size
    return total


def _first_time(path: Path) -> float | None:
    with path.open("rb") as file:
        line = file.readline()
    try:
        return msgspec.json.decode(line, type=_At).at / 1e6
    except msgspec.MsgspecError:
        return None


def _folders(spool: Path) -> Iterator[Path]:
    """Of processes, the oldest first."""
    if spool.is_dir():
        for path in sorted(spool.iterdir()):
            if not path.name.startswith(".") and (path / LOCK).exists():
                yield path


def _files(folder: Path) -> list[Path]:
    """Everything in a process' folder but its lock, in the order in which it was written."""
    try:
        return sorted(path for path in folder.iterdir() if path.name != LOCK)
    except FileNotFoundError:
        return []
