"""One model's way to its engines: who may use them now, and what is counted of it."""

import asyncio
import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

from api_server.errors import (
    ApiError,
    InvalidRequestError,
    OverloadedError,
    QueueTimeoutError,
)
from api_server.inference.catalogue import Catalogue, Model
from api_server.inference.wire import Call, Wire
from api_server.observability.metrics import ChunkGaps, Metrics
from api_server.observability.record import RequestRecord
from api_server.schemas.apps import ANYONE, Caller
from api_server.services.admission import Gate
from api_server.services.affinity import prefix_of
from api_server.services.fairness import Flow, flow_of
from api_server.services.requests import Generation

_ROUTES = {
    "text": "/v1/chat/completions or /v1/completions",
    "embeddings": "/v1/embeddings",
}


@dataclass(eq=False, slots=True)
class Place:
    """A request's room in an engine, from `Lane.enter` to `Lane.leave`.

    `deadline` is until when it waits for one that is away, `gives_up_at` when its time is over.
    `flow` is in whose name it has the room, `record` where its tokens are told in the end.
    """

    weight: int
    deadline: float
    entered: float
    flow: Flow
    record: RequestRecord
    phase: Literal["connecting", "generating"] = "connecting"
    gives_up_at: float = math.inf


class Lane:
    """The gate of one model and the wire behind it."""

    def __init__(
        self, model: Model, wire: Wire, gate: Gate, metrics: Metrics, *, wants_prefix: bool = False
    ) -> None:
        self.model = model
        self.wire = wire
        self.gate = gate
        self._metrics = metrics
        self._wants_prefix = wants_prefix
        self._most_choices = gate.capacity  # as long as all engines are in order

    def check_choices(self, generation: Generation) -> int:
        """How many answers a request wants at the same time; no more than can be given."""
        most = min(self.model.slots, self._most_choices)
        choices = generation.choices_per_prompt * generation.prompts
        if choices > most:
            what = "prompt" if generation.prompts > 1 else "n"
            raise InvalidRequestError(
                f"{what}: this asks for {choices} answers at the same time, and {most} is the most "
                "here; send several requests.",
                param=what,
            )
        return choices

    async def enter(
        self,
        choices: int,
        record: RequestRecord,
        *,
        is_retry: bool | None,
        caller: Caller = ANYONE,
        waits: bool = True,
    ) -> Place:
        """Wait for room. The place must be given back to `leave`, whatever happens.

        Of several apps each has its turn, whoever of them asks more often: see `fairness`.

        Unless it `waits`, engines that are away are tried, but not waited for.
        """
        loop = asyncio.get_running_loop()
        seconds = self.model.timeouts.queue_seconds
        deadline = loop.time() + seconds if waits else 0.0
        weight = self.gate.weight_of(choices)
        flow = flow_of(caller)
        record.begin("queued")
        self._metrics.in_flight(self.model.id, "queued", 1)
        try:
            entered = await self.gate.enter(
                weight, deadline_seconds=seconds, is_retry=is_retry, flow=flow
            )
        except (OverloadedError, QueueTimeoutError) as exc:
            self._metrics.shed(self.model.id, exc.code)
            raise
        finally:
            self._metrics.in_flight(self.model.id, "queued", -1)
        record.begin("connecting")
        self._metrics.in_flight(self.model.id, "connecting", 1)
        return Place(weight, deadline, entered, flow, record)

    def call(
        self,
        path: str,
        body: bytes,
        place: Place,
        record: RequestRecord,
        generation: Generation | None = None,
    ) -> Call:
        """What the wire is asked for; an engine that is away is waited for until the place's
        deadline.
        """

        def note(error: ApiError) -> None:
            record.retries += 1
            self._metrics.retried(self.model.id, error.code)

        prefix = prefix_of(generation) if generation is not None and self._wants_prefix else b""
        return Call(
            path,
            body,
            record.request_id,
            place.weight,
            prefix,
            place.deadline,
            note,
            place.gives_up_at,
        )

    def answered(self, place: Place) -> None:
        """An engine has begun to answer, or has answered a part of the request."""
        if place.phase != "generating":
            self._metrics.in_flight(self.model.id, "connecting", -1)
            self._metrics.in_flight(self.model.id, "generating", 1)
            place.phase = "generating"

    def chunks_came(self, record: RequestRecord, gaps: ChunkGaps) -> None:
        """Note how an answer came in pieces."""
        self._metrics.chunks_came(record, gaps)

    def fell_back(self, fallback: str, error: ApiError) -> None:
        """Note that another model answers in the place of this one."""
        self._metrics.fell_back(self.model.id, fallback, error.code)

    def dropped(self, messages: int, record: RequestRecord) -> None:
        """Note that a chat was shortened by so many messages."""
        record.dropped_messages += messages
        self._metrics.dropped_messages(self.model.id, messages)

    def leave(self, place: Place) -> None:
        """Make room for the next."""
        self._metrics.in_flight(self.model.id, place.phase, -1)
        self.gate.leave(
            place.weight,
            place.entered,
            has_answered=place.phase == "generating",
            tokens=_tokens(place.record),
            flow=place.flow,
        )


def _tokens(record: RequestRecord) -> int | None:
    """What the engine counted, None where it did not tell (a client that left, for instance)."""
    if record.prompt_tokens is None:
        return None
    return record.prompt_tokens + (record.completion_tokens or 0)


def find_lane(
    catalogue: Catalogue,
    lanes: Mapping[str, Lane],
    name: str,
    serves: Literal["text", "embeddings"],
) -> Lane:
    """The lane of the model that a client named. Raises if there is none, or of another kind."""
    model = catalogue.find(name)
    if model.serves != serves:
        raise InvalidRequestError(
            f"'{model.id}' serves {model.serves}; send this to {_ROUTES[model.serves]}, or name "
            f"another model.",
            param="model",
        )
    return lanes[model.id]
