"""Keeps a request within our own limit on a model's input, before its engine is asked."""

from dataclasses import dataclass

import msgspec

from api_server.errors import ApiError, ContextLengthError
from api_server.inference.estimating import estimate_chat, estimate_prompt
from api_server.inference.shortening import TRIES
from api_server.observability.record import RequestRecord
from api_server.services.fitting import drop_oldest
from api_server.services.lane import Lane, Place
from api_server.services.requests import Fields, Generation, Kind
from api_server.services.upstream import generation_body

_NOTHING = msgspec.Raw(b"")


@dataclass(frozen=True)
class Count:
    """How long a prompt is; `is_estimate` where nobody has counted."""

    tokens: int
    is_estimate: bool


async def keep_within_limits(
    generation: Generation, lane: Lane, place: Place, record: RequestRecord
) -> None:
    """Shorten a chat beyond the model's `max_input_tokens`, or refuse it, as its entry says.

    The engine counts where it can, else the count is an estimate. Raises `ContextLengthError` for
    what may not be shortened, or not enough.
    """
    most = lane.model.max_output_tokens
    if most is not None:  # what `upstream` asks for, so that no more room is kept for an answer
        generation.max_tokens = min(generation.max_tokens or most, most)
    limit = lane.model.max_input_tokens
    if limit is None or not may_exceed(generation.fields, limit):
        return
    is_chat = generation.kind is Kind.CHAT
    may_drop = is_chat and lane.model.context_overflow == "drop_oldest"
    tries = 0
    while True:
        count = await _count(generation, lane, place, record)
        if count.tokens <= limit:
            return
        tries += 1
        share = limit / count.tokens if tries < TRIES else 0.0
        dropped = drop_oldest(generation, share) if may_drop else 0
        if not dropped:
            error = ContextLengthError(count.tokens, limit, is_estimate=count.is_estimate)
            error.param = "messages" if is_chat else "prompt"
            raise error
        lane.dropped(dropped, record)


def may_exceed(fields: Fields, limit_tokens: int) -> bool:
    """False where the prompt has fewer bytes than the limit has tokens.

    No token is less than a byte, and what a template adds is less than what JSON takes around the
    text. (Images aside, whose tokens nobody can tell from a request.)
    """
    names = ("messages", "tools", "functions", "prompt")
    return sum(len(bytes(fields[name])) for name in names if name in fields) > limit_tokens


def estimate(generation: Generation) -> Count:
    """Without the engine; exact only for a prompt of token ids."""
    fields = generation.fields
    if generation.kind is Kind.TEXT:
        tokens, is_exact = estimate_prompt(fields["prompt"])
        return Count(tokens, is_estimate=not is_exact)
    tools = bytes(fields.get("tools", _NOTHING)) + bytes(fields.get("functions", _NOTHING))
    return Count(estimate_chat(fields["messages"], tools), is_estimate=True)


async def _count(generation: Generation, lane: Lane, place: Place, record: RequestRecord) -> Count:
    """By the engine; by estimate where it cannot count, or not now."""
    tokens = None
    if generation.kind is Kind.CHAT:
        body = generation_body(generation, lane.model, as_stream=False)
        try:
            call = lane.call(generation.kind.value, body, place, record)
            tokens = await lane.wire.count_tokens(call)
        except ApiError:  # who asks it for the answer next is told why
            tokens = None
    return estimate(generation) if tokens is None else Count(tokens, is_estimate=False)
