"""The terminal: a page of its own while the monitor runs, and as it was before at the end."""

import contextlib
import os
import select
import signal
import sys
import termios
from collections.abc import Iterator, Sequence
from types import FrameType
from typing import TextIO

_OWN_PAGE, _PAGE_BEFORE = "\x1b[?1049h", "\x1b[?1049l"
_HIDE_CURSOR, _SHOW_CURSOR = "\x1b[?25l", "\x1b[?25h"
_HOME, _REST_OF_LINE, _REST_OF_PAGE = "\x1b[H", "\x1b[K", "\x1b[J"


class Screen:
    """Made by `own_screen`."""

    def __init__(self, out: TextIO, wakes: int) -> None:
        self._out = out
        self._wakes = wakes

    @property
    def size(self) -> tuple[int, int]:
        """Columns and rows as of now; 80 and 24 where the terminal does not tell."""
        try:
            found = os.get_terminal_size(self._out.fileno())
        except OSError:
            return 80, 24
        return (found.columns, found.lines) if found.columns and found.lines else (80, 24)

    def show(self, lines: Sequence[str]) -> None:
        """Draw over what is there, without a moment of emptiness."""
        # Erased first: after a letter in the last column, some terminals would erase that.
        page = _HOME + "\n".join(_REST_OF_LINE + each for each in lines)
        if len(lines) < self.size[1]:
            page += "\n" + _REST_OF_PAGE
        self._out.write(page)
        self._out.flush()

    def wait(self, seconds: float) -> bool:
        """Until the time is over (False), or the terminal has another size (True)."""
        ready, _, _ = select.select([self._wakes], [], [], max(0.0, seconds))
        if ready:
            os.read(self._wakes, 4096)
        return bool(ready)


@contextlib.contextmanager
def own_screen(out: TextIO) -> Iterator[Screen]:
    """For the main thread of a process whose standard output is a terminal.

    SIGTERM and a terminal that is gone end it like Ctrl-C: as `KeyboardInterrupt`.
    """
    reads, writes = os.pipe()
    os.set_blocking(writes, False)

    def resized(_: int, __: FrameType | None) -> None:
        with contextlib.suppress(BlockingIOError):
            os.write(writes, b"r")

    def ended(_: int, __: FrameType | None) -> None:
        raise KeyboardInterrupt

    handlers = {signal.SIGWINCH: resized, signal.SIGTERM: ended, signal.SIGHUP: ended}
    before = {number: signal.signal(number, handler) for number, handler in handlers.items()}
    before[signal.SIGTSTP] = signal.signal(signal.SIGTSTP, signal.SIG_IGN)  # with the cursor hidden
    try:
        with _without_echo():
            out.write(_OWN_PAGE + _HIDE_CURSOR)
            try:
                yield Screen(out, reads)
            finally:
                with contextlib.suppress(OSError, ValueError):  # the terminal may be gone
                    out.write(_SHOW_CURSOR + _PAGE_BEFORE)
                    out.flush()
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
        os.close(reads)
        os.close(writes)


@contextlib.contextmanager
def _without_echo() -> Iterator[None]:
    """What is typed would be written into the figures."""
    try:
        keyboard = sys.stdin.fileno()
        before = termios.tcgetattr(keyboard)
    except (OSError, ValueError, termios.error):  # it is no terminal
        yield
        return
    quiet = [*before[:3], before[3] & ~termios.ECHO, *before[4:]]
    termios.tcsetattr(keyboard, termios.TCSANOW, quiet)
    try:
        yield
    finally:
        with contextlib.suppress(OSError, termios.error):
            termios.tcflush(keyboard, termios.TCIFLUSH)
            termios.tcsetattr(keyboard, termios.TCSANOW, before)
