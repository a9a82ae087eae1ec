"""Knows whether the stack could answer now: asks every model's engine, with a bound on time."""

import asyncio
import time
from collections.abc import Iterable, Mapping, Sequence

from api_server.inference.catalogue import Model
from api_server.services.access.access import Access
from api_server.services.jobs.tally import Tally
from api_server.services.lane import Lane
from api_server.stores.dependency import Dependency, State
from api_server.stores.jobs import Counts


class Health:
    """State of this process and of the engines behind it."""

    def __init__(
        self,
        lanes: Mapping[str, Lane],
        version: str,
        *,
        dependencies: Sequence[Dependency] = (),
        access: Access | None = None,
        tally: Tally | None = None,
    ) -> None:
        self._lanes = lanes
        self._dependencies = dependencies
        self._access = access
        self._tally = tally
        self._started = time.monotonic()
        self._probe: asyncio.Task[dict[str, bool]] | None = None
        self.version = version
        self.is_closing = False
        """Whether whoever spreads requests over gateways should send no more to this one."""

    @property
    def requests_in_flight(self) -> int:
        """Requests that engines work on."""
        return sum(lane.gate.running for lane in self._lanes.values())

    @property
    def queue_size(self) -> int:
        """Requests that wait for an engine."""
        return sum(lane.gate.waiting for lane in self._lanes.values())

    @property
    def jobs(self) -> Counts | None:
        """Of all gateways and workers, a second old at most; None where that is not known."""
        return self._tally.counts if self._tally is not None else None

    @property
    def together_models(self) -> frozenset[str]:
        """Models that Together serves."""
        models = (lane.model for lane in self._lanes.values())
        return frozenset(model.id for model in models if model.engine.name == "together")

    @property
    def dependencies(self) -> dict[str, State]:
        """Backing services by name, as far as is known."""
        return {each.name: "up" if each.is_up else "down" for each in self._dependencies}

    @property
    def schema_version(self) -> int | None:
        """Of the database's tables; None where there are none, or as long as that is not known."""
        schema = self._access.schema if self._access is not None else None
        return schema.version if schema is not None else None

    @property
    def apps_age_seconds(self) -> float | None:
        """How old what is known of apps and keys may be; None where nothing is known."""
        age = self._access.directory.age_seconds if self._access is not None else None
        return round(age, 1) if age is not None else None

    @property
    def problems(self) -> list[str]:
        """What keeps engines from being used that are there, in sentences."""
        return [problem for lane in self._lanes.values() for problem in lane.wire.problems]

    def uptime_seconds(self) -> float:
        return time.monotonic() - self._started

    async def models(self) -> dict[str, bool]:
        """Model id to readiness, as of now; callers that come together share one probe."""
        if self._probe is None or self._probe.done():
            self._probe = asyncio.create_task(self._ask())
        return await asyncio.shield(self._probe)

    async def is_ready(self) -> tuple[bool, list[str]]:
        """Whether requests should be sent here now; and the models that cannot answer one."""
        ready = await self.models()
        unready = [id_ for id_, is_ready in ready.items() if not is_ready]
        return can_serve((lane.model for lane in self._lanes.values()), ready), unready

    async def _ask(self) -> dict[str, bool]:
        probes = (lane.wire.is_ready() for lane in self._lanes.values())
        return dict(zip(self._lanes, await asyncio.gather(*probes), strict=True))


def can_serve(models: Iterable[Model], ready: Mapping[str, bool]) -> bool:
    """Whether each model could answer, by a fallback if need be. Pure.

    An outage elsewhere is no reason to take this gateway out of service: models in the cloud count
    only where there are no others, and then one of them is enough.
    """
    here: list[bool] = []
    elsewhere: list[bool] = []
    for model in models:
        can_answer = any(ready[id_] for id_ in (model.id, *model.fallbacks))
        (here if model.location == "local" else elsewhere).append(can_answer)
    return all(here) if here else any(elsewhere)


def humanize_seconds(seconds: float) -> str:
    """`93784` -> `1 day, 2 hours, 3 minutes`: the two or three largest units."""
    rest = int(seconds)
    parts: list[str] = []
    for unit, size in (("day", 86400), ("hour", 3600), ("minute", 60), ("second", 1)):
        count, rest = divmod(rest, size)
        if count:
            parts.append(f"{count} {unit}{'' if count == 1 else 's'}")
    return ", ".join(parts[:3]) or "0 seconds"
