"""A job as its client sees it: the shapes of the requirements. Pure."""

import base64
import binascii
from datetime import UTC, datetime
from typing import Any

import msgspec

from api_server.errors import InvalidRequestError
from api_server.services.jobs.waiting import words
from api_server.stores.jobs import Job, Listed

Json = dict[str, Any]

FINAL = frozenset({"completed", "error", "cancelled", "expired"})
STATES = ("queued", "processing", "completed", "error", "cancelled", "expired")


def answer_of(job: Job, wait_seconds: float | None) -> Json:
    """What `GET /get_request/{id}` says of a job."""
    if job.state == "queued":
        return {
            "status": "queued",
            "position": job.position,
            "estimated_wait_time": words(wait_seconds),
            "message": "Request is in queue",
        }
    if job.state == "processing":
        return {"status": "processing", "message": "Request is currently being processed"}
    if job.state == "completed":
        return {"status": "completed", "response": msgspec.Raw((job.response or "{}").encode())}
    return {
        "status": "error",
        "error_code": job.error_code,
        "message": job.message,
        "retry_possible": bool(job.retry_possible),
    }


def response_of(text: str, model: str, prompt_tokens: int, completion_tokens: int) -> str:
    """The `response` of a completed job, as JSON."""
    answer = {
        "ai_response": text,
        "model_used": model,
        "completion_time": moment(datetime.now(UTC)),
        "token_usage": {
            "prompt_tokens": prompt_tokens,
            "completion_tokens": completion_tokens,
            "total_tokens": prompt_tokens + completion_tokens,
        },
    }
    return msgspec.json.encode(answer).decode()


def batch_answer(batch_id: str, jobs: list[Json]) -> Json:
    """What is said of a batch: how far it is, and each of its jobs."""
    counts = {state: sum(job["state"] == state for job in jobs) for state in STATES}
    left = counts["queued"] + counts["processing"]
    failed = counts["error"] + counts["expired"] + counts["cancelled"]
    status = "completed"
    if left:
        status = "queued" if counts["queued"] == len(jobs) else "processing"
    elif failed:
        status = "error"
    return {"status": status, "batch_id": batch_id, "counts": counts, "requests": jobs}


def listed(job: Listed) -> Json:
    """A line of the history."""
    line: Json = {
        "request_id": job.id,
        "state": job.state,
        "request_type": job.request_type,
        "created_at": moment(job.created_at),
        "finished_at": moment(job.finished_at) if job.finished_at else None,
        "batch_id": job.batch_id,
    }
    if job.error_code is not None:
        line |= {
            "error_code": job.error_code,
            "message": job.message,
            "retry_possible": bool(job.retry_possible),
        }
    return line


def moment(at: datetime) -> str:
    """`2026-11-21T10:30:00Z`."""
    return at.astimezone(UTC).strftime("%Y-%m-%dT%H:%M:%SZ")


def cursor_of(job: Listed) -> str:
    """Where the next page of the history begins."""
    return base64.urlsafe_b64encode(f"{job.created_at.isoformat()} {job.id}".encode()).decode()


def read_cursor(text: str) -> tuple[datetime, str]:
    """Raises `InvalidRequestError` for what is none of ours."""
    try:
        at, _, job_id = base64.urlsafe_b64decode(text.encode()).decode().partition(" ")
        moment_ = datetime.fromisoformat(at)
        if moment_.tzinfo is not None:
            moment_ = moment_.astimezone(UTC)
    except (ValueError, OverflowError, binascii.Error) as exc:
        raise InvalidRequestError("after: is no cursor of this API.", param="after") from exc
    if moment_.tzinfo is None or not job_id or "\0" in job_id:
        raise InvalidRequestError("after: is no cursor of this API.", param="after")
    return moment_, job_id
