"""The jobs API: accepts jobs, tells of them, cancels them, begins failed ones again."""

import hashlib
import secrets
from collections import Counter
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass

import msgspec

from api_server.errors import (
    ApiError,
    AppCodeError,
    BodyTooLargeError,
    InvalidRequestError,
    JobNotFoundError,
    JobStateError,
    ModelNotFoundError,
    NotAllowedError,
    QueueFullError,
    RequestTypeError,
)
from api_server.inference.catalogue import Catalogue
from api_server.schemas.apps import ANYONE, App, Caller, Priority, RequestType
from api_server.schemas.jobs import AiBatch, AiRequest, Item
from api_server.services.jobs.answers import (
    STATES,
    Json,
    answer_of,
    batch_answer,
    cursor_of,
    listed,
    read_cursor,
)
from api_server.services.jobs.gathering import Gathering
from api_server.services.jobs.owners import Credentials, Owners
from api_server.services.jobs.rules import Rules
from api_server.services.jobs.tally import Tally
from api_server.services.jobs.waiting import class_of, step_of, wait_seconds
from api_server.services.quotas.reservation import Reservation
from api_server.stores.jobs import Accepted, Job, JobStore, Known, NewJob, Wanted

BUILT_IN = frozenset({ANYONE.app.id, "app_development"})
"""Apps of the stack's own, for development: any type of request is theirs."""

MOST_LISTED = 200
RETRIED = frozenset({"error", "expired"})

Admit = Callable[[Caller, Mapping[str, int]], Awaitable[Sequence[Reservation]]]
"""Counts so many requests of a caller to each model against its limits: all of them, or none, and
none where what it returns is cancelled.

Raises `RateLimitedError`, and `InvalidRequestError` for more at once than a whole limit.
"""


async def admit_all(_caller: Caller, _requests: Mapping[str, int]) -> Sequence[Reservation]:
    """Where there are no limits."""
    return ()


def _cancel(reservations: Sequence[Reservation]) -> None:
    for each in reservations:
        each.cancel()


@dataclass(frozen=True, slots=True)
class Receipt:
    """What was accepted; `batch_id` where it was a batch."""

    ids: Sequence[str]
    batch_id: str | None = None


