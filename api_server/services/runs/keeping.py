"""Keeps house for runs: those that take too long or that nobody does any more end; old streams go.

One process at a time does it.
"""

import asyncio
import logging

from api_server.errors import DependencyDownError
from api_server.services.runs.endings import (
    CANCELLED,
    EXPIRED,
    Ended,
    Ending,
    resumable,
    tell_ended,
)
from api_server.services.runs.outside import GAP, end_run
from api_server.stores.postgres import Connection
from api_server.stores.run_rows import ACTIVE, Run
from api_server.stores.runs import (
    Abandoned,
    RunStore,
    end_job,
    forget_events,
    is_in_turn,
    lock_job,
    lock_run,
)

KEEP_SECONDS = 1.0

log = logging.getLogger(__name__)


class Keeper:
    """`event_seconds` is how long the stream of a run that has ended can be read."""

    def __init__(self, store: RunStore, event_seconds: float, ended: Ended) -> None:
        self._store = store
        self._ended = ended
        self._event_seconds = event_seconds

    async def run(self) -> None:
        """Until it is cancelled."""
        while True:
            await asyncio.sleep(KEEP_SECONDS)
            try:
                await self.keep()
            except DependencyDownError:
                log.debug("nobody keeps house for runs now")
            except Exception:  # the top of a background loop
                log.exception("the housekeeping of runs failed")

    async def keep(self) -> None:
        """Once."""

        async def look(connection: Connection) -> tuple[list[tuple[str, str]], list[Abandoned]]:
            if not await is_in_turn(connection):
                return [], []
            await forget_events(connection, self._event_seconds)
            return await self._store.late(connection), await self._store.abandoned(connection)

        late, abandoned = await self._store.transaction(look)
        for run_id, job_id in late:
            await self._end(run_id, job_id, EXPIRED, "The run took longer than it may.")
        for each in abandoned:
            await self._end(each.run_id, each.job_id, None, each.message or "", each.job_state)

    async def _end(
        self,
        run_id: str,
        job_id: str,
        ending: Ending | None,
        message: str,
        job_state: str | None = None,
    ) -> None:
        """End one, unless it has gone on meanwhile."""

        async def work(connection: Connection) -> Run | None:
            state = await lock_job(connection, job_id)
            found = await lock_run(connection, run_id)
            if found is None:
                return None
            run, at = found
            if run.status not in ACTIVE or run.job_id != job_id:
                return None
            if ending is EXPIRED and (run.expires_at is None or run.expires_at > at):
                return None
            if ending is None and state in ("queued", "processing"):
                return None
            how = ending or _ending_of(job_state)
            if run.status == "cancelling":
                how = CANCELLED
            elif how.status == "failed":
                told = resumable(run, message or "The run was given up by whoever did it.")
                how = Ending("failed", ("server_error", told), can_resume=True)
            await end_job(connection, job_id, message)
            return await end_run(connection, run, how, at, gap=GAP)

        ended = await self._store.transaction(work)
        if ended is not None:
            tell_ended(self._ended, ended)


def _ending_of(job_state: str | None) -> Ending:
    """How a run ends whose job came to an end without it. Pure."""
    if job_state == "expired":
        return EXPIRED
    return Ending("failed")
