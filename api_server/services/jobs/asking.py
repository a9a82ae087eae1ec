"""Asks a model for a job, by the way that every chat takes, with a client that only listens."""

from functools import lru_cache
from hashlib import sha256
from typing import Protocol

import msgspec

from api_server.errors import InferenceError, NotAllowedError
from api_server.observability.record import RequestRecord
from api_server.schemas.apps import App, Caller, Policy, Priority
from api_server.services.client import CacheWish, Client, Headers
from api_server.services.jobs.answers import response_of
from api_server.stores.jobs import Taken

ROUTE = "/ai_request"


class Chats(Protocol):
    """`services.completions.Completions`."""

    async def chat(self, body: bytes, client: Client, record: RequestRecord) -> None:
        """Answer one chat."""


class Listener:
    """The `Client` of a job: keeps the whole answer. It never leaves, nobody sent it away."""

    is_retry: bool | None = None
    cache_wish: CacheWish | None = None
    has_begun = False
    has_left = False

    def __init__(self, caller: Caller) -> None:
        self.caller = caller
        self.body = b""

    async def answer(self, body: bytes, headers: Headers = ()) -> None:  # noqa: ARG002
        self.has_begun = True
        self.body = body

    async def begin_stream(self, headers: Headers = ()) -> None:  # noqa: ARG002
        raise TypeError("a job asks for no stream")

    async def events(self, block: bytes) -> None:  # noqa: ARG002
        raise TypeError("a job asks for no stream")

    async def end_stream(self) -> None:
        raise TypeError("a job asks for no stream")

    def cut_off(self) -> None:
        """There is no connection."""


class _Message(msgspec.Struct):
    content: str | None = None


class _Choice(msgspec.Struct):
    message: _Message


class _Usage(msgspec.Struct):
    prompt_tokens: int = 0
    completion_tokens: int = 0


class _Answer(msgspec.Struct):
    choices: list[_Choice]
    usage: _Usage | None = None


_ANSWER = msgspec.json.Decoder(_Answer)


class ChatJobs:
    """The `Doer` of chats."""

    route = ROUTE

    def __init__(self, chats: Chats) -> None:
        self._chats = chats

    async def do(self, job: Taken, record: RequestRecord) -> str:
        """The `response` of the job, as JSON. Raises `ApiError`."""
        if job.is_revoked:
            raise NotAllowedError("The app was revoked before this request was done.")
        listener = Listener(caller_of(job))
        await self._chats.chat(job.chat.encode(), listener, record)
        return _response(listener.body, job, record)


def _response(body: bytes, job: Taken, record: RequestRecord) -> str:
    try:
        answer = _ANSWER.decode(body)
    except msgspec.MsgspecError as exc:
        raise InferenceError("The model's engine sent something that is no answer.") from exc
    if not answer.choices:
        raise InferenceError("The model's engine sent an answer without a text.")
    usage = answer.usage or _Usage(record.prompt_tokens or 0, record.completion_tokens or 0)
    return response_of(
        answer.choices[0].message.content or "",
        record.model or job.model,
        usage.prompt_tokens,
        usage.completion_tokens,
    )


def caller_of(job: Taken) -> Caller:
    """Who the job is done for, as urgent as the job is. Its requests were counted when it came."""
    policy = _policy(job.policy or "{}", job.priority)
    app = App(job.app_id, job.app_name or job.app_id, policy)
    return Caller(app, job.user, was_counted=True)


def new_record(job: Taken, route: str) -> RequestRecord:
    """For one attempt. Its id tells nothing of the job's, which is enough to read the result."""
    digest = sha256(f"{job.id} {job.fence}".encode()).hexdigest()
    record = RequestRecord(f"req_{digest[:32]}", "POST", route, route=route)
    caller = caller_of(job)
    record.app_id, record.app, record.user = caller.app.id, caller.app.name, caller.user
    return record


@lru_cache(maxsize=1024)
def _policy(text: str, priority: Priority) -> Policy:
    return Policy.model_validate_json(text).model_copy(update={"priority": priority})
