"""Whose turn it is when several apps want more than there is: shares, and what nobody can gain."""

import heapq
import random
from collections.abc import Callable
from typing import Any, cast

import pytest

from api_server.schemas.apps import App, Caller, Policy, Priority
from api_server.services.fairness import (
    CLASS_WEIGHTS,
    KEPT_FLOWS,
    NOBODY,
    Account,
    FairQueue,
    Flow,
    Ticket,
    flow_of,
)

SLOTS = 16
Draw = Callable[[random.Random], int]


def flow(name: str, weight: float = 1.0, priority: Priority = "default") -> Flow:
    policy = Policy(weight=weight, priority=priority)
    return flow_of(Caller(App(f"app_{name}", name, policy)))


class Engine:
    """So many slots, each of which makes a token per second; it has whom the queue names."""

    def __init__(self, slots: int = SLOTS) -> None:
        self.queue = FairQueue()
        self.now = 0.0
        self.served: dict[Flow, int] = {}
        self._slots = slots
        self._random = random.Random(7)
        self._draws: dict[Account, tuple[Flow, Draw]] = {}
        self._ends: list[tuple[float, int, Account, int]] = []
        self._number = 0

    def want(self, wanted: Flow, draw: Draw, count: int) -> None:
        """So many of this flow wait from now on; each that is let in is followed by another."""
        for _ in range(count):
            account = self.queue.arrive(wanted)
            self._draws[account] = wanted, draw
            self.queue.join(Ticket(1, account, cast("Any", None)))

    def run(self, seconds: float) -> dict[Flow, int]:
        """For so long; the tokens of what ended in that time."""
        self.served = dict.fromkeys((f for f, _ in self._draws.values()), 0)
        until = self.now + seconds
        self._fill()
        while self._ends and self._ends[0][0] <= until:
            self.now, _, account, tokens = heapq.heappop(self._ends)
            self.queue.settle(account, 1, 0.0, tokens)
            self.served[self._draws[account][0]] += tokens
            self._fill()
        self.now = until
        return self.served

    def _fill(self) -> None:
        while len(self._ends) < self._slots and (ticket := self.queue.head()):
            self.queue.remove(ticket)
            self.queue.charge(ticket.account, 1, self.now)
            wanted, draw = self._draws[ticket.account]
            tokens = draw(self._random)
            self._number += 1
            heapq.heappush(self._ends, (self.now + tokens, self._number, ticket.account, tokens))
            self.queue.join(Ticket(1, self.queue.arrive(wanted), cast("Any", None)))


def short(chance: random.Random) -> int:
    return chance.randint(5, 30)


def long(chance: random.Random) -> int:
    return chance.randint(200, 2000)


def mixed(chance: random.Random) -> int:
    return 3000 if chance.random() < 0.05 else chance.randint(1, 60)


def test_shares_are_by_weight_whatever_the_size_and_the_number_of_requests() -> None:
    engine = Engine()
    many, one, heavy = flow("many"), flow("few", 2.0), flow("heavy", 0.5)
    engine.want(many, short, 500)
    engine.want(one, long, 8)
    engine.want(heavy, mixed, 50)
    served = engine.run(100_000)
    total = sum(served.values())
    assert total > 0.99 * SLOTS * 100_000, "no slot idles"
    weights = {many: 1.0, one: 2.0, heavy: 0.5}
    for each, weight in weights.items():
        assert served[each] / total == pytest.approx(weight / 3.5, rel=0.05)


def test_classes_have_shares_and_none_starves() -> None:
    engine = Engine()
    flows = {name: flow(name, priority=name) for name in CLASS_WEIGHTS}
    for each in flows.values():
        engine.want(each, mixed, 100)
    served = engine.run(400_000)
    for name, each in flows.items():
        share = CLASS_WEIGHTS[name] / sum(CLASS_WEIGHTS.values())
        assert served[each] / sum(served.values()) == pytest.approx(share, rel=0.05)


def test_nothing_is_saved_up_by_idling() -> None:
    """One that comes late has its share from then on, and no more."""
    engine = Engine()
    early, late = flow("early"), flow("late")
    engine.want(late, short, 1)
    engine.want(early, short, 100)
    engine.run(50_000)
    engine.want(late, short, 100)
    for _ in range(5):
        served = engine.run(1000)
        assert served[late] / sum(served.values()) == pytest.approx(0.5, rel=0.1)


