"""Removes what belongs to nothing any more: expired files and uploads, objects that are loose.

An object is removed first and forgotten afterwards, so that a process may die at any moment.
"""

import asyncio
import logging
from collections.abc import Awaitable, Callable, Sequence

from api_server.errors import DependencyDownError
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
        """Once, to the end; returns how many objects were removed."""
        await _until_none(self._files.delete_expired)
        await _until_none(self._end_late)
        await self._loose.doom_old(self._loose_seconds, AT_ONCE)
        removed = 0
        while names := await self._loose.doomed(AT_ONCE):
            await self._remove(names)
            removed += len(names)
        return removed

    async def _end_late(self) -> int:
        return await self._uploads.end_late(forget_seconds=FORGET_SECONDS)

    async def _remove(self, names: Sequence[str]) -> None:
        """Of a group that is cut off in the middle, what is removed is forgotten."""
        for start in range(0, len(names), REMOVING):
            group = names[start : start + REMOVING]
            await asyncio.gather(*(self._bucket.remove(name) for name in group))
            await self._loose.forget(group)


async def _until_none(work: Callable[[], Awaitable[int]]) -> None:
    while await work():
        pass
