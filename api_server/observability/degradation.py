"""Which backing services are away now: for the header, the metric and the health of a process."""

from collections.abc import Iterable
from typing import Literal

from api_server.observability.metrics import Metrics

HEADER = b"x-degraded"


class Degradation:
    """Told of each change; asked for every answer, so that the header is kept ready."""

    def __init__(self, dependencies: Iterable[str], metrics: Metrics) -> None:
        self._is_up = dict.fromkeys(dependencies, True)
        self._metrics = metrics
        self.header: tuple[bytes, bytes] | None = None
        for name in self._is_up:
            metrics.dependency(name, is_up=True)

    def changed(self, dependency: str, state: Literal["up", "down"]) -> None:
        """One of them went away, or came back."""
        is_up = state == "up"
        self._is_up[dependency] = is_up
        self._metrics.dependency(dependency, is_up=is_up)
        away = ", ".join(self.away)
        self.header = (HEADER, away.encode()) if away else None

    @property
    def away(self) -> list[str]:
        """Those that do not answer, by name."""
        return sorted(name for name, is_up in self._is_up.items() if not is_up)

    def states(self) -> dict[str, str]:
        """Each with "up" or "down"."""
        return {name: "up" if is_up else "down" for name, is_up in self._is_up.items()}
