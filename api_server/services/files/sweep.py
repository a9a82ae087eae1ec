"""Removes what belongs to nothing any more: expired files and uploads, objects that are loose.

An object is removed first and forgotten afterwards, so that a process may die at any moment. One
that cannot be removed keeps no other from it, and is tried again in the next round.
"""

import asyncio
import logging
from collections.abc import Awaitable, Callable, Mapping, Sequence

from api_server.errors import DependencyDownError, ObjectKeptError
from api_server.observability.logging import Seldom
from api_server.services.files.bucket import Bucket
from api_server.stores.files import FileStore
from api_server.stores.uploads import UploadStore

AT_ONCE = 500
"""Objects of one round."""

REMOVING = 4
"""Requests to the object store at the same time."""

FORGET_SECONDS = 7 * 86_400.0
"""An upload that was not completed is known for so long."""

PROBE_SECONDS = 0.5
COMPLAINT_SECONDS = 600.0
"""A line of log, at most so often, tells of objects that cannot be removed."""

log = logging.getLogger(__name__)


class Sweep:
    """In every process; several at once do no harm."""

    def __init__(
        self,
        files: FileStore,
        uploads: UploadStore,
        bucket: Bucket,
        *,
        sweep_seconds: float,
        loose_seconds: float,
        is_up: Callable[[], bool],
    ) -> None:
        self._files = files
        self._uploads = uploads
        self._loose = files.loose
        self._bucket = bucket
        self._sweep_seconds = sweep_seconds
        self._loose_seconds = loose_seconds
        self._is_up = is_up
        self._complaints = Seldom(COMPLAINT_SECONDS)

    async def run(self) -> None:
        """Sweep now and then, until it is cancelled."""
        while True:
            try:
                await self.sweep()
            except DependencyDownError:
                pass  # the next round does what this one did not
            except Exception:  # the top of a background loop
                log.exception("the sweep of files failed")
            await asyncio.sleep(self._sweep_seconds)

    async def watch(self) -> None:
        """Look after an object store that is away, so that no client has to be the first to."""
        while True:
            await asyncio.sleep(PROBE_SECONDS)
            if self._is_up():
                continue
            try:
                await self._bucket.probe()
            except DependencyDownError:
                pass
            except Exception:  # the top of a background loop
                log.exception("the look after the object store failed")

    async def sweep(self) -> int:
        """Once, to the end; returns how many objects were removed. Raises `DependencyDownError`."""
        await _until_none(self._files.delete_expired)
        await _until_none(self._end_late)
        await self._loose.doom_old(self._loose_seconds, AT_ONCE)
        removed = 0
        while names := await self._loose.doomed(AT_ONCE):
            count = await self._remove(names)
            removed += count
            if not count:  # others come first in the next round
                break
        return removed

    async def _end_late(self) -> int:
        return await self._uploads.end_late(forget_seconds=FORGET_SECONDS)

    async def _remove(self, names: Sequence[str]) -> int:
        """Each on its own; how many are removed. Ends where the object store is away."""
        removed = 0
        for start in range(0, len(names), REMOVING):
            group = names[start : start + REMOVING]
            kept: dict[str, Exception] = {}
            await asyncio.gather(*(self._try_remove(name, kept) for name in group))
            gone = [name for name in group if name not in kept]
            await self._loose.forget(gone)
            removed += len(gone)
            if kept:
                await self._loose.put_off(list(kept), self._sweep_seconds)
                if not self._is_up():
                    raise DependencyDownError("objects")
                self._complain(kept)
        return removed

    async def _try_remove(self, name: str, kept: dict[str, Exception]) -> None:
        try:
            await self._bucket.remove(name)
        except (ObjectKeptError, DependencyDownError) as exc:
            kept[name] = exc

    def _complain(self, kept: Mapping[str, Exception]) -> None:
        if not self._complaints.is_due():
            return
        name, error = next(iter(kept.items()))
        reason = str(error.__cause__ or error)
        log.warning(
            "an object cannot be removed and is tried again",
            extra={"object": name, "reason": reason},
        )


async def _until_none(work: Callable[[], Awaitable[int]]) -> None:
    while await work():
        pass
