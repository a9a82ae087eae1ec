"""Whose turn it is: a queue that is fair between apps by the tokens they are served.

Start-time fair queueing: each flow has a counter of the tokens it was served, divided by its
weight, and the next is always of the flow that has the least. Makes no decision about time and
room; that is the gate's (admission.py).
"""

import asyncio
import collections
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import NamedTuple

from api_server.schemas.apps import ANYONE, Caller, Priority
from api_server.services.bookings import Bookings

CLASS_WEIGHTS: dict[Priority, float] = {"interactive": 16.0, "default": 4.0, "batch": 1.0}
"""Shares and no strict order: else a busy class would starve those below it."""

FIRST_GUESS_TOKENS, FIRST_GUESS_SECONDS = 200.0, 1.0
"""What a request is taken to use, and to hold its slot, before one has been seen to."""

SMOOTHING, SURPRISED = 0.1, 0.2
"""The weight of the newest observation in a mean; that of seconds longer than expected."""

KEPT_FLOWS = 64
"""So many may be known before those without requests are forgotten."""


class Flow(NamedTuple):
    """Whose requests stand in one line: an app's, of one class; `weight` is its share."""

    app: str
    priority: Priority
    weight: float


def flow_of(caller: Caller) -> Flow:
    """The line in which a request of this caller stands."""
    app = caller.app
    policy = app.policy
    return Flow(app.id, policy.priority, policy.weight * CLASS_WEIGHTS[policy.priority])


NOBODY = flow_of(ANYONE)


@dataclass(eq=False, slots=True)
class Ticket:
    """One request in the queue since `joined`, in seconds of the gate's clock.

    `was_promised` where it was sent away and came back in time.
    """

    weight: int
    account: "Account"
    admitted: "asyncio.Future[float]"
    was_promised: bool = False
    joined: float = 0.0


@dataclass(eq=False, slots=True)
class Account:
    """One flow as the queue knows it.

    `served` is its counter, in tokens by weight; `floor` is what it was raised to when the flow
    last joined. `running` are the places that its requests have, `charged` what those were expected
    to use, `entered_sum` when they entered, all added up. `mean_tokens` is of one answer with its
    prompt, `mean_hold_seconds` how long one has its place.
    """

    weight: float
    mean_tokens: float
    mean_hold_seconds: float
    served: float
    floor: float
    running: int = 0
    charged: float = 0.0
    entered_sum: float = 0.0
    waiting: collections.deque[Ticket] = field(default_factory=collections.deque)
    bookings: Bookings = field(default_factory=Bookings)

    def waiting_weight(self) -> int:
        """Places that those in the queue will occupy."""
        return sum(ticket.weight for ticket in self.waiting)

    def hold_seconds(self, now: float) -> float:
        """How long a request has its place. Where those that run are older than any was expected
        to get, what was seen before says nothing: then they are taken to be half done.
        """
        age_seconds = now - self.entered_sum / self.running if self.running else 0.0
        mean = self.mean_hold_seconds
        return max(2 * age_seconds if age_seconds > mean else mean, 0.001)


