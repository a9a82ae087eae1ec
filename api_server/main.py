"""The composition root: builds every object of the gateway and is the only one that knows them all.

`create_app` opens nothing; connections are made when the first request needs them, and the
lifespan closes them.
"""

import asyncio
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from functools import partial

from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse
from starlette.exceptions import HTTPException
from starlette.middleware.cors import CORSMiddleware
from starlette.types import ASGIApp, Receive, Scope, Send

from api_server import __version__
from api_server.errors import (
    ApiError,
    InternalError,
    InvalidRequestError,
    MethodNotAllowedError,
    RouteNotFoundError,
)
from api_server.inference.catalogue import Catalogue, Model
from api_server.inference.model_manager import LLMModelManager
from api_server.inference.replicas.replica_set import ReplicaSet
from api_server.inference.wire import Wire
from api_server.middleware.authentication import Authenticated
from api_server.middleware.error_edge import ErrorEdge
from api_server.middleware.request_log import RequestLog
from api_server.observability.degradation import Degradation
from api_server.observability.metrics import Metrics
from api_server.observability.numbers import Numbers
from api_server.observability.record import record_of
from api_server.routes import admin as admin_routes
from api_server.routes import admin_apps as admin_app_routes
from api_server.routes import admin_usage as admin_usage_routes
from api_server.routes import health as health_routes
from api_server.routes import metrics as metrics_routes
from api_server.routes import models as model_routes
from api_server.routes.openapi import document
from api_server.routes.token_path import Serve, TokenEndpoint, TokenPath
from api_server.services.access.access import Access
from api_server.services.access.authentication import Authentication, NoAuthentication
from api_server.services.access.directory import Directory
from api_server.services.access.managing import ManagedApps
from api_server.services.access.published_keys import PublishedKeys
from api_server.services.access.tokens import TokenRules, Tokens
from api_server.services.admission import Gate
from api_server.services.completions import Completions
from api_server.services.embeddings import Embeddings
from api_server.services.entrance import Entrance
from api_server.services.health import Health
from api_server.services.lane import Lane
from api_server.services.ledger.ledger import Ledger
from api_server.services.ledger.reports import Usage
from api_server.services.models import ManagedModels
from api_server.services.quotas.quotas import Quotas
from api_server.services.requests import Kind
from api_server.services.schema import Schema
from api_server.settings import Settings
from api_server.stores.app_seeds import AppSeeds
from api_server.stores.apps import AppStore
from api_server.stores.limits import RedisLimits
from api_server.stores.postgres import Postgres
from api_server.stores.published_keys import KeyServer
from api_server.stores.redis import Redis
from api_server.stores.usage import UsageStore


@dataclass(frozen=True)
class Worker:
    """Which one of how many serving processes this is; `numbers` is where each of them counts."""

    index: int = 0
    count: int = 1
    numbers: Sequence[Numbers] = ()

    def share_of(self, total: int) -> int:
        """This worker's part of something that all of them share; the parts add up to it."""
        share, rest = divmod(total, self.count)
        return share + (self.index < rest)


ALONE = Worker()

ROUTES = (
    *(model_routes, health_routes, metrics_routes),
    *(admin_routes, admin_app_routes, admin_usage_routes),
)

OTHER_KEYS = ("/admin", "/ai_request", "/get_request", "/requests", "/ws/requests")
"""Paths that, with all below them, look at the caller's key themselves."""

EXPOSED_HEADERS = (
    *("x-request-id", "retry-after", "retry-after-ms", "server-timing", "x-cache", "x-degraded"),
    *("x-fallback-model", "x-dropped-messages"),
    *("x-ratelimit-limit-requests", "x-ratelimit-remaining-requests", "x-ratelimit-reset-requests"),
    *("x-ratelimit-limit-tokens", "x-ratelimit-remaining-tokens", "x-ratelimit-reset-tokens"),
)
"""What a web page may read of an answer, besides its body."""


class Gateway:
    """The ASGI application: the token path first, FastAPI for everything else."""

    def __init__(self, app: ASGIApp, health: Health) -> None:
        self._app = app
        self.health = health

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        await self._app(scope, receive, send)


