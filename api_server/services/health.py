"""Knows whether the stack could answer now: asks every model's engine, with a bound on time."""

import asyncio
import time
from collections.abc import Mapping

from api_server.services.lane import Lane


class Health:
    """State of this process and of the engines behind it."""

    def __init__(self, lanes: Mapping[str, Lane], version: str) -> None:
        self._lanes = lanes
        self._started = time.monotonic()
        self._probe: asyncio.Task[dict[str, bool]] | None = None
        self.version = version

    @property
    def requests_in_flight(self) -> int:
        """Requests that engines work on."""
        return sum(lane.gate.running for lane in self._lanes.values())

    @property
    def queue_size(self) -> int:
        """Requests that wait for an engine."""
        return sum(lane.gate.waiting for lane in self._lanes.values())

    def uptime_seconds(self) -> float:
        return time.monotonic() - self._started

    async def models(self) -> dict[str, bool]:
        """Model id to readiness, as of now; callers that come together share one probe."""
        if self._probe is None or self._probe.done():
            self._probe = asyncio.create_task(self._ask())
        return await asyncio.shield(self._probe)

    async def _ask(self) -> dict[str, bool]:
        probes = (lane.wire.is_ready() for lane in self._lanes.values())
        return dict(zip(self._lanes, await asyncio.gather(*probes), strict=True))


def humanize_seconds(seconds: float) -> str:
    """`93784` -> `1 day, 2 hours, 3 minutes`: the two or three largest units."""
    rest = int(seconds)
    parts: list[str] = []
    for unit, size in (("day", 86400), ("hour", 3600), ("minute", 60), ("second", 1)):
        count, rest = divmod(rest, size)
        if count:
            parts.append(f"{count} {unit}{'' if count == 1 else 's'}")
    return ", ".join(parts[:3]) or "0 seconds"
