"""Lines of log: soon, in order, and at once where they matter."""

import asyncio
import io
import json
import logging
from collections.abc import Iterator

import pytest

from api_server.observability.logging import FLUSH_SECONDS, MOST_LINES, JsonFormatter, SharedWrites


@pytest.fixture
def stream() -> io.StringIO:
    return io.StringIO()


@pytest.fixture
def log(stream: io.StringIO) -> Iterator[logging.Logger]:
    handler = SharedWrites(stream)
    handler.setFormatter(JsonFormatter())
    logger = logging.getLogger(__name__)
    logger.setLevel(logging.INFO)
    logger.propagate = False
    logger.addHandler(handler)
    yield logger
    logger.removeHandler(handler)


def lines(stream: io.StringIO) -> list[str]:
    return [json.loads(line)["message"] for line in stream.getvalue().splitlines()]


async def test_lines_that_come_together_are_written_together_and_soon(
    log: logging.Logger, stream: io.StringIO
) -> None:
    log.info("one")
    log.info("two")
    assert stream.getvalue() == ""
    await asyncio.sleep(FLUSH_SECONDS * 2)
    assert lines(stream) == ["one", "two"]
    log.info("three")
    await asyncio.sleep(FLUSH_SECONDS * 2)
    assert lines(stream) == ["one", "two", "three"]


async def test_a_warning_is_written_at_once_behind_what_came_before(
    log: logging.Logger, stream: io.StringIO
) -> None:
    log.info("one")
    log.warning("two")
    assert lines(stream) == ["one", "two"]


async def test_lines_do_not_pile_up(log: logging.Logger, stream: io.StringIO) -> None:
    for number in range(MOST_LINES):
        log.info("%d", number)
    assert len(lines(stream)) == MOST_LINES


def test_without_an_event_loop_a_line_is_written_at_once(
    log: logging.Logger, stream: io.StringIO
) -> None:
    log.info("one")
    assert lines(stream) == ["one"]


def test_a_log_that_nobody_reads_any_more_stops_nothing(
    log: logging.Logger, stream: io.StringIO
) -> None:
    stream.close()
    log.warning("one")
    handler = next(handler for handler in log.handlers if isinstance(handler, SharedWrites))
    assert handler.lost_lines == 1
