"""The ledger: notes each request on disk before its last byte leaves, and ships rows from there.

`open` and `close` are a write to a file each and never fail a request: what cannot be written is
counted as lost and said in the log. Docs: docs/ledger.md, reasons: docs/decisions/0008.
"""

import asyncio
import contextlib
import logging
import random
import time
from collections import deque
from datetime import UTC, datetime, timedelta
from pathlib import Path

from api_server.errors import DependencyDownError
from api_server.observability.logging import Seldom
from api_server.observability.metrics import OPERATIONS, Metrics
from api_server.observability.record import RequestRecord
from api_server.services.ledger import rows
from api_server.services.ledger.adopting import AT_ONCE, Legacy, adopt, size_bytes
from api_server.services.ledger.shipper import REFUSED, Shipper
from api_server.services.ledger.spool import Segment, Spool
from api_server.stores.usage import UsageStore

SHIP_SECONDS = 1.0
KEEP_SECONDS = 1.0
TROUBLE_SECONDS = 5.0
"""Until the next try after an error that nobody has foreseen, or of a file."""

CLOSE_SECONDS = 5.0
LAST_LOOKS, LAST_LOOK_SECONDS = 50, 0.01
COMPLAIN_SECONDS = 60.0
DROP_SECONDS = 24 * 3600.0
LOSSES = ("torn", "disk", "spool_full", "closed", REFUSED)

log = logging.getLogger(__name__)


