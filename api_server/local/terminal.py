"""What `make local` prints while it works: whole lines, and one line of progress that is rewritten.

Knows whether it writes to a terminal; on a pipe, progress becomes a line now and then.
"""

import shutil
import time
from collections.abc import Callable
from typing import Protocol, TextIO

PIPE_INTERVAL_SECONDS = 10.0


class Say(Protocol):
    """Where a long step tells the operator what it does. Neither method blocks for long."""

    def line(self, text: str) -> None:
        """Print one line that stays."""

    def progress(self, text: str) -> None:
        """Rewrite the current line; where that cannot be, print a line at most each 10 s."""


class TerminalSay:
    """`Say` on a text stream, such as standard error."""

    def __init__(self, stream: TextIO, *, clock: Callable[[], float] = time.monotonic) -> None:
        self._stream = stream
        self._clock = clock
        self._is_terminal = stream.isatty()
        self._is_line_open = False
        self._printed_at = float("-inf")

    def line(self, text: str) -> None:
        """Print one line that stays, in place of the progress line if one is open."""
        self._stream.write(f"{self._rewind()}{text}\n")
        self._stream.flush()
        self._is_line_open = False

    def progress(self, text: str) -> None:
        """Rewrite the current line; where that cannot be, print a line at most each 10 s."""
        if self._is_terminal:
            width = shutil.get_terminal_size().columns - 1
            self._stream.write(f"{self._rewind()}{text[:width]}")
            self._stream.flush()
            self._is_line_open = True
        elif self._clock() - self._printed_at >= PIPE_INTERVAL_SECONDS:
            self._printed_at = self._clock()
            self.line(text)

    def _rewind(self) -> str:
        return "\r\x1b[K" if self._is_line_open else ""
