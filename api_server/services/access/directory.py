"""All apps and their credentials in memory, so that no request waits for a database.

PostgreSQL tells of changes; as nobody hears a connection that died in silence, it is asked every
two seconds as well. A file has the same for a start while it is away.
"""

import asyncio
import contextlib
import logging
import random
import time
from collections.abc import Awaitable, Callable, Iterable
from pathlib import Path
from typing import Protocol

from api_server.errors import DependencyDownError
from api_server.schemas.apps import App
from api_server.services.access.book import Book, Found
from api_server.services.access.secrets import digest_of
from api_server.services.access.snapshot import (
    Content,
    Stamp,
    confirm_snapshot,
    read_snapshot,
    stamp_of,
    write_snapshot,
)
from api_server.stores.apps import Changes, Kind

CHANNEL = "apps_changed"
ASK_SECONDS = 2.0
CONFIRM_SECONDS = 30.0
LISTEN_AGAIN_SECONDS = 2.0
ROWS_AT_ONCE = 200
"""Then others have their turn: reading ten thousand apps must not keep requests waiting."""

Listen = Callable[[str, Callable[[str], None]], Awaitable[None]]

log = logging.getLogger(__name__)


class AppSource(Protocol):
    """Where apps are kept. Both raise `DependencyDownError` within a time budget."""

    async def last_change(self) -> int:
        """The number of the newest change."""

    async def changes_since(self, known: int | None) -> Changes:
        """What changed after that number; everything for None."""