class Ledger:
    """One for a process. `folder` is the spool, which all processes of a machine share.

    With more than `most_bytes` in the spool, further rows are lost, and loudly so: those that are
    there are never given up. Months that ended `retention_days` ago are dropped.
    """

    def __init__(
        self,
        folder: Path,
        store: UsageStore,
        metrics: Metrics,
        *,
        most_bytes: int = 1024**3,
        retention_days: int = 400,
        ship_seconds: float = SHIP_SECONDS,
    ) -> None:
        self.folder = folder
        self._store = store
        self._metrics = metrics
        self._most_bytes = most_bytes
        self._retention = timedelta(days=retention_days)
        self._ship_seconds = ship_seconds
        self._spool = Spool(folder)
        self._shipper = Shipper(store, metrics, folder / "refused")
        self._ids = rows.RowIds()
        self._open: dict[str, tuple[int, bytes]] = {}
        self._waiting: deque[tuple[Segment, Legacy | None]] = deque()
        self._is_over_bound = False
        self._complaints = Seldom(COMPLAIN_SECONDS)
        self._tasks: list[asyncio.Task[None]] = []
        self._drop_at = 0.0
        metrics.ledger_shipped(0)
        for reason in LOSSES:
            metrics.ledger_lost(reason, 0)

    # what requests call

    def open(self, record: RequestRecord) -> None:
        """The request is about to use a model. Its row will be there even if this process dies."""
        if record.app_id is None or record.ledger_id is not None:
            return
        at = rows.arrived_at(record)
        row_id = record.ledger_id = self._ids.new(at)
        line = rows.opened(record, row_id, at)
        self._open[row_id] = (at, line)
        self._write(line, is_row=False)

    def close(self, record: RequestRecord) -> None:
        """The request is over, as its record says. A second call does nothing.

        A request that was never opened gets a row where its route leads to a model.
        """
        row_id = record.ledger_id
        if row_id is None:
            if record.app_id is None or record.route not in OPERATIONS:
                return
            at = rows.arrived_at(record)
            row_id = record.ledger_id = self._ids.new(at)
        else:
            begun = self._open.pop(row_id, None)
            if begun is None:
                return
            at = begun[0]
        if record.content is not None:  # first, so that no row is without it
            self._write(rows.content(record, record.content, row_id, at), is_row=False)
            record.content = None
        self._write(rows.closed(record, row_id, at), is_row=True)

    # what the composition root calls

    async def start(self) -> None:
        """Take over what dead processes left, and begin to ship. Raises `OSError` where the
        spool's folder cannot be made.
        """
        await asyncio.to_thread(self._spool.open)
        await self._adopt()
        self._tasks = [
            asyncio.create_task(self._keep_until_cancelled()),
            asyncio.create_task(self._ship_until_cancelled()),
        ]

    async def aclose(self) -> None:
        """Ship what is there, for some seconds at most; what is left is for the next start."""
        for _ in range(LAST_LOOKS):  # requests that are being cancelled
            if self._open:
                await asyncio.sleep(LAST_LOOK_SECONDS)
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        with contextlib.suppress(DependencyDownError, TimeoutError, OSError):
            async with asyncio.timeout(CLOSE_SECONDS):
                await self._ship_all()
        for legacy in {each.folder: each for _, each in self._waiting if each is not None}.values():
            await asyncio.to_thread(legacy.release)
        self._waiting.clear()
        await asyncio.to_thread(self._spool.close)
        self._metrics.ledger_waiting(0)

    # inside

    def _write(self, line: bytes, *, is_row: bool) -> None:
        spool = self._spool
        if self._is_over_bound or not spool.is_open:
            if is_row:
                self._lose("spool_full" if spool.is_open else "closed")
            return
        try:
            spool.write(line, is_row=is_row)
            if spool.is_full:
                self._rotate()
        except OSError as exc:
            if is_row:
                self._lose("disk", str(exc))

    def _rotate(self) -> None:
        segment = self._spool.rotate(line for _, line in self._open.values())
        if segment is not None:
            self._waiting.append((segment, None))

    def _lose(self, reason: str, why: str = "") -> None:
        """Count a lost row; in the log it stands once a minute."""
        self._metrics.ledger_lost(reason, 1)
        self._complain("rows of the ledger are lost", reason, why)

    def _complain(self, what: str, reason: str, why: str = "") -> None:
        if self._complaints.is_due():
            log.error(what, extra={"reason": reason, "error": why})

    async def _keep_until_cancelled(self) -> None:
        """Once a second: onto the disk, within the bound, and who else has died?"""
        while True:
            await asyncio.sleep(KEEP_SECONDS)
            try:
                await asyncio.to_thread(self._spool.sync)
                size = await asyncio.to_thread(size_bytes, self.folder)
                self._is_over_bound = size >= self._most_bytes
                await self._adopt()
            except OSError as exc:
                self._complain("the spool of the ledger is in trouble", "disk", str(exc))
            self._count_waiting()

    async def _adopt(self) -> None:
        room = AT_ONCE - len({legacy.folder for _, legacy in self._waiting if legacy is not None})
        for legacy in await asyncio.to_thread(adopt, self.folder, most=room):
            self._waiting.extend((segment, legacy) for segment in legacy.segments)
            if not legacy.segments:
                await asyncio.to_thread(legacy.release)
        self._count_waiting()

    async def _ship_until_cancelled(self) -> None:
        while True:
            seconds = self._ship_seconds
            try:
                await self._ship_all()
                await self._drop_old()
            except DependencyDownError as exc:
                seconds = max(seconds, exc.retry_after_seconds or 0.0)
            except OSError as exc:
                seconds = TROUBLE_SECONDS
                self._complain("the spool of the ledger is in trouble", "disk", str(exc))
            except Exception:  # the top of a background task: the next try may do better
                seconds = TROUBLE_SECONDS
                log.exception("shipping the ledger failed")
            # With jitter, so that many processes do not come back in the same moment.
            await asyncio.sleep(seconds * random.uniform(0.75, 1.25))  # noqa: S311 - no secret

    async def _ship_all(self) -> None:
        """What waits, and then what was written since, so that an outage makes no small files."""
        await self._ship_waiting()
        if self._spool.rows:
            self._rotate()
            await self._ship_waiting()

    async def _ship_waiting(self) -> None:
        while self._waiting:
            segment, legacy = self._waiting[0]
            await self._shipper.ship(segment)
            self._waiting.popleft()
            if legacy is not None:
                legacy.segments.remove(segment)
                if not legacy.segments:
                    await asyncio.to_thread(legacy.release)
            self._count_waiting()

    async def _drop_old(self) -> None:
        now = time.monotonic()
        if now < self._drop_at:
            return
        self._drop_at = now + DROP_SECONDS / 24  # the next try, if this one fails
        dropped = await self._store.drop_before(datetime.now(UTC) - self._retention)
        self._drop_at = now + DROP_SECONDS
        if dropped:
            log.info("dropped old months of the ledger", extra={"months": dropped})

    def _count_waiting(self) -> None:
        sealed = sum(segment.rows for segment, _ in self._waiting)
        self._metrics.ledger_waiting(self._spool.rows + sealed)
