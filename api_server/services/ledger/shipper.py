"""Brings segments of the spool to PostgreSQL: in batches, one at a time, as often as it takes.

The event loop is given back after every few lines. A segment goes when the database has all of it;
what is sent twice is one row.
"""

import asyncio
import logging
from collections.abc import Awaitable, Callable, Iterable, Sequence
from datetime import UTC, date, datetime, timedelta
from pathlib import Path

from api_server.errors import RowsRefusedError
from api_server.observability.metrics import Metrics
from api_server.services.ledger.rows import Reading
from api_server.services.ledger.spool import Segment
from api_server.stores.usage import UsageStore

BATCH_ROWS = 1000
LINES_AT_ONCE = 100
PAUSE_SECONDS = 0.005
"""Between two batches: who catches up after an outage leaves room for others."""

BATCH_CONTENTS = 8
"""Half a megabyte each, at most."""

REFUSED = "refused"
_DAY = 24 * 3600 * 1_000_000
_EPOCH = date(1970, 1, 1)

Take = Callable[[Sequence[bytes], Sequence[date]], Awaitable[None]]

log = logging.getLogger(__name__)


class Shipper:
    """Remembers how far it came with a segment when the database went away."""

    def __init__(self, store: UsageStore, metrics: Metrics, refused: Path) -> None:
        self._store = store
        self._metrics = metrics
        self._refused = refused
        self._done: dict[Path, int] = {}

    async def ship(self, segment: Segment) -> None:
        """Hand over all rows of a segment, then remove it. One call at a time.

        Raises `DependencyDownError` where the database is away, `OSError` where a file cannot be
        read; to call again goes on from there.
        """
        path = segment.path
        try:
            data = await asyncio.to_thread(path.read_bytes)
        except FileNotFoundError:  # an operator's doing
            return
        reading = Reading()
        lines = data.split(b"\n")
        for first in range(0, len(lines), LINES_AT_ONCE):
            reading.take(lines[first : first + LINES_AT_ONCE])
            await asyncio.sleep(0)
        if segment.was_live:
            reading.end_all()
        for first in range(0, len(reading.contents), BATCH_CONTENTS):
            batch = slice(first, first + BATCH_CONTENTS)
            take = self._store.insert_content
            await self._insert(take, reading.contents[batch], reading.content_times[batch])
            await asyncio.sleep(PAUSE_SECONDS)
        for first in range(self._done.get(path, 0), len(reading.rows), BATCH_ROWS):
            batch = slice(first, first + BATCH_ROWS)
            take = self._store.insert
            taken = await self._insert(take, reading.rows[batch], reading.times[batch])
            self._metrics.ledger_shipped(taken)
            self._done[path] = first + BATCH_ROWS
            await asyncio.sleep(PAUSE_SECONDS)
        await asyncio.to_thread(path.unlink, missing_ok=True)
        self._done.pop(path, None)
        if reading.torn:
            self._metrics.ledger_lost("torn", reading.torn)
            fields = {"segment": path.name, "lines": reading.torn}
            log.warning("lines of the ledger were damaged", extra=fields)

    async def _insert(self, take: Take, rows: Sequence[bytes], times: Sequence[int]) -> int:
        """How many were taken: a row that is refused is put aside, and holds up no others."""
        try:
            await take(rows, months_of(times, datetime.now(UTC).date()))
        except RowsRefusedError as exc:
            reason = str(exc)
        else:
            return len(rows)
        if len(rows) > 1:
            half = len(rows) // 2
            taken = await self._insert(take, rows[:half], times[:half])
            return taken + await self._insert(take, rows[half:], times[half:])
        await asyncio.to_thread(self._park, rows[0])
        self._metrics.ledger_lost(REFUSED, 1)
        fields = {"reason": reason, "folder": str(self._refused)}
        log.error("the database refused a row of the ledger", extra=fields)
        return 0

    def _park(self, row: bytes) -> None:
        self._refused.mkdir(parents=True, exist_ok=True, mode=0o700)
        name = f"{datetime.now(UTC):%Y-%m}.jsonl"
        with (self._refused / name).open("ab") as file:
            file.write(row + b"\n")


def months_of(times: Iterable[int], today: date) -> list[date]:
    """The first days of the months that these times (microseconds) lie in, and of the next one."""
    days = {_EPOCH + timedelta(days=day) for day in {at // _DAY for at in times}}
    days.add(today.replace(day=1) + timedelta(days=32))
    return sorted({day.replace(day=1) for day in days})