def create_app(settings: Settings, worker: Worker = ALONE) -> Gateway:
    """The gateway for these settings, ready to be served."""
    catalogue = Catalogue(settings.models())
    numbers = worker.numbers or [Numbers() for _ in range(worker.count)]
    metrics = Metrics((model.id for model in catalogue), numbers[worker.index], numbers)
    manager = LLMModelManager(catalogue)
    lanes = {
        model.id: _lane(model, manager.wire(model.id), settings, worker, metrics)
        for model in catalogue
    }
    postgres, redis = _postgres(settings), _redis(settings)
    degradation = Degradation(
        [each.dependency.name for each in (postgres, redis) if each is not None], metrics
    )
    for each in (postgres, redis):
        if each is not None:
            each.dependency.notice = partial(degradation.changed, each.dependency.name)
    access = _access(settings, worker, postgres)
    ledger = _ledger(postgres, settings, metrics)
    quotas = Quotas(
        RedisLimits(redis) if redis is not None else None,
        metrics,
        processes=worker.count,
        index=worker.index,
    )
    entrance = Entrance(quotas, ledger)
    completions = Completions(catalogue, lanes, entrance)
    embeddings = Embeddings(catalogue, lanes, entrance)
    dependencies = [each.dependency for each in (postgres, redis) if each is not None]
    health = Health(lanes, __version__, dependencies=dependencies, access=access)

    @asynccontextmanager
    async def lifespan(_: FastAPI) -> AsyncIterator[None]:
        tasks = [asyncio.create_task(numbers[worker.index].beat())]
        try:
            await access.start()
            await quotas.start()
            await manager.start()
            if ledger is not None:
                await ledger.start()
            tasks.append(asyncio.create_task(manager.load_configured_models()))  # for minutes
            yield
        finally:  # a server that is hurried cancels us instead
            for task in tasks:
                task.cancel()
            await manager.aclose()
            await quotas.aclose()
            if ledger is not None:
                await ledger.aclose()
            await access.aclose()
            for each in (postgres, redis):
                if each is not None:
                    await each.aclose()

    app = FastAPI(title="llm-serving-stack", version=__version__, lifespan=lifespan)
    app.openapi = partial(document, app)  # type: ignore[method-assign]
    app.state.catalogue = catalogue
    app.state.health = health
    app.state.metrics = metrics
    app.state.models = ManagedModels(manager)
    app.state.usage = Usage(UsageStore(postgres), settings.spool) if postgres else None
    app.state.admin_key = settings.admin_key
    app.state.apps = ManagedApps(AppStore(postgres), by="/admin") if postgres else None
    for routes in ROUTES:
        app.include_router(routes.router)
    for error in (ApiError, HTTPException, RequestValidationError, Exception):
        app.add_exception_handler(error, _render)

    stack = settings.stack
    verbs: dict[Kind, Serve] = {
        Kind.CHAT: completions.chat,
        Kind.TEXT: completions.text,
        Kind.EMBEDDINGS: embeddings.embed,
    }
    endpoints = {
        kind.value: TokenEndpoint(
            serve,
            max_body_bytes=stack.gateway.max_body_bytes,
            body_seconds=stack.gateway.body_timeout_seconds,
            stall_seconds=stack.timeouts.idle_seconds,
        )
        for kind, serve in verbs.items()
    }
    inside = TokenPath(endpoints, app)
    known = Authenticated(inside, access.authentication, *OTHER_KEYS)
    edge = _with_cors(ErrorEdge(known), settings)
    close = ledger.close if ledger is not None else None
    return Gateway(RequestLog(edge, metrics, degradation, close), health)


