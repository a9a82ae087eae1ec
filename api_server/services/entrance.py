"""What a request passes before it queues: has its app room in its limits, and is it written down.

What was taken is put right at the end, by what the request really used.
"""

from collections.abc import Callable

from api_server.inference.catalogue import Model
from api_server.observability.record import RequestRecord
from api_server.schemas.apps import Caller
from api_server.services.access.permissions import check_max_tokens
from api_server.services.ledger.ledger import Ledger
from api_server.services.quotas.quotas import Quotas
from api_server.services.quotas.reservation import Reservation
from api_server.services.requests import Generation
from api_server.services.usage import guessed_prompt_tokens

UNSAID_ANSWER_TOKENS = 256
"""What an answer is taken to have whose request sets no bound."""


class Entrance:
    """For all routes that reach a model. `ledger` None: nothing is written down."""

    def __init__(self, quotas: Quotas, ledger: Ledger | None) -> None:
        self._quotas = quotas
        self._ledger = ledger

    async def enter(
        self, caller: Caller, model: Model, record: RequestRecord, tokens: Callable[[], int]
    ) -> "Visit":
        """Let a request in; `tokens` says how many it may use, and is asked only where it matters.

        The visit must be ended. Raises `RateLimitedError`, and `InvalidRequestError` for a request
        beyond a whole limit.
        """
        record.model = model.id
        wanted = tokens() if _counts_tokens(caller, model.id) else 0
        requests = 0 if caller.was_counted else 1
        reservation = await self._quotas.reserve(caller, model.id, wanted, requests=requests)
        record.headers = reservation.headers()
        if self._ledger is not None:
            self._ledger.open(record)
        return Visit(reservation)


class Visit:
    """One request between its entrance and its end."""

    __slots__ = ("_reservation",)

    def __init__(self, reservation: Reservation) -> None:
        self._reservation = reservation

    def left(self, record: RequestRecord, prompt_tokens: Callable[[], int]) -> None:
        """Nobody wants the answer any more, before it began. Comes before `end`.

        The engine is at work on the prompt, which counts by estimate: who always left before the
        first token would have that work for nothing.
        """
        if record.phase == "connecting":
            self._reservation.settle(prompt_tokens())

    def end(self, record: RequestRecord) -> None:
        """Settle by what the record says.

        A request that never got to an engine counts nowhere, unless our cache had its answer. One
        whose engine broke off before it said what was used keeps all that was reserved.
        """
        reservation = self._reservation
        if record.cache == "hit" or record.phase == "connecting":
            reservation.settle(None)
        elif record.phase != "generating":
            reservation.cancel()
        elif record.prompt_tokens is not None:
            reservation.settle(record.prompt_tokens + (record.completion_tokens or 0))
        reservation.release()


def bound_answer(generation: Generation, caller: Caller) -> None:
    """No answer longer than the app's policy has it. Raises `NotAllowedError` for one that asks."""
    generation.most_tokens = caller.app.policy.max_tokens
    generation.max_tokens = check_max_tokens(caller, generation.max_tokens)


def tokens_of(generation: Generation, model: Model) -> int:
    """What a request may use at most: its prompts, by estimate, and all its answers."""
    most = generation.max_tokens or model.max_output_tokens or UNSAID_ANSWER_TOKENS
    answers = generation.choices_per_prompt * generation.prompts
    return guessed_prompt_tokens(generation.fields, generation.prompts) + answers * most


def _counts_tokens(caller: Caller, model_id: str) -> bool:
    """Whether any limit of the app on tokens applies to the model."""
    policy = caller.app.policy
    if policy.tokens_per_minute is not None:
        return True
    own = policy.limits_by_model.get(model_id)
    return own is not None and own.tokens_per_minute is not None