class JobService:
    """One object for all requests. `tally` knows how many wait and how fast jobs are done."""

    def __init__(
        self,
        store: JobStore,
        catalogue: Catalogue,
        owners: Owners,
        tally: Tally,
        rules: Rules,
        admit: Admit = admit_all,
    ) -> None:
        self._store = store
        self._catalogue = catalogue
        self._owners = owners
        self._tally = tally
        self._rules = rules
        self._admit = admit
        self._accepting: Gathering[Sequence[NewJob], Accepted] = Gathering(self._write, len)

    async def accept(self, body: AiRequest, shown: Credentials, key: str | None = None) -> Receipt:
        """Put one job into the queue; it is safe when this returns."""
        item = Item(body.request_type, body.request, body.priority)
        return await self._take([item], shown, key or body.idempotency_key, batch_id=None)

    async def accept_batch(
        self, body: AiBatch, shown: Credentials, key: str | None = None
    ) -> Receipt:
        """The same with many, all or none."""
        batch_id = f"batch_{secrets.token_urlsafe(24)}"
        return await self._take(body.requests, shown, key or body.idempotency_key, batch_id)

    async def status(self, id_: str, shown: Credentials) -> Json:
        """What a job, or a batch, has come to. Raises `JobNotFoundError`."""
        jobs = await self._owned(id_, shown)
        if not id_.startswith("batch_"):
            return self.answer(jobs[0])
        return batch_answer(id_, [self._line(job) for job in jobs])

    async def find(self, job_id: str, shown: Credentials) -> Job:
        """One job. Raises `JobNotFoundError`."""
        return (await self._owned(job_id, shown))[0]

    def answer(self, job: Job) -> Json:
        """A job as its client sees it."""
        counts = self._tally.counts
        if job.position is None or counts is None:
            return answer_of(job, None)
        return answer_of(job, wait_seconds(job.position, counts.slots, counts.mean_seconds))

    async def cancel(self, id_: str, shown: Credentials) -> Json:
        """Cancel a job, or what is left of a batch. Raises `JobStateError` if nothing is."""
        jobs = await self._owned(id_, shown)
        cancelled = await self._store.cancel([job.id for job in jobs])
        if not cancelled:
            states = {job.state for job in await self._owned(id_, shown)}
            if states != {"cancelled"}:
                raise JobStateError("This request has ended already; nothing is left to cancel.")
        return {"status": "success", "request_id": id_, "message": "Request cancelled"}

    async def retry(self, id_: str, shown: Credentials) -> Json:
        """Begin a failed job again, or those of a batch that failed; what is done stays done."""
        jobs = await self._owned(id_, shown)
        failed = [job for job in jobs if job.state in RETRIED and job.retry_possible]
        if not failed:
            raise JobStateError("Only a request that failed and may be retried can begin again.")
        owner = self._owners.owner_of(failed[0].app_id)
        reservations = await self._admit(owner, Counter(job.model for job in failed))
        try:
            again = await self._store.restart(
                [job.id for job in failed],
                timeout_seconds=self._rules.timeout_seconds,
                queue_size=self._rules.queue_size,
            )
        except ApiError:
            _cancel(reservations)
            raise
        if not again:
            _cancel(reservations)
            if again is None:
                raise self._queue_full(len(failed))
            raise JobStateError("This request begins again already.")
        for reservation in reservations:
            reservation.release()
        return {
            "status": "success",
            "request_id": id_,
            "message": "Request queued successfully",
            "requests": [job.id for job in jobs if job.id in again],
        }

    async def history(
        self,
        shown: Credentials,
        *,
        state: str | None,
        request_type: str | None,
        batch_id: str | None,
        after: str | None,
        limit: int,
    ) -> Json:
        """The caller's jobs, newest first; `next` is the cursor of the page behind, or None."""
        caller = await self._owners.caller_of(shown)
        if state is not None and state not in STATES:
            raise InvalidRequestError(f"state: must be one of {', '.join(STATES)}.", param="state")
        if not 1 <= limit <= MOST_LISTED:
            raise InvalidRequestError(f"limit: must be 1 to {MOST_LISTED}.", param="limit")
        if "\0" in (request_type or "") + (batch_id or ""):
            raise InvalidRequestError("A filter holds a character that nothing can have.")
        before = read_cursor(after) if after else None
        wanted = Wanted(
            *(caller.app.id, caller.user, state, request_type, batch_id, before, limit + 1)
        )
        found = await self._store.history(wanted)
        page = found[:limit]
        return {
            "status": "success",
            "requests": [listed(job) for job in page],
            "next": cursor_of(page[-1]) if len(found) > limit else None,
        }

    async def aclose(self) -> None:
        await self._accepting.aclose()

    # inside

    async def _take(
        self, items: Sequence[Item], shown: Credentials, key: str | None, batch_id: str | None
    ) -> Receipt:
        caller = await self._owners.caller_of(shown)
        jobs = [
            self._job(item, caller, _key(key, number, batch_id), batch_id, (number, len(items)))
            for number, item in enumerate(items)
        ]
        reservations = await self._admit(caller, Counter(job.model for job in jobs))
        try:
            accepted = await self._accepting.put(jobs)
        except ApiError:  # not for a client that leaves: its jobs are accepted all the same
            _cancel(reservations)
            raise
        if accepted is None or any(isinstance(each, Known) for each in accepted):
            _cancel(reservations)  # nothing new was accepted
        for reservation in reservations:
            reservation.release()
        if accepted is None:
            raise self._queue_full(len(jobs))
        return _receipt(accepted, jobs, batch_id)

    def _job(
        self,
        item: Item,
        caller: Caller,
        key: str | None,
        batch_id: str | None,
        place: tuple[int, int],
    ) -> NewJob:
        """`place` is which of how many that were sent together."""
        app, (number, count) = caller.app, place
        if caller.user is not None and "\0" in caller.user:
            raise InvalidRequestError("The user of this token has a name that cannot be kept.")
        size = len(item.request.encode())
        if size > self._rules.max_request_bytes:
            raise BodyTooLargeError(
                f"The request has {size} bytes; {self._rules.max_request_bytes} are the most of a "
                "job.",
                param="request",
            )
        type_ = _type_of(app, item.request_type)
        model = self._model_of(app, item.request_type, type_)
        priority: Priority = class_of(item.priority, app.policy.priority)
        asked = f"{count}\0{caller.user or ''}\0{item.request_type}\0{item.request}"
        digest = hashlib.sha256(asked.encode())
        return NewJob(
            id=f"job_{secrets.token_urlsafe(24)}",
            app_id=app.id,
            user=caller.user,
            request_type=item.request_type,
            chat=_chat(item.request, type_, model, app.policy.max_tokens),
            model=model,
            priority=priority,
            step=step_of(app.policy.weight, priority),
            digest=digest.digest(),
            idempotency_key=key,
            batch_id=batch_id,
            item=number,
        )

    def _model_of(self, app: App, name: str, type_: RequestType) -> str:
        allowed = app.policy.models
        model = type_.model or self._rules.default_model
        if model is None:
            for each in self._catalogue:
                if each.serves == "text" and (allowed is None or each.id in allowed):
                    return each.id
            raise RequestTypeError(f"No model serves requests of the type {name!r} here.")
        try:
            found = self._catalogue.find(model)
        except ModelNotFoundError as exc:
            raise RequestTypeError(
                f"The type {name!r} asks a model that is not here; its operator must correct that."
            ) from exc
        if found.serves != "text" or (allowed is not None and found.id not in allowed):
            raise RequestTypeError(
                f"The type {name!r} asks a model that this app may not use for it; the operator "
                "must correct that."
            )
        return found.id

    async def _owned(self, id_: str, shown: Credentials) -> list[Job]:
        """A job, or all of a batch. To everybody but the owner it is not there at all."""
        if "\0" in id_:
            raise _not_found()
        caller = await self._asker(shown)
        ids = await self._store.of_batch(id_) if id_.startswith("batch_") else [id_]
        found = await self._store.find(ids)
        jobs = [found[each] for each in ids if each in found]
        if not jobs or (caller is not None and not _owns(caller, jobs[0])):
            raise _not_found()
        return jobs

    async def _asker(self, shown: Credentials) -> Caller | None:
        """Who asks; None for somebody whose only claim is the id."""
        if shown.are_empty and not self._rules.polling_needs_owner:
            return None
        try:
            return await self._owners.caller_of(shown)
        except (AppCodeError, NotAllowedError) as exc:
            raise _not_found() from exc

    def _line(self, job: Job) -> Json:
        line = {"request_id": job.id, "state": job.state, "request_type": job.request_type}
        return line | self.answer(job)

    def _queue_full(self, jobs: int) -> QueueFullError:
        return QueueFullError(
            f"Too many requests wait already: {self._rules.queue_size} may, the last tenth of "
            "them of apps that have few. Send it again later.",
            retry_after_seconds=self._seconds_until_room(jobs),
        )

    def _seconds_until_room(self, jobs: int) -> float:
        counts = self._tally.counts
        seconds = None
        if counts is not None:
            seconds = wait_seconds(jobs, counts.slots, counts.mean_seconds)
        return max(1.0, seconds if seconds is not None else 5.0)

    async def _write(self, submissions: list[Sequence[NewJob]]) -> list[Accepted]:
        return await self._store.add(
            submissions,
            timeout_seconds=self._rules.timeout_seconds,
            queue_size=self._rules.queue_size,
        )


