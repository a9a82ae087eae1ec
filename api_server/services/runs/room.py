"""Everything of runs in one process: what routes ask, and what runs beside."""

import logging
from collections.abc import Callable
from dataclasses import dataclass

from api_server.inference.catalogue import Catalogue
from api_server.observability.record import RequestRecord
from api_server.services.assistants.resources import Resources
from api_server.services.assistants.threads import ThreadService
from api_server.services.jobs.room import Besides
from api_server.services.jobs.rules import Rules
from api_server.services.jobs.worker import Worker
from api_server.services.runs.doing import RunDoer
from api_server.services.runs.endings import Ended
from api_server.services.runs.following import Following
from api_server.services.runs.hub import Hub
from api_server.services.runs.keeping import Keeper
from api_server.services.runs.outputs import Outputs
from api_server.services.runs.queue import Admit, Queue
from api_server.services.runs.reading import RunReader
from api_server.services.runs.service import RunService
from api_server.services.runs.tools import Tools
from api_server.services.runs.under_way import Bench, Chats
from api_server.services.runs.writing import Scribe
from api_server.stores.jobs import JobStore
from api_server.stores.postgres import Postgres
from api_server.stores.runs import RunStore

SLACK_SECONDS = 60.0
"""A job outlives its run by so much: it is the run that ends in time, and says why."""

log = logging.getLogger("api_server.request")


@dataclass(frozen=True)
class RunRules:
    """The section `assistants` of the settings, as the services see it. `slots` 0: none here."""

    slots: int
    run_seconds: float
    max_rounds: int
    event_seconds: float


@dataclass(frozen=True)
class Runs:
    """What routes ask."""

    service: RunService
    reader: RunReader
    outputs: Outputs
    following: Following
    scribe: Scribe
    queue: Queue

    async def aclose(self) -> None:
        """After those who do runs have come to their end."""
        await self.scribe.aclose()
        await self.queue.aclose()


def furnish_runs(
    postgres: Postgres,
    catalogue: Catalogue,
    chats: Chats,
    threads: ThreadService,
    resources: Resources,
    tools: Tools,
    job_rules: Rules,
    rules: RunRules,
    *,
    ended: Callable[[RequestRecord], None],
    run_ended: Ended,
    admit: Admit,
) -> tuple[Runs, Besides]:
    """`ended` gets the record of each request to an engine, `run_ended` each run that ended,
    `admit` counts legs.
    """
    store, jobs, hub = RunStore(postgres), JobStore(postgres, "run"), Hub()
    scribe = Scribe(store, hub)
    bench = Bench(store, chats, tools, ended, run_ended, rules.max_rounds)
    doer = RunDoer(bench, hub, scribe)
    lasting = Rules(
        timeout_seconds=rules.run_seconds + SLACK_SECONDS,
        max_attempts=job_rules.max_attempts,
        lease_seconds=job_rules.lease_seconds,
    )
    workers = []
    if rules.slots:
        workers.append(Worker(jobs, doer, lasting, rules.slots, ended=_log, observe=_observe))

    def begun() -> None:
        for worker in workers:
            worker.wake()

    reader = RunReader(store, threads)
    queue = Queue(store, jobs, lasting, admit, begun=begun)
    service = RunService(
        *(store, queue, reader, threads, resources, catalogue),
        run_seconds=rules.run_seconds,
        ended=run_ended,
    )
    keeper = Keeper(store, rules.event_seconds, run_ended)
    heard = {"cancel": doer.cancel, "events": hub.told}
    besides = Besides(workers, [keeper.run, doer.look], heard)
    outputs = Outputs(store, reader, queue)
    return Runs(service, reader, outputs, Following(store, hub), scribe, queue), besides


def _observe(_waited_seconds: float, _ran_seconds: float) -> None:
    """Metrics of jobs are those of clients' jobs."""


def _log(record: RequestRecord) -> None:
    """A leg is no request of its own: those to engines are counted."""
    log.debug("run", extra=record.as_fields())