def test_what_was_charged_too_much_is_no_credit_for_later() -> None:
    """Sixteen long ones expected, which turn out to be short when others have joined."""
    queue = FairQueue()
    liar, other = queue.arrive(flow("liar")), queue.arrive(flow("other"))
    liar.mean_tokens = 100_000
    for _ in range(SLOTS):
        queue.arrive(flow("liar"))
        queue.charge(liar, 1, 0.0)
    for _ in range(100):
        queue.arrive(flow("other"))
        queue.charge(other, 1, 0.0)
    queue.arrive(flow("liar"))
    stood = liar.served
    for _ in range(SLOTS):
        queue.settle(liar, 1, 0.0, 1)
    assert liar.served >= liar.floor
    assert stood - liar.served < 100_000 * SLOTS / liar.weight


def test_one_that_used_more_than_expected_pays_for_it_later() -> None:
    queue = FairQueue()
    greedy, modest = queue.arrive(flow("greedy")), queue.arrive(flow("modest"))
    queue.charge(greedy, 1, 0.0)
    queue.charge(modest, 1, 0.0)
    queue.settle(greedy, 1, 0.0, 10_000)
    queue.settle(modest, 1, 0.0, 10)
    waiting = [Ticket(1, account, cast("Any", None)) for account in (greedy, modest)]
    for ticket in waiting:
        queue.join(ticket)
    assert queue.head() is waiting[1]


def test_of_equals_the_one_that_came_first_is_next() -> None:
    queue = FairQueue()
    first, second = queue.arrive(flow("a")), queue.arrive(flow("b"))
    tickets = [Ticket(1, account, cast("Any", None)) for account in (second, first, second)]
    for ticket in tickets:
        queue.join(ticket)
    assert queue.head() is tickets[0]


def test_a_refused_request_costs_nothing_and_an_unknown_one_what_was_expected() -> None:
    queue = FairQueue()
    account = queue.arrive(flow("a"))
    before = account.served
    queue.charge(account, 2, 0.0)
    queue.settle(account, 2, 0.0, 0)
    assert account.served == pytest.approx(before)
    queue.charge(account, 2, 0.0)
    charged = account.served
    queue.settle(account, 2, 0.0, None)
    assert account.served == charged > before


def test_flows_that_left_are_forgotten() -> None:
    queue = FairQueue()
    for number in range(50 * KEPT_FLOWS):
        account = queue.arrive(flow(str(number)))
        queue.charge(account, 1, 0.0)
        queue.settle(account, 1, 0.0, 50)
    assert len(queue._accounts) <= 2 * KEPT_FLOWS


def test_a_share_is_what_those_leave_that_want_less() -> None:
    queue = FairQueue()
    light, heavy, third = (queue.arrive(flow(name)) for name in ("light", "heavy", "third"))
    assert queue.share_of(heavy, 16) == 1
    queue.charge(light, 2, 0.0)
    assert queue.share_of(heavy, 16) == pytest.approx(14 / 16)
    queue.join(Ticket(1, third, cast("Any", None)))
    assert queue.share_of(heavy, 16) == pytest.approx(7 / 16)
    queue.charge(light, 14, 0.0)
    assert queue.share_of(heavy, 16) == pytest.approx(1 / 3), "never less than a fair one"


def test_who_says_nothing_of_itself_is_one_flow() -> None:
    assert flow_of(Caller(App("app_anyone", "x", Policy()))) == NOBODY


def test_an_answer_shorter_than_expected_is_no_credit_from_before_it_joined() -> None:
    queue = FairQueue()
    slow = queue.arrive(flow("slow"))
    queue.charge(slow, 1, 0.0)
    for _ in range(3):
        busy = queue.arrive(flow("busy"))
        queue.charge(busy, 1, 0.0)
        queue.settle(busy, 1, 0.0, 5000)
    assert queue.arrive(flow("slow")) is slow
    joined = slow.served
    assert joined > slow.mean_tokens
    queue.settle(slow, 1, 0.0, 1)
    assert slow.served == joined
