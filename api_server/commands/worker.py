"""`worker`: does jobs and serves nothing. Any number of them share the queue with the gateways."""

import asyncio
import logging
import signal

from api_server.composition import compose
from api_server.errors import SetupError
from api_server.settings import Settings

log = logging.getLogger(__name__)


def work(settings: Settings) -> None:
    """Until a signal; then what runs comes to its end within `gateway.drain_seconds`."""
    if settings.postgres_url is None:
        raise SetupError("Jobs are kept in PostgreSQL: set POSTGRES_URL.")
    asyncio.run(_work(settings))


async def _work(settings: Settings) -> None:
    slots = settings.jobs.worker_slots
    runs = settings.stack.assistants.worker_runs
    services = compose(settings, job_slots=slots, run_slots=runs)
    assert services.jobs is not None
    stop = asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stop.set)
    async with services.running():
        log.info("a worker does jobs", extra={"slots": slots, "runs": runs})
        await stop.wait()
        services.jobs.room.begin_drain(settings.drain_seconds)
