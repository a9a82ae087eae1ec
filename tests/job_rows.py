"""Jobs for tests of the store, without an API in front of it."""

import secrets
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from api_server.schemas.apps import Priority
from api_server.services.jobs.waiting import step_of
from api_server.stores.jobs import End, JobStore, NewJob, Taken
from api_server.stores.postgres import Postgres

MANY = 1_000_000


@asynccontextmanager
async def job_store(url: str) -> AsyncIterator[JobStore]:
    postgres = Postgres(url)
    try:
        yield JobStore(postgres)
    finally:
        await postgres.aclose()


def new_job(
    app: str = "app_a",
    priority: Priority = "default",
    *,
    weight: float = 1.0,
    model: str = "m",
    key: str | None = None,
    batch: str | None = None,
    item: int = 0,
    request: str = "r",
) -> NewJob:
    return NewJob(
        id=f"job_{secrets.token_urlsafe(24)}",
        app_id=app,
        user=None,
        request_type="t",
        chat="{}",
        model=model,
        priority=priority,
        step=step_of(weight, priority),
        digest=request.encode(),
        idempotency_key=key,
        batch_id=batch,
        item=item,
    )


async def put(store: JobStore, *jobs: NewJob, timeout_seconds: float = 300) -> list[str]:
    """Accept each on its own, in one transaction; returns the ids."""
    await store.add([[job] for job in jobs], timeout_seconds=timeout_seconds, queue_size=MANY)
    return [job.id for job in jobs]


async def take(
    store: JobStore,
    count: int = 1,
    *,
    owner: str = "w",
    lease_seconds: float = 30,
    timeout_seconds: float = 300,
    max_attempts: int = 3,
    without_models: tuple[str, ...] = (),
    without_apps: tuple[str, ...] = (),
) -> list[Taken]:
    return await store.claim(
        owner,
        count,
        lease_seconds=lease_seconds,
        timeout_seconds=timeout_seconds,
        max_attempts=max_attempts,
        without_models=without_models,
        without_apps=without_apps,
    )


def done(job: Taken, response: str = "{}") -> End:
    return End(job.id, job.fence, "completed", response=response)


def failed(job: Taken, *, retry_possible: bool = True) -> End:
    return End(job.id, job.fence, "error", "AI_SERVICE_ERROR", "no", retry_possible)


async def keep(store: JobStore, *, max_attempts: int = 3, retention: float = 1e6) -> None:
    await store.keep(max_attempts=max_attempts, retention_seconds=retention)
