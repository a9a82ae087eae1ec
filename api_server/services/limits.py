"""Keeps a request within our own limit on a model's input, before its engine is asked."""

from api_server.errors import ApiError
from api_server.inference.estimating import Count, estimate, may_exceed
from api_server.observability.record import RequestRecord
from api_server.services.fitting import drop_oldest
from api_server.services.lane import Lane, Place
from api_server.services.requests import Generation, Kind
from api_server.services.upstream import generation_body


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
        share = count.share_within(limit, tries)
        dropped = drop_oldest(generation, share) if may_drop else 0
        if not dropped:
            raise count.beyond(limit, is_chat=is_chat)
        lane.dropped(dropped, record)


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
    return estimate(generation.fields) if tokens is None else Count(tokens, is_estimate=False)
