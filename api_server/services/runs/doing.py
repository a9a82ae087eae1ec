"""Does runs: the `Doer` of jobs of the kind `run`. A leg's job names its run and nothing else."""

import asyncio
import logging
from dataclasses import replace

import msgspec

from api_server.errors import DependencyDownError
from api_server.observability.metrics import RUN_ROUTE
from api_server.observability.record import RequestRecord
from api_server.services.jobs.asking import caller_of
from api_server.services.runs.context import MOST_MESSAGES
from api_server.services.runs.hub import Hub
from api_server.services.runs.leg import Leg
from api_server.services.runs.outside import GAP
from api_server.services.runs.under_way import Bench
from api_server.services.runs.writing import Pen, Scribe
from api_server.stores.jobs import Taken

LOOK_SECONDS = 1.0

log = logging.getLogger(__name__)


class _RunJob(msgspec.Struct):
    run_id: str


_JOB = msgspec.json.Decoder(_RunJob)


def chat_of(run_id: str) -> str:
    """What the job of a leg says. Pure."""
    return msgspec.json.encode(_RunJob(run_id)).decode()


class RunDoer:
    """One for a process."""

    route = RUN_ROUTE

    def __init__(self, bench: Bench, hub: Hub, scribe: Scribe) -> None:
        self._bench = bench
        self._hub = hub
        self._scribe = scribe
        self._legs: dict[str, Leg] = {}

    async def do(self, job: Taken, record: RequestRecord) -> None:  # noqa: ARG002
        """One leg. Raises `ApiError` where it is to be tried again later."""
        loaded = await self._bench.store.load(_JOB.decode(job.chat).run_id, MOST_MESSAGES)
        if loaded is None:
            return
        run = loaded.run
        if run.job_id != job.id or run.status not in ("queued", "in_progress", "cancelling"):
            return
        leg = Leg(self._bench, loaded, caller_of(job), is_revoked=job.is_revoked)
        channel = self._hub.open(run.id, run.last_event)
        numbered = replace(run, last_event=run.last_event + (GAP if job.fence > 1 else 0))
        pen = Pen(self._scribe, channel, numbered, job.fence, leg.cancel)
        self._legs[job.id] = leg
        try:
            await leg.go(pen)
        finally:
            if self._legs.get(job.id) is leg:
                del self._legs[job.id]
            self._hub.close(run.id, channel)

    def cancel(self, job_id: str) -> None:
        """Somebody wants the run of this job cancelled."""
        leg = self._legs.get(job_id)
        if leg is not None:
            leg.cancel()

    async def look(self) -> None:
        """Until it is cancelled: a word that was not heard is seen a second later."""
        while True:
            await asyncio.sleep(LOOK_SECONDS)
            legs = {leg.run_id: leg for leg in self._legs.values()}
            if not legs:
                continue
            try:
                for run_id in await self._bench.store.cancelling(list(legs)):
                    legs[run_id].cancel()
            except DependencyDownError:
                log.debug("nobody knows now which runs are to be cancelled")
            except Exception:  # the top of a background loop
                log.exception("runs to be cancelled could not be looked for")
