"""Runs of assistants as OpenAI has them, and two routes of our own (docs/runs.md)."""

from fastapi import APIRouter, Request, Response
from starlette.responses import StreamingResponse

from api_server.errors import InvalidRequestError
from api_server.observability.record import record_of
from api_server.routes.stored import (
    STREAM,
    answer,
    body_of,
    caller_of,
    page_of,
    service_of,
    takes,
)
from api_server.schemas.runs import RunBody, RunChange, ThreadAndRunBody, ToolOutputs
from api_server.services.runs.objects import run_object, wish_of
from api_server.services.runs.queue import Begun
from api_server.services.runs.room import Runs

router = APIRouter(tags=["assistants"])

RESULTS = "step_details.tool_calls[*].file_search.results[*].content"
STREAM_HEADERS = {"cache-control": "no-cache", "x-accel-buffering": "no"}


def _runs(request: Request) -> Runs:
    runs: Runs = service_of(request, "runs")
    return runs


def _with_results(request: Request) -> bool:
    """Raises `InvalidRequestError` where something else is to be included."""
    asked = request.query_params
    wanted = {*asked.getlist("include[]"), *asked.getlist("include")}
    if wanted - {RESULTS}:
        raise InvalidRequestError(f"include[]: must be {RESULTS}.", param="include[]")
    return bool(wanted)


def _answer(request: Request, begun: Begun, *, with_results: bool = False) -> Response:
    if not begun.wants_stream:
        return answer(run_object(begun.run))
    return _stream(request, begun, with_results=with_results)


def _stream(request: Request, begun: Begun, *, with_results: bool = False) -> Response:
    record = record_of(request.scope)

    def speaks() -> None:
        record.model, record.phase = wish_of(begun.run).model, "generating"
        record.first_token_ms = record.elapsed_ms()

    blocks = _runs(request).following.stream(
        *(begun.run.id, begun.after, begun.events), with_results=with_results, speaks=speaks
    )
    return StreamingResponse(blocks, media_type="text/event-stream", headers=STREAM_HEADERS)


@router.post("/v1/threads/runs", openapi_extra=takes(ThreadAndRunBody), responses=STREAM)
async def create_thread_and_run(request: Request) -> Response:
    """A thread and its first run."""
    body = await body_of(request)
    return _answer(
        request, await _runs(request).service.create_with_thread(caller_of(request), body)
    )


@router.post("/v1/threads/{thread_id}/runs", openapi_extra=takes(RunBody), responses=STREAM)
async def create_run(thread_id: str, request: Request) -> Response:
    """A run of a thread."""
    with_results, body = _with_results(request), await body_of(request)
    begun = await _runs(request).service.create(caller_of(request), thread_id, body)
    return _answer(request, begun, with_results=with_results)


@router.get("/v1/threads/{thread_id}/runs")
async def list_runs(thread_id: str, request: Request) -> Response:
    """The runs of a thread."""
    page = page_of(request)
    return answer(await _runs(request).reader.listed(caller_of(request), thread_id, page))


@router.get("/v1/threads/{thread_id}/runs/{run_id}")
async def retrieve_run(thread_id: str, run_id: str, request: Request) -> Response:
    """One run."""
    return answer(await _runs(request).reader.retrieve(caller_of(request), thread_id, run_id))


@router.post("/v1/threads/{thread_id}/runs/{run_id}", openapi_extra=takes(RunChange))
async def modify_run(thread_id: str, run_id: str, request: Request) -> Response:
    """Replace its metadata."""
    body = await body_of(request)
    reader = _runs(request).reader
    return answer(await reader.modify(caller_of(request), thread_id, run_id, body))


@router.post("/v1/threads/{thread_id}/runs/{run_id}/cancel")
async def cancel_run(thread_id: str, run_id: str, request: Request) -> Response:
    """Stop it; what it has said so far stays."""
    return answer(await _runs(request).service.cancel(caller_of(request), thread_id, run_id))


@router.post(
    "/v1/threads/{thread_id}/runs/{run_id}/submit_tool_outputs",
    openapi_extra=takes(ToolOutputs),
    responses=STREAM,
)
async def submit_tool_outputs(thread_id: str, run_id: str, request: Request) -> Response:
    """The outputs of the calls that it waits for."""
    body = await body_of(request)
    outputs = _runs(request).outputs
    return _answer(request, await outputs.submit(caller_of(request), thread_id, run_id, body))


@router.post("/v1/threads/{thread_id}/runs/{run_id}/resume")
async def resume_run(thread_id: str, run_id: str, request: Request) -> Response:
    """Begin again where it failed."""
    begun = await _runs(request).service.resume(caller_of(request), thread_id, run_id)
    return answer(run_object(begun.run))


@router.get(
    "/v1/threads/{thread_id}/runs/{run_id}/events",
    response_class=StreamingResponse,
    responses=STREAM,
)
async def follow_run(thread_id: str, run_id: str, request: Request) -> Response:
    """Its stream from after an event on, again."""
    asked = request.query_params.get("after") or request.headers.get("last-event-id") or "0"
    if not (asked.isascii() and asked.isdigit() and len(asked) <= 18):
        raise InvalidRequestError("after: must be the id of an event, or 0.", param="after")
    runs = _runs(request)
    run = await runs.reader.find(caller_of(request), thread_id, run_id)
    blocks = runs.following.stream(
        run.id, int(asked), to_end=True, with_results=_with_results(request)
    )
    return StreamingResponse(blocks, media_type="text/event-stream", headers=STREAM_HEADERS)


@router.get("/v1/threads/{thread_id}/runs/{run_id}/steps")
async def list_steps(thread_id: str, run_id: str, request: Request) -> Response:
    """What it has done so far."""
    ids, page = (thread_id, run_id), page_of(request)
    found = await _runs(request).reader.steps(
        caller_of(request), *ids, page, with_results=_with_results(request)
    )
    return answer(found)


@router.get("/v1/threads/{thread_id}/runs/{run_id}/steps/{step_id}")
async def retrieve_step(thread_id: str, run_id: str, step_id: str, request: Request) -> Response:
    """One step."""
    found = await _runs(request).reader.step(
        caller_of(request), thread_id, run_id, step_id, with_results=_with_results(request)
    )
    return answer(found)