def _access(settings: Settings, worker: Worker, postgres: Postgres | None) -> Access:
    """Who may come in. Without PostgreSQL nobody but the developer."""
    environment = settings.environment
    directory = Directory(
        AppStore(postgres) if postgres is not None else None,
        environment.data_dir / "apps.snapshot",
        listen=postgres.listen if postgres is not None else None,
        is_writer=worker.index == 0,
    )
    published = None
    if environment.jwt_jwks_url is not None:
        published = PublishedKeys(KeyServer(environment.jwt_jwks_url).fetch)
    secret = environment.jwt_secret
    rules = TokenRules(
        secret=secret.get_secret_value() if secret is not None else None,
        issuer=environment.jwt_issuer,
        audience=environment.jwt_audience,
        app=environment.jwt_app,
    )
    tokens = Tokens(rules, directory, published)
    authentication = Authentication(directory, tokens, development_key=settings.development_key)
    return Access(
        authentication if environment.auth else NoAuthentication(),
        directory,
        schema=Schema(settings.postgres_url) if settings.postgres_url else None,
        seeds=AppSeeds(postgres) if postgres is not None else None,
        seeded=settings.app_codes() if settings.stack.apps.seed is not None else None,
        published=published,
    )


def _with_cors(app: ASGIApp, settings: Settings) -> ASGIApp:
    """Web pages of the configured origins may call; without any, browsers keep them all out."""
    cors = settings.stack.gateway.cors
    if not cors.origins:
        return app
    return CORSMiddleware(
        app,
        allow_origins=cors.origins,
        allow_methods=["GET", "POST", "PATCH", "DELETE"],
        allow_headers=["*"],
        expose_headers=list(EXPOSED_HEADERS),
        max_age=cors.max_age_seconds,
    )


def _postgres(settings: Settings) -> Postgres | None:
    url = settings.postgres_url
    return Postgres(url) if url is not None else None


def _ledger(postgres: Postgres | None, settings: Settings, metrics: Metrics) -> Ledger | None:
    """Without a database there is none."""
    if postgres is None:
        return None
    section = settings.stack.ledger
    return Ledger(
        settings.spool,
        UsageStore(postgres),
        metrics,
        most_bytes=section.spool_mib * 1024 * 1024,
        retention_days=section.retention_days,
    )


def _redis(settings: Settings) -> Redis | None:
    url = settings.redis_url
    return Redis(url) if url is not None else None


def _lane(model: Model, wire: Wire, settings: Settings, worker: Worker, metrics: Metrics) -> Lane:
    """Workers share the places of an engine out among them: none knows of the others' requests.

    There is as much room as the sound replicas have; that of one when none is, for those who wait.
    Of a model in this process no slot idles for the time of a round trip.
    """
    admission = settings.stack.admission
    surplus = 0 if model.is_in_process else admission.surplus

    def capacity(replicas: int) -> int:
        return worker.share_of(max(1, replicas) * (model.slots + surplus))

    gate = Gate(capacity(1), worker.share_of(admission.queue_size))
    if not isinstance(wire, ReplicaSet):
        return Lane(model, wire, gate, metrics)

    def changed(replicas: ReplicaSet) -> None:
        gate.resize(capacity(replicas.sound))
        for each in replicas.replicas:
            metrics.replica_sound(model.id, each.name, is_sound=each.is_sound)

    changed(wire)
    wire.notice = changed
    return Lane(model, wire, gate, metrics, wants_prefix=wire.wants_prefix)


async def _render(request: Request, exc: Exception) -> JSONResponse:
    """FastAPI's own errors in the envelope of all others."""
    if isinstance(exc, ApiError):
        error = exc
    elif isinstance(exc, HTTPException) and exc.status_code == 405:
        allowed = (exc.headers or {}).get("Allow", "")
        error = MethodNotAllowedError(
            f"{request.url.path} takes {allowed}, not {request.method}.", headers={"allow": allowed}
        )
    elif isinstance(exc, HTTPException) and exc.status_code == 404:
        error = RouteNotFoundError(
            f"There is no {request.method} {request.url.path} here. GET /docs lists the routes."
        )
    elif isinstance(exc, HTTPException | RequestValidationError):
        error = InvalidRequestError("The request is malformed.")
    else:  # Starlette raises it again after this answer, and the edge logs it
        request_id = record_of(request.scope).request_id
        error = InternalError(f"The server failed; its log has the reason under {request_id}.")
    record_of(request.scope).fail("error", error.code, error.message, error.log_level)
    return JSONResponse(error.envelope(), status_code=error.status, headers=error.headers)
