"""Puts HTTP round the services: routes and layers. With composition/ the only one that knows all.

`create_app` opens nothing; connections are made when the first request needs them, and the
lifespan closes them.
"""

from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import asynccontextmanager
from functools import partial

from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse
from starlette.exceptions import HTTPException
from starlette.middleware.cors import CORSMiddleware
from starlette.types import ASGIApp, Receive, Scope, Send

from api_server import __version__
from api_server.composition import ALONE, Services, Worker, compose
from api_server.errors import (
    ApiError,
    ClientLeftError,
    InternalError,
    InvalidRequestError,
    MethodNotAllowedError,
    RouteNotFoundError,
    envelope_for,
)
from api_server.middleware.authentication import Authenticated
from api_server.middleware.error_edge import ErrorEdge
from api_server.middleware.request_log import RequestLog
from api_server.observability.record import record_of
from api_server.routes import actions as action_routes
from api_server.routes import admin as admin_routes
from api_server.routes import admin_apps as admin_app_routes
from api_server.routes import admin_usage as admin_usage_routes
from api_server.routes import assistants as assistant_routes
from api_server.routes import conversations as conversation_routes
from api_server.routes import files as file_routes
from api_server.routes import health as health_routes
from api_server.routes import job_socket as job_socket_routes
from api_server.routes import jobs as job_routes
from api_server.routes import metrics as metrics_routes
from api_server.routes import models as model_routes
from api_server.routes import runs as run_routes
from api_server.routes import threads as thread_routes
from api_server.routes import uploads as upload_routes
from api_server.routes import vector_stores as vector_store_routes
from api_server.routes.openapi import document
from api_server.routes.token_path import Serve, TokenEndpoint, TokenPath
from api_server.services.health import Health
from api_server.services.requests import Kind
from api_server.settings import Settings

ROUTES = (  # looked through in this order
    *(run_routes, thread_routes),
    *(model_routes, health_routes, metrics_routes, admin_routes, admin_app_routes),
    *(job_routes, job_socket_routes, admin_usage_routes),
    *(file_routes, upload_routes),
    *(assistant_routes, vector_store_routes, action_routes, conversation_routes),
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
    """The ASGI application: the token path first, FastAPI for everything else.

    `begin_drain` says that the end is near.
    """

    def __init__(self, app: ASGIApp, health: Health, begin_drain: Callable[[], None]) -> None:
        self._app = app
        self.health = health
        self.begin_drain = begin_drain

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        await self._app(scope, receive, send)


def create_app(settings: Settings, worker: Worker = ALONE) -> Gateway:
    """The gateway for these settings, ready to be served."""
    services = compose(settings, worker)

    @asynccontextmanager
    async def lifespan(_: FastAPI) -> AsyncIterator[None]:
        async with services.running():
            yield

    app = FastAPI(
        title="llm-serving-stack",
        version=__version__,
        lifespan=lifespan,
        redirect_slashes=False,  # to http:// and any Host, with the code that stands in the body
    )
    app.openapi = partial(document, app)  # type: ignore[method-assign]
    app.state.catalogue = services.catalogue
    app.state.health = services.health
    app.state.metrics = services.metrics
    app.state.models = services.models
    app.state.admin_key = settings.admin_key
    app.state.apps = services.apps
    app.state.jobs = services.jobs
    kept = services.kept
    app.state.files = kept.files
    app.state.vector_stores = kept.vector_stores
    app.state.assistants = kept.assistants.assistants if kept.assistants is not None else None
    app.state.threads = kept.assistants.threads if kept.assistants is not None else None
    app.state.runs = kept.runs
    app.state.conversations = kept.conversations
    app.state.actions = kept.actions
    app.state.usage = services.usage
    app.state.bounds = settings.stack.gateway
    for routes in ROUTES:
        app.include_router(routes.router)
    for error in (ApiError, HTTPException, RequestValidationError, Exception):
        app.add_exception_handler(error, _render)

    inside = TokenPath(_endpoints(services, settings), app)
    known = Authenticated(inside, services.access.authentication, *OTHER_KEYS)
    edge = _with_cors(ErrorEdge(known), settings)
    close = services.ledger.close if services.ledger is not None else None
    outside = RequestLog(edge, services.metrics, services.degradation, close)

    def begin_drain() -> None:
        if services.jobs is not None:
            services.jobs.room.begin_drain(settings.drain_seconds)

    return Gateway(outside, services.health, begin_drain)


def _endpoints(services: Services, settings: Settings) -> Mapping[str, ASGIApp]:
    """The token path: each of these routes reaches an engine."""
    stack = settings.stack
    verbs: dict[Kind, Serve] = {
        Kind.CHAT: services.completions.chat,
        Kind.TEXT: services.completions.text,
        Kind.EMBEDDINGS: services.embeddings.embed,
    }
    return {
        kind.value: TokenEndpoint(
            serve,
            max_body_bytes=stack.gateway.max_body_bytes,
            body_seconds=stack.gateway.body_timeout_seconds,
            stall_seconds=stack.timeouts.idle_seconds,
        )
        for kind, serve in verbs.items()
    }


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


async def _render(request: Request, exc: Exception) -> JSONResponse:
    """FastAPI's own errors in the envelope of all others."""
    if isinstance(exc, ClientLeftError):  # raised again after this, and the edge knows of it
        return JSONResponse({})
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
    content = envelope_for(request.url.path, error)
    return JSONResponse(content, status_code=error.status, headers=error.headers)
