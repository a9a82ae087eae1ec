"""A process' own folder in the spool: segments of lines, each only ever appended to.

The kernel's lock on the folder says that its process lives, and ends with it however it ends. What
was written survives the death of the process; `sync` makes it survive a loss of power as well.
"""

import contextlib
import fcntl
import os
import secrets
import time
from collections import deque
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

LOCK = "lock"
LIVE = ".live"
SEALED = ".rows"
SEGMENT_BYTES = 1024 * 1024


@dataclass(frozen=True)
class Segment:
    """A file that nobody writes to any more, with about so many `rows`.

    Of a segment that `was_live`, whoever was open in it died with its process; of any other one
    the next segment has what was open.
    """

    path: Path
    rows: int
    was_live: bool = False


class Spool:
    """Where one process writes. Everything but `sync` is a matter of microseconds."""

    def __init__(self, folder: Path, *, segment_bytes: int = SEGMENT_BYTES) -> None:
        self.folder = folder
        self.own: Path | None = None
        self.rows = 0
        """In the live segment."""
        self.written_bytes = 0
        """Since this was last set to 0."""
        self._segment_bytes = segment_bytes
        self._lock: int | None = None
        self._live: int | None = None
        self._live_path = Path()
        self._number = self._known_number = 0
        self._size = 0
        self._is_torn = False
        self._to_sync: deque[int] = deque()

    @property
    def is_open(self) -> bool:
        return self.own is not None

    @property
    def is_full(self) -> bool:
        """Whether it is time for another segment."""
        return self._size >= self._segment_bytes

    def open(self) -> None:
        """Make this process' folder, locked from the moment on that others can see it."""
        self.folder.mkdir(parents=True, exist_ok=True, mode=0o700)
        name = f"{time.time_ns():020d}-{os.getpid()}-{secrets.token_hex(4)}"
        hidden = self.folder / f".{name}"
        hidden.mkdir(mode=0o700)
        lock = os.open(hidden / LOCK, os.O_RDWR | os.O_CREAT | os.O_EXCL, 0o600)
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        self.own = self.folder / name
        hidden.rename(self.own)
        self._lock = lock

    def write(self, line: bytes, *, is_row: bool) -> None:
        """Append one line. Raises `OSError` where it could not be written as a whole."""
        live = self._live
        if live is None:
            self._live, self._live_path = self._begin()
            live = self._live
        if self._is_torn:  # so that only the line before is lost
            line = b"\n" + line
        written = os.write(live, line)
        self._size += written
        self.written_bytes += written
        self._is_torn = written < len(line)
        if self._is_torn:
            raise OSError("only a part of a line could be written; the disk is full")
        self.rows += is_row

    def rotate(self, carried: Iterable[bytes]) -> Segment | None:
        """Seal the live segment, if there is one, and carry the lines of open requests over.

        Those are written first: whenever the process dies, each is in a segment that was live.
        Raises `OSError` where that is not possible; then nothing has changed.
        """
        if self._live is None:
            return None
        lines = b"".join(carried)
        new, new_path = (None, Path()) if not lines else self._carry(lines)
        old, old_path = self._live, self._live_path
        self._live, self._live_path = new, new_path
        segment = Segment(old_path.with_name(f"{old_path.stem}-{self.rows}{SEALED}"), self.rows)
        self.rows = self._size = 0
        self._is_torn = False
        self._to_sync.append(old)
        old_path.rename(segment.path)
        return segment

    def sync(self) -> None:
        """Bring what was written onto the disk. Blocks: for a thread, one at a time."""
        live = self._live
        while self._to_sync:
            sealed = self._to_sync.popleft()
            try:
                os.fdatasync(sealed)
            finally:
                os.close(sealed)
        if live is not None and live == self._live:  # nobody but this method closes any
            os.fdatasync(live)
        if self.own is not None and self._number != self._known_number:
            self._known_number = self._number
            for folder in (self.folder, self.own):  # so that new files are found there too
                entry = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
                try:
                    os.fsync(entry)
                finally:
                    os.close(entry)

    def close(self) -> None:
        """Let the folder go: what is left in it is for whoever comes next. Blocks as `sync` does.

        Where nothing is left, the folder goes too.
        """
        if self.own is None:
            return
        own, self.own = self.own, None
        self.sync()
        if self._live is not None:
            os.close(self._live)
            self._live = None
        if not [each for each in own.iterdir() if each.name != LOCK]:
            remove(own)
        if self._lock is not None:
            os.close(self._lock)

    def _begin(self) -> tuple[int, Path]:
        assert self.own is not None, "open() comes first"
        self._number += 1
        path = self.own / f"{self._number:08d}{LIVE}"
        return os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_EXCL, 0o600), path

    def _carry(self, lines: bytes) -> tuple[int, Path]:
        new, path = self._begin()
        try:
            if os.write(new, lines) == len(lines):
                return new, path
            raise OSError("the disk is full")
        except OSError:
            os.close(new)
            path.unlink(missing_ok=True)
            raise


def remove(folder: Path) -> None:
    """A process' folder in which nothing is left. Whoever calls has its lock."""
    with contextlib.suppress(OSError):  # somebody else did it
        (folder / LOCK).unlink()
        folder.rmdir()
