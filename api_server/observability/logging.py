"""JSON lines on standard output: one a request, one for each thing that an operator should know."""

import asyncio
import logging
import math
import sys
import time
import traceback
from datetime import UTC, datetime
from typing import TextIO

import msgspec

FLUSH_SECONDS = 0.05
MOST_LINES = 500

_STANDARD = frozenset(vars(logging.makeLogRecord({}))) | {"message", "asctime", "taskName"}


class Seldom:
    """Lets through the first of the same complaints, and then one in so many seconds."""

    def __init__(self, seconds: float) -> None:
        self._seconds = seconds
        self._last = -math.inf

    def is_due(self) -> bool:
        """True uses it up."""
        now = time.monotonic()
        if now - self._last < self._seconds:
            return False
        self._last = now
        return True


class JsonFormatter(logging.Formatter):
    """One JSON object a line; whatever a caller put into `extra` becomes a field.

    JSON escaping keeps a client's line breaks from forging lines.
    """

    def format(self, record: logging.LogRecord) -> str:
        line: dict[str, object] = {
            "time": datetime.fromtimestamp(record.created, UTC).isoformat(timespec="milliseconds"),
            "level": record.levelname.lower(),
            "logger": record.name,
            "message": record.getMessage(),
        }
        line |= {key: value for key, value in vars(record).items() if key not in _STANDARD}
        if record.exc_info:
            line["traceback"] = "".join(traceback.format_exception(*record.exc_info))
        return msgspec.json.encode(line, enc_hook=str).decode()


class SharedWrites(logging.StreamHandler[TextIO]):
    """Writes lines that come within a moment together: a write for each would cost a tenth of all.

    Outside of an event loop, and from WARNING on, a line is written at once.
    """

    def __init__(self, stream: TextIO) -> None:
        super().__init__(stream)
        self.lost_lines = 0
        self._lines: list[str] = []

    def emit(self, record: logging.LogRecord) -> None:
        self._lines.append(self.format(record))
        if record.levelno >= logging.WARNING or len(self._lines) >= MOST_LINES:
            self.flush()
        elif len(self._lines) == 1:
            try:
                asyncio.get_running_loop().call_later(FLUSH_SECONDS, self.flush)
            except RuntimeError:
                self.flush()

    def flush(self) -> None:
        lines, self._lines = self._lines, []
        try:
            if lines:
                self.stream.write("\n".join([*lines, ""]))
            self.stream.flush()
        except (OSError, ValueError):  # nobody reads the log any more: answering goes on without
            self.lost_lines += len(lines)


def configure_logging(level: str) -> None:
    """Send every logger of the process through `JsonFormatter`. Called by the command line."""
    handler = SharedWrites(sys.stdout)
    handler.setFormatter(JsonFormatter())
    root = logging.getLogger()
    root.handlers[:] = [handler]
    root.setLevel(level.upper())
    for name in ("uvicorn", "uvicorn.error"):
        logging.getLogger(name).handlers.clear()
        logging.getLogger(name).propagate = True
    logging.getLogger("uvicorn.access").disabled = True
    logging.getLogger("uvicorn.error").setLevel(logging.WARNING)