def _not_found() -> JobNotFoundError:
    return JobNotFoundError("Request ID not found")


def _owns(caller: Caller, job: Job) -> bool:
    is_users = caller.user is None or job.user is None or caller.user == job.user
    return caller.app.id == job.app_id and is_users


def _key(key: str | None, number: int, batch_id: str | None) -> str | None:
    """A batch has its key on each of its jobs, so that it is known again as a whole. No client's
    key has a space, so that none stands for a part of somebody's batch.
    """
    return key if key is None or batch_id is None else f"{key} {number}"


def _receipt(
    accepted: Sequence[str] | Sequence[Known], jobs: Sequence[NewJob], batch_id: str | None
) -> Receipt:
    known = [each for each in accepted if isinstance(each, Known)]
    if not known:
        return Receipt([job.id for job in jobs], batch_id)
    digests = [job.digest for job in jobs]
    if [each.digest for each in known] != digests or (known[0].batch_id is None) != (
        batch_id is None
    ):
        raise InvalidRequestError(
            "This idempotency key was used for another request before.", param="idempotency_key"
        )
    return Receipt([each.id for each in known], known[0].batch_id)


def _type_of(app: App, name: str) -> RequestType:
    types = app.policy.request_types
    if name in types:
        return types[name]
    if app.id in BUILT_IN and not types:
        return RequestType()
    allowed = ", ".join(sorted(types)) or "none"
    raise RequestTypeError(
        f"The app {app.name!r} has no requests of the type {name[:64]!r}. Its types: {allowed}.",
        param="request_type",
    )


def _chat(request: str, type_: RequestType, model: str, most_tokens: int | None) -> str:
    """The body of the chat. A prompt without `{request}` has it at its end."""
    if "{request}" in type_.prompt:
        prompt = type_.prompt.replace("{request}", request)
    else:
        prompt = f"{type_.prompt}\n\n{request}"
    messages = [{"role": "user", "content": prompt}]
    if type_.system:
        messages.insert(0, {"role": "system", "content": type_.system})
    body = {
        "model": model,
        "messages": messages,
        "temperature": type_.temperature,
        "max_tokens": min(type_.max_tokens, most_tokens or type_.max_tokens),
    }
    return msgspec.json.encode(body).decode()
