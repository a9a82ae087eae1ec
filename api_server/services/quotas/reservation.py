"""What one request holds of its app's limits."""

from collections.abc import Sequence

from api_server.services.quotas.desk import AnyLease, Desk, Sources
from api_server.services.quotas.headers import Header, headers_of


class Reservation:
    """Units and places, from `Quotas.reserve` to `release`. This one is of nothing at all, and
    shared by all requests without limits.
    """

    __slots__ = ()

    def headers(self) -> Sequence[Header]:
        """The `x-ratelimit-*` headers of the answer."""
        return ()

    def settle(self, used_tokens: int | None) -> None:
        """So many tokens were used; None: none, for no engine was asked. The first call counts."""

    def release(self) -> None:
        """The request has ended. Always called; more than once is the same as once."""

    def cancel(self) -> None:
        """We refuse the request ourselves: as if it had never been there."""


class Held(Reservation):
    """A reservation of something."""

    __slots__ = ("_began", "_desk", "_is_held", "_is_settled", "_leases", "_sources", "_units")

    def __init__(
        self,
        desk: Desk,
        leases: Sequence[AnyLease],
        units: Sequence[int],
        sources: Sources,
        now: float,
    ) -> None:
        self._desk = desk
        self._leases = leases
        self._units = units
        self._sources = sources
        self._began = now
        self._is_settled = False
        self._is_held = True

    def headers(self) -> Sequence[Header]:
        """The `x-ratelimit-*` headers of the answer."""
        return headers_of(self._leases, self._desk.clock())

    def settle(self, used_tokens: int | None) -> None:
        """See `Reservation`."""
        if self._is_settled:
            return
        self._is_settled = True
        now = self._desk.clock()
        for lease, units, source in zip(self._leases, self._units, self._sources, strict=True):
            if lease.rule.kind != "tokens":
                continue
            more = (used_tokens or 0) - units
            if more < 0:
                lease.give_back(source, -more, now)
            elif more:
                lease.charge(more, now)
            if more:
                self._desk.look_soon()

    def release(self) -> None:
        """See `Reservation`."""
        if not self._is_held:
            return
        self._is_held = False
        for lease, units in zip(self._leases, self._units, strict=True):
            if lease.rule.kind == "concurrent":
                lease.release(units, self._desk.clock() - self._began)
                self._desk.look_soon()

    def cancel(self) -> None:
        """See `Reservation`."""
        if self._is_held:
            now = self._desk.clock()
            self.settle(None)
            for lease, units, source in zip(self._leases, self._units, self._sources, strict=True):
                if lease.rule.kind == "requests":
                    lease.give_back(source, units, now)
                    self._desk.look_soon()
        self.release()


NOTHING = Reservation()
