"""The jobs API of the AI server requirements: accept now, ask later (docs/jobs.md)."""

from typing import Annotated, Any

import msgspec
from fastapi import APIRouter, Query, Request, Response
from starlette.requests import HTTPConnection

from api_server.errors import DependencyDownError
from api_server.routes.token_path import read_body
from api_server.schemas.jobs import AiBatch, AiRequest
from api_server.services.jobs.owners import Credentials
from api_server.services.jobs.reading import check_key, read_batch, read_request
from api_server.services.jobs.room import Jobs
from api_server.services.jobs.service import JobService

router = APIRouter(tags=["jobs"])

Json = dict[str, Any]


def jobs_of(connection: HTTPConnection) -> Jobs:
    """Raises `DependencyDownError` where there is no database to keep jobs in."""
    jobs: Jobs | None = connection.app.state.jobs
    if jobs is None:
        raise DependencyDownError("PostgreSQL (POSTGRES_URL)", retry_after_seconds=60)
    return jobs


def _service(request: Request) -> JobService:
    return jobs_of(request).service


def credentials_of(request: HTTPConnection, app_code: str | None = None) -> Credentials:
    """What a request, or a WebSocket, shows of who sends it."""
    headers = request.headers
    return Credentials(app_code or headers.get("x-app-code"), headers.get("authorization"))


async def _body(request: Request) -> bytes:
    bounds = request.app.state.bounds
    size, seconds = bounds.max_body_bytes, bounds.body_timeout_seconds
    return await read_body(request.scope, request.receive, size, seconds)


def _answer(content: Any) -> Response:
    return Response(msgspec.json.encode(content), media_type="application/json")


def _takes(schema: type) -> Json:
    """For the document, which describes the schema (openapi.py)."""
    content = {"application/json": {"schema": {"$ref": f"#/components/schemas/{schema.__name__}"}}}
    return {"requestBody": {"required": True, "content": content}}


def _is_accepted(ids: list[str], batch_id: str | None) -> Json:
    answer: Json = {"status": "success"}
    if batch_id is None:
        answer["request_id"] = ids[0]
    else:
        answer |= {"batch_id": batch_id, "request_ids": ids}
    return answer | {"message": "Request queued successfully"}


@router.post("/ai_request", openapi_extra=_takes(AiRequest))
async def accept(request: Request) -> Response:
    """Put a request into the queue; it is safe when this answers."""
    key = check_key(request.headers.get("idempotency-key"))
    body = read_request(await _body(request))
    shown = credentials_of(request, body.app_code)
    receipt = await _service(request).accept(body, shown, key)
    return _answer(_is_accepted(list(receipt.ids), None))


@router.post("/ai_request/batch", openapi_extra=_takes(AiBatch))
async def accept_batch(request: Request) -> Response:
    """The same with many at once, all of them or none."""
    key = check_key(request.headers.get("idempotency-key"))
    body = read_batch(await _body(request))
    shown = credentials_of(request, body.app_code)
    receipt = await _service(request).accept_batch(body, shown, key)
    return _answer(_is_accepted(list(receipt.ids), receipt.batch_id))


@router.get("/get_request/{request_id}")
async def status(request_id: str, request: Request) -> Response:
    """How far a request, or a batch, is; its result when it has one."""
    return _answer(await _service(request).status(request_id, credentials_of(request)))


@router.post("/get_request/{request_id}/cancel")
async def cancel(request_id: str, request: Request) -> Response:
    """Cancel a request, or what is left of a batch."""
    return _answer(await _service(request).cancel(request_id, credentials_of(request)))


@router.post("/get_request/{request_id}/retry")
async def retry(request_id: str, request: Request) -> Response:
    """Begin a failed request again, or what failed of a batch."""
    return _answer(await _service(request).retry(request_id, credentials_of(request)))


@router.get("/requests")
async def history(
    request: Request,
    state: str | None = None,
    request_type: str | None = None,
    batch_id: str | None = None,
    after: str | None = None,
    limit: Annotated[int, Query()] = 50,
) -> Response:
    """The app's requests, newest first; `after` is the `next` of the page before."""
    return _answer(
        await _service(request).history(
            credentials_of(request),
            state=state,
            request_type=request_type,
            batch_id=batch_id,
            after=after,
            limit=limit,
        )
    )