class FairQueue:
    """All flows of one model. A flow that comes from idling starts where the others stand, so that
    idling saves nothing up.
    """

    def __init__(self) -> None:
        self.waiting = 0
        self.mean_tokens = FIRST_GUESS_TOKENS
        self.mean_hold_seconds = FIRST_GUESS_SECONDS
        self._now_served = 0.0
        self._accounts: dict[Flow, Account] = {}
        self._backlogged: dict[Account, None] = {}
        self._sweep_at = KEPT_FLOWS

    def account(self, flow: Flow) -> Account:
        """The account of a flow, made where there is none."""
        account = self._accounts.get(flow)
        if account is None:
            if len(self._accounts) >= self._sweep_at:
                self._forget()
            means = self.mean_tokens, self.mean_hold_seconds
            account = Account(flow.weight, *means, self._now_served, self._now_served)
            self._accounts[flow] = account
        return account

    def arrive(self, flow: Flow) -> Account:
        """One of this flow has come; where no other waits, its counter is raised to the others'."""
        account = self._accounts.get(flow) or self.account(flow)
        if account.served < self._now_served and not account.waiting:
            account.served = account.floor = self._now_served
        return account

    def active(self) -> Iterator[Account]:
        """The flows that have something waiting, running or promised."""
        for account in self._accounts.values():
            if account.waiting or account.running or account.bookings:
                yield account

    def join(self, ticket: Ticket) -> None:
        """Stand behind those of the same flow."""
        ticket.account.waiting.append(ticket)
        self._backlogged[ticket.account] = None
        self.waiting += 1

    def remove(self, ticket: Ticket) -> bool:
        """Take one out of the queue; whether it was in there."""
        account = ticket.account
        try:
            account.waiting.remove(ticket)
        except ValueError:
            return False
        if not account.waiting:
            del self._backlogged[account]
        self.waiting -= 1
        return True

    def head(self) -> Ticket | None:
        """Whose turn it is: of equals, the flow that has been waiting longer."""
        if not self.waiting:
            return None
        return min(self._backlogged, key=lambda account: account.served).waiting[0]

    def oldest(self) -> Ticket | None:
        """Who has waited longest. Each flow's own stand in the order in which they came."""
        firsts = (account.waiting[0] for account in self._backlogged)
        return min(firsts, key=lambda ticket: ticket.joined, default=None)

    def largest(self, but: Account) -> Account | None:
        """The other flow with the most in the queue for its weight."""
        others = (each for each in self._backlogged if each is not but)
        return max(others, key=lambda each: len(each.waiting) / each.weight, default=None)

    def charge(self, account: Account, weight: int, now: float) -> None:
        """One enters now: it is taken to use what those of its flow used on the average."""
        self._now_served = max(self._now_served, account.served)
        tokens = weight * account.mean_tokens
        account.running += weight
        account.entered_sum += weight * now
        account.charged += tokens
        account.served += tokens / account.weight

    def held(self, account: Account, seconds: float) -> None:
        """One has its answer, and had its place for so long."""
        account.mean_hold_seconds = _smoothed(account.mean_hold_seconds, seconds)
        self.mean_hold_seconds = _smoothed(self.mean_hold_seconds, seconds)

    def settle(self, account: Account, weight: int, entered: float, tokens: int | None) -> None:
        """One leaves that entered then and used so many tokens; where nobody knows how many, it
        stays charged as expected.
        """
        if account.running == weight:
            charged = account.charged
            account.running, account.charged, account.entered_sum = 0, 0.0, 0.0
        else:
            charged = account.charged * weight / account.running
            account.running -= weight
            account.charged -= charged
            account.entered_sum -= weight * entered
        if tokens is None:
            return
        # Not below where it joined: what was charged too much before is no credit.
        corrected = account.served + (tokens - charged) / account.weight
        account.served = max(account.floor, corrected)
        if tokens:
            each = tokens / weight
            account.mean_tokens += SMOOTHING * (each - account.mean_tokens)
            self.mean_tokens += SMOOTHING * (each - self.mean_tokens)

    def share_of(self, mine: Account, capacity: int) -> float:
        """The part of the engines' work that a flow gets while it has something waiting.

        Flows that wait share by weight what those leave that do not; a share is never less than
        it would be if all flows wanted theirs.
        """
        backlogged = idle = mine.weight
        held = 0
        for account in self._accounts.values():
            if account is mine:
                continue
            if account.waiting:
                backlogged += account.weight
                idle += account.weight
            elif account.running:
                held += account.running
                idle += account.weight
        left = max(0, capacity - held) / capacity if capacity else 0.0
        return max(left * mine.weight / backlogged, mine.weight / idle)

    def _forget(self) -> None:
        """Those that have nothing here come back as new ones; what little they owe is forgiven."""
        self._accounts = {
            flow: account
            for flow, account in self._accounts.items()
            if account.waiting or account.running or account.bookings
        }
        self._sweep_at = max(KEPT_FLOWS, 2 * len(self._accounts))


def _smoothed(mean_seconds: float, seconds: float) -> float:
    surprise = seconds - mean_seconds
    return mean_seconds + (SURPRISED if surprise > 0 else SMOOTHING) * surprise
