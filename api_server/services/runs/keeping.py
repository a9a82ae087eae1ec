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
from api_server.stores.run_changes import (
    Over,
    abandoned,
    end_job,
    forget_events,
    is_in_turn,
    late,
    lock_job,
    lock_run,
)
from api_server.stores.run_rows import ACTIVE, Run
from api_server.stores.runs import RunStore

KEEP_SECONDS = 1.0
MOST_TOLD = 1000
"""Runs that cannot be ended, of which the log tells."""

log = logging.getLogger(__name__)


class Keeper:
    """`event_seconds` is how long the stream of a run that has ended can be read."""

    def __init__(self, store: RunStore, event_seconds: float, ended: Ended) -> None:
        self._store = store
        self._ended = ended
        self._event_seconds = event_seconds
        self._failed: set[str] = set()

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

        async def look(connection: Connection) -> list[tuple[Over, Ending | None]] | None:
            if not await is_in_turn(connection):
                return None
            await forget_events(connection, self._event_seconds)
            over = [(each, EXPIRED) for each in await late(connection)]
            return [*over, *((each, None) for each in await abandoned(connection))]

        over = await self._store.transaction(look)
        for each, how in over or ():
            await self._try_end(each, how)

    async def _try_end(self, over: Over, ending: Ending | None) -> None:
        """End one, for whose sake no other waits; what fails is left for a later turn."""
        ended = None
        try:
            ended = await self._store.transaction(lambda c: self._end(c, over, ending))
        except DependencyDownError:  # or somebody else holds its rows
            log.debug("a run could not be ended now", extra={"run": over.run_id})
        except Exception:  # a defect of one run
            if over.run_id not in self._failed and len(self._failed) < MOST_TOLD:  # said once
                self._failed.add(over.run_id)
                log.exception("a run could not be ended", extra={"run": over.run_id})
            return
        if ended is not None:
            tell_ended(self._ended, ended)
        self._failed.discard(over.run_id)

    async def _end(self, connection: Connection, over: Over, ending: Ending | None) -> Run | None:
        """None where it has gone on meanwhile."""
        state = await lock_job(connection, over.job_id)
        found = await lock_run(connection, over.run_id)
        if found is None:
            return None
        run, at = found
        if run.status not in ACTIVE or run.job_id != over.job_id:
            return None
        if ending is EXPIRED and (run.expires_at is None or run.expires_at > at):
            return None
        if ending is None and state in ("queued", "processing"):
            return None
        message = "The run took longer than it may." if ending is EXPIRED else over.message or ""
        how = ending or _ending_of(over.job_state)
        if run.status == "cancelling":
            how = CANCELLED
        elif how.status == "failed":
            told = resumable(run, message or "The run was given up by whoever did it.")
            how = Ending("failed", ("server_error", told), can_resume=True)
        await end_job(connection, over.job_id, message)
        return await end_run(connection, run, how, at, gap=GAP)


def _ending_of(job_state: str | None) -> Ending:
    """How a run ends whose job came to an end without it. Pure."""
    if job_state == "expired":
        return EXPIRED
    return Ending("failed")
