"""`/health` for a person; `/health/live`, `/open` and `/ready` for machines. Four true answers."""

from typing import Literal

from fastapi import APIRouter, Request, Response
from pydantic import BaseModel

from api_server.services.health import Health, humanize_seconds

router = APIRouter(tags=["health"])


class ModelHealth(BaseModel):
    """One model and whether its engine could serve a token now."""

    id: str
    is_ready: bool


class JobCounts(BaseModel):
    """Jobs of all gateways and workers; `active_workers` is how many can be done at once."""

    queued: int
    processing: int
    active_workers: int


class Summary(BaseModel):
    """What a person wants to know.

    `queue_size` is whatever waits: requests for an engine, and jobs. `jobs` is null where nobody
    can tell, `together_ai_status` where no model is Together's. `problems` are sentences about
    engines that are there and cannot be used.
    """

    status: Literal["ok", "degraded", "down"]
    models: list[ModelHealth]
    problems: list[str]
    requests_in_flight: int
    queue_size: int
    uptime: str
    uptime_seconds: float
    version: str
    dependencies: dict[str, Literal["up", "down"]]
    apps_age_seconds: float | None
    active_workers: int
    jobs: JobCounts | None
    together_ai_status: Literal["connected", "disconnected"] | None


class Readiness(BaseModel):
    """Whether a token could be served now, and which models cannot serve one themselves.

    `schema_version` is that of the database's tables. A dependency that is down is no reason to be
    not ready: chats do without.
    """

    status: Literal["ready", "not ready"]
    unready_models: list[str]
    schema_version: int | None
    dependencies: dict[str, Literal["up", "down"]]


class Liveness(BaseModel):
    """The process answers; nothing else is said."""

    status: Literal["alive"] = "alive"


class Openness(BaseModel):
    """Whether this gateway takes new requests; one that is about to end says so before it does."""

    status: Literal["open", "closing"]


def _health(request: Request) -> Health:
    health: Health = request.app.state.health
    return health


@router.head("/health", include_in_schema=False)
@router.get("/health")
async def summary(request: Request) -> Summary:
    """Status, models, uptime. Always 200: for decisions there is `/health/ready`."""
    health = _health(request)
    models = [ModelHealth(id=id_, is_ready=ready) for id_, ready in (await health.models()).items()]
    ready = sum(model.is_ready for model in models)
    status: Literal["ok", "degraded", "down"] = "ok" if ready == len(models) else "degraded"
    counts, jobs = health.jobs, None
    if counts is not None:
        jobs = JobCounts(
            queued=counts.queued, processing=counts.processing, active_workers=counts.slots
        )
    return Summary(
        status=status if ready else "down",
        models=models,
        problems=health.problems,
        requests_in_flight=health.requests_in_flight,
        queue_size=health.queue_size + (jobs.queued if jobs is not None else 0),
        uptime=humanize_seconds(health.uptime_seconds()),
        uptime_seconds=round(health.uptime_seconds(), 1),
        version=health.version,
        dependencies=health.dependencies,
        apps_age_seconds=health.apps_age_seconds,
        active_workers=jobs.active_workers if jobs is not None else 0,
        jobs=jobs,
        together_ai_status=_together(health, models),
    )


def _together(
    health: Health, models: list[ModelHealth]
) -> Literal["connected", "disconnected"] | None:
    states = [model.is_ready for model in models if model.id in health.together_models]
    if not states:
        return None
    return "connected" if any(states) else "disconnected"


@router.head("/health/live", include_in_schema=False)
@router.get("/health/live")
async def live() -> Liveness:
    """200 as long as the process can answer at all."""
    return Liveness()


@router.head("/health/open", include_in_schema=False)
@router.get("/health/open", responses={503: {"model": Openness}})
async def open_(request: Request, response: Response) -> Openness:
    """200, or 503 from SIGTERM on while DRAIN_NOTICE_SECONDS last; then the port is closed.

    Engines do not matter here. For whoever spreads requests over gateways.
    """
    if not _health(request).is_closing:
        return Openness(status="open")
    response.status_code = 503
    return Openness(status="closing")


@router.head("/health/ready", include_in_schema=False)
@router.get("/health/ready", responses={503: {"model": Readiness}})
async def ready(request: Request, response: Response) -> Readiness:
    """200 when each model could serve a token now, else 503; asks the engines each time.

    A model whose fallback could is no reason for a 503, nor is one in the cloud beside others here.
    """
    is_ready, unready = await _health(request).is_ready()
    if not is_ready:
        response.status_code = 503
        response.headers["retry-after"] = "1"
    health = _health(request)
    return Readiness(
        status="ready" if is_ready else "not ready",
        unready_models=unready,
        schema_version=health.schema_version,
        dependencies=health.dependencies,
    )
