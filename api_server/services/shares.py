"""This process's part of what all processes use together: the places of the engines.

How many there are is configured (`gateway.workers`), or heard from Redis, where gateways and
workers tell of themselves (quotas). No process knows what the others have in flight.
"""

import logging
from collections.abc import Callable

log = logging.getLogger(__name__)


def share(total: int, processes: int) -> int:
    """What each of so many may use, 1 at least. The parts add up to `processes` - 1 too much at
    most: better a few wait in the engine than that one of its slots idles. Pure.
    """
    return max(1, -(-total // processes))


class Shares:
    """`configured` gives this process's part by what was configured for `processes` of them."""

    def __init__(self, configured: Callable[[int], int], processes: int = 1) -> None:
        self._configured = configured
        self._at_least = processes
        self._processes = processes
        self._watchers: list[Callable[[], None]] = []

    def of(self, total: int) -> int:
        """What this process may use of something that all use."""
        if self._processes == self._at_least:
            return self._configured(total)
        return share(total, self._processes)

    def watch(self, changed: Callable[[], None]) -> None:
        """Call this whenever `of` gives something else."""
        self._watchers.append(changed)

    def heard(self, processes: int) -> None:
        """So many live. Those of this gateway are never fewer: one that died is started again."""
        processes = max(processes, self._at_least)
        if processes == self._processes:
            return
        self._processes = processes
        log.info("the engines are shared among processes", extra={"processes": processes})
        for changed in self._watchers:
            changed()
