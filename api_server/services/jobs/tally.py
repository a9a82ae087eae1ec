"""How many jobs wait and run, asked once a second for everybody who wants to know."""

from collections.abc import Callable

from api_server.stores.jobs import Counts


class Tally:
    """The newest counts, None before the first and while PostgreSQL is away.

    `notice` is called with each; it is for the metrics of one process.
    """

    def __init__(self, notice: Callable[[Counts], None] | None = None) -> None:
        self.counts: Counts | None = None
        self._notice = notice

    def update(self, counts: Counts | None) -> None:
        self.counts = counts
        if counts is not None and self._notice is not None:
            self._notice(counts)