class Directory:
    """Answers from memory. `source` None: there is no database, and no app but the built-in ones.

    `built_in` are apps without credentials that are in no database; `is_writer` is for the one of
    several processes that keeps the snapshot.
    """

    def __init__(
        self,
        source: AppSource | None,
        snapshot_path: Path,
        *,
        built_in: Iterable[App] = (),
        listen: Listen | None = None,
        is_writer: bool = True,
        clock: Callable[[], float] = time.time,
    ) -> None:
        self._source = source
        self._path = snapshot_path
        self._built_in = {key: app for app in built_in for key in (app.id, app.name)}
        self._listen = listen
        self._is_writer = is_writer
        self._clock = clock
        self._book = Book()
        self._change: int | None = None
        self._true_at: float | None = None
        self._confirmed_at = 0.0
        self._written: Stamp | None = None
        self._wake = asyncio.Event()
        self._reading = asyncio.Lock()
        self._tasks: list[asyncio.Task[None]] = []

    # what requests ask

    def known(self, key: bytes) -> Found | None:
        """The holder of a key, None for nobody as far as is known. Never raises.

        A look-up by digest: how long it takes tells nothing of the keys.
        """
        return self._current(digest_of(key), "key")

    def find(self, key: str | bytes) -> Found | None:
        """Who holds this key; None for nobody, or where it was revoked or has expired.

        Raises `DependencyDownError` as long as no apps are known at all.
        """
        return self._find(key, "key")

    def find_app_code(self, code: str | bytes) -> App | None:
        """The app of an app code, likewise."""
        found = self._find(code, "app_code")
        return found.app if found is not None else None

    def app(self, name_or_id: str) -> App | None:
        """An app that is not revoked. Raises `DependencyDownError` as long as none are known."""
        if (built_in := self._built_in.get(name_or_id)) is not None:
            return built_in
        found = self._book.apps.get(name_or_id) or self._book.names.get(name_or_id)
        if found is None:
            self.check_is_known()
        return found

    @property
    def is_known(self) -> bool:
        """Whether apps came from PostgreSQL or from a file."""
        return self._true_at is not None

    def check_is_known(self) -> None:
        """Raises `DependencyDownError` where nobody can tell whether a key is right."""
        if not self.is_known:
            raise DependencyDownError("postgres", retry_after_seconds=ASK_SECONDS)

    @property
    def age_seconds(self) -> float | None:
        """How long ago this was known to be true; None where nothing is known."""
        return None if self._true_at is None else max(0.0, self._clock() - self._true_at)

    # what the gateway calls

    async def start(self, wait_seconds: float = 3.0) -> None:
        """Read all, from PostgreSQL within that time or else from the file; then keep up."""
        if self._source is None:
            return
        first = asyncio.create_task(self._refresh_quietly())
        await asyncio.wait({first}, timeout=wait_seconds)
        if not self.is_known:
            await self._read_file()
        self._tasks.append(asyncio.create_task(self._keep_up(first)))
        if self._listen is not None:
            self._tasks.append(asyncio.create_task(self._hear(self._listen)))

    async def aclose(self) -> None:
        for task in self._tasks:
            task.cancel()
        if self._tasks:
            await asyncio.wait(self._tasks, timeout=1.0)
        self._tasks.clear()

    async def refresh(self) -> None:
        """Read what has changed. Raises `DependencyDownError`."""
        if self._source is None:
            return
        async with self._reading:
            asked_at = self._clock()
            if await self._source.last_change() != self._change:
                changes = await self._source.changes_since(self._change)
                book = await self._read(changes)
                self._book, self._change = book, changes.change
                self._written = None
            self._true_at = asked_at
            await self._save()

    # inside

    def _find(self, secret: str | bytes, kind: Kind) -> Found | None:
        found = self._current(digest_of(secret), kind)
        if found is None:
            self.check_is_known()
        return found

    def _current(self, digest: bytes, kind: Kind) -> Found | None:
        found = self._book.found.get(digest)
        if found is None or found.kind != kind:
            return None
        if found.expires_at is not None and found.expires_at <= self._clock():
            return None
        return found

    async def _keep_up(self, first: "asyncio.Task[None]") -> None:
        try:
            await first
            while True:
                with contextlib.suppress(TimeoutError):
                    async with asyncio.timeout(ASK_SECONDS * random.uniform(0.8, 1.0)):  # noqa: S311
                        await self._wake.wait()
                self._wake.clear()
                await self._refresh_quietly()
        finally:
            first.cancel()

    async def _refresh_quietly(self) -> None:
        try:
            await self.refresh()
        except DependencyDownError:
            return  # its state is told elsewhere, once
        except Exception:  # the top of a background loop: what is known stays good
            log.exception("the apps could not be read")

    async def _hear(self, listen: Listen) -> None:
        while True:
            try:
                await listen(CHANNEL, lambda _: self._wake.set())
            except Exception as exc:  # noqa: BLE001 - the top of a background loop
                log.debug("cannot listen for changes", extra={"reason": type(exc).__name__})
            self._wake.set()  # what was told in between was not heard
            await asyncio.sleep(LISTEN_AGAIN_SECONDS)

    async def _read_file(self) -> None:
        read = await asyncio.to_thread(read_snapshot, self._path)
        if read is None:
            log.warning("PostgreSQL is away and there is no snapshot of the apps yet")
            return
        content, true_at = read
        rows = (content.apps, content.credentials)
        book = await self._read(Changes(content.change, *rows, is_whole=True))
        if self.is_known:
            return  # PostgreSQL answered after all
        # Whether this database is the one that the file came from is not known: `_change` stays.
        self._book, self._true_at = book, true_at
        age = round(self._clock() - true_at)
        log.warning("PostgreSQL is away: apps from the snapshot", extra={"age_seconds": age})

    async def _read(self, changes: Changes) -> Book:
        """What is known with these changes. A whole reading is a new book until it is complete."""
        book = Book() if changes.is_whole else self._book
        for number, row in enumerate(changes.apps, 1):
            book.take_app(row)
            if number % ROWS_AT_ONCE == 0:
                await asyncio.sleep(0)
        for number, credential in enumerate(changes.credentials, 1):
            book.take_credential(credential)
            if number % ROWS_AT_ONCE == 0:
                await asyncio.sleep(0)
        return book

    async def _save(self) -> None:
        """Keep the file as new as what is known; that it cannot be written ends nothing."""
        if not self._is_writer or self._change is None:
            return
        now = self._clock()
        try:
            stamp = stamp_of(self._path)
            is_ours = stamp is not None and stamp == self._written
            is_there = stamp is not None and self._written is not None
            if is_there and now - self._confirmed_at <= CONFIRM_SECONDS:
                return
            if is_ours:
                self._written = confirm_snapshot(self._path)
            else:  # what another gateway wrote may be older than what is known here
                content = Content(self._change, self._book.app_rows(), self._book.credential_rows())
                self._written = await asyncio.to_thread(write_snapshot, self._path, content)
            self._confirmed_at = now
        except OSError as exc:
            fields = {"path": str(self._path), "reason": exc.strerror}
            log.warning("the snapshot of apps cannot be written", extra=fields)
