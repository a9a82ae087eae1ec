"""Several processes and one limit: never more than it, hardly less, whatever dies or hangs."""

import bisect
import contextlib
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import IO

import pytest

from tests.racer import Race
from tests.stores import RedisServer, running_redis

pytestmark = pytest.mark.alone

PROCESSES = 4


@dataclass(frozen=True)
class Event:
    kind: str
    at: float
    took: float
    told: float


class Racers:
    """Processes that race, and what they logged."""

    def __init__(self, race: Race, folder: Path) -> None:
        self.processes: list[subprocess.Popen[bytes]] = []
        self._logs: list[Path] = []
        self._open: list[IO[bytes]] = []
        for index in range(race.processes):
            path = folder / f"{index}.log"
            log = path.open("wb")
            argument = replace(race, index=index).argument()
            self.processes.append(
                subprocess.Popen(
                    [sys.executable, "-m", "tests.racer", argument],
                    stdin=subprocess.PIPE,
                    stdout=log,
                    stderr=log,
                )
            )
            self._logs.append(path)
            self._open.append(log)

    def go(self) -> float:
        """All at once, when all are there."""
        deadline = time.monotonic() + 30
        while not all(b"ready" in path.read_bytes() for path in self._logs):
            assert time.monotonic() < deadline, [path.read_text() for path in self._logs]
            time.sleep(0.02)
        for process in self.processes:
            assert process.stdin is not None
            process.stdin.write(b"\n")
            process.stdin.close()
        return time.monotonic()

    def stop(self) -> list[Event]:
        """Before their time is over."""
        for process in self.processes:
            process.terminate()
        return self.end()

    def end(self) -> list[Event]:
        for process in self.processes:
            assert process.wait(60) in (0, -signal.SIGKILL)
        return self.events()

    def events(self) -> list[Event]:
        events = []
        for path in self._logs:
            for line in path.read_text().splitlines():
                words = line.split()
                if len(words) == 4 and words[0] in ("admitted", "refused", "released"):
                    events.append(Event(words[0], *(float(word) for word in words[1:])))
        return sorted(events, key=lambda event: event.at)

    def close(self) -> None:
        for process in self.processes:
            process.kill()
            process.wait()
        for log in self._open:
            log.close()


@contextlib.contextmanager
def racing(race: Race) -> Iterator[Racers]:
    with tempfile.TemporaryDirectory() as folder:
        racers = Racers(race, Path(folder))
        try:
            yield racers
        finally:
            racers.close()


def busiest(times: list[float], seconds: float) -> int:
    """The most admissions in any window of that length."""
    return max(bisect.bisect_left(times, at + seconds) - first for first, at in enumerate(times))


def admitted(events: list[Event]) -> list[float]:
    return [event.at for event in events if event.kind == "admitted"]


@pytest.mark.parametrize(("requests", "seconds", "obeys"), [(300, 3, True), (300, 3, False)])
def test_racing_clients_get_the_limit_and_never_more(
    redis_url: str, requests: int, seconds: int, obeys: bool
) -> None:
    race = Race(redis_url, requests, seconds, lasts_seconds=3.3 * seconds, obeys=obeys)
    with racing(race) as racers:
        racers.go()
        events = racers.end()
    times = admitted(events)
    assert busiest(times, seconds) <= requests
    assert not any(event.told for event in events if event.kind == "admitted"), "degraded"
    # The first burst is the same for any way to count; what follows is the pace.
    periods = (times[-1] - times[0]) / seconds
    assert (len(times) - requests) / requests >= 0.97 * periods > 2


def test_clients_that_pace_themselves_are_hardly_ever_refused(redis_url: str) -> None:
    """At nine tenths of the limit; what processes hold in advance must not be missed."""
    race = Race(redis_url, 200, 2, clients=16, lasts_seconds=8, pause_seconds=64 / 90)
    with racing(race) as racers:
        racers.go()
        events = racers.end()
    times = admitted(events)
    assert busiest(times, 2) <= 200
    refused = sum(event.kind == "refused" for event in events)
    assert refused <= 0.02 * len(times)


def in_use(events: list[Event]) -> int:
    """The most that were held at the same time."""
    held = most = 0
    for event in events:
        held += {"admitted": 1, "released": -1}.get(event.kind, 0)
        most = max(most, held)
    return most


def test_places_are_shared_and_those_of_a_killed_process_come_back(redis_url: str) -> None:
    race = Race(redis_url, concurrent=8, lasts_seconds=14, holds_seconds=0.05, obeys=False)
    with racing(race) as racers:
        racers.go()
        time.sleep(2)
        before = racers.events()
        racers.processes[0].kill()
        killed = time.monotonic()
        events = racers.end()
    assert in_use(before) == 8
    late = [event for event in events if event.at > killed + 10 and event.kind == "admitted"]
    seconds = late[-1].at - (killed + 10)
    assert seconds > 1
    assert len(late) > 0.6 * 8 / 0.05 * seconds, "places of the dead one are used again"


def test_places_of_a_killed_process_that_held_all_are_free_within_ten_seconds(
    redis_url: str,
) -> None:
    greedy = Race(redis_url, concurrent=8, clients=8, lasts_seconds=60, holds_seconds=60)
    with racing(replace(greedy, processes=1)) as first:
        first.go()
        while len(admitted(first.events())) < 8:
            time.sleep(0.02)
        patient = replace(greedy, processes=1, lasts_seconds=13, holds_seconds=0.1, obeys=False)
        with racing(patient) as second:
            second.go()
            time.sleep(0.5)
            assert not admitted(second.events())
            first.processes[0].kill()
            killed = time.monotonic()
            while len(admitted(second.events())) < 8 and time.monotonic() < killed + 11:
                time.sleep(0.05)
            events = second.stop()
    assert admitted(events)[0] < killed + 10
    assert in_use(events) == 8


@pytest.fixture
def own_redis() -> Iterator[RedisServer]:
    with running_redis() as server:
        yield server


def is_degraded(events: list[Event]) -> bool:
    """Whether the last that was admitted was counted by one process alone."""
    return bool([event for event in events if event.kind == "admitted"][-1].told)


def test_while_redis_hangs_nobody_waits_and_nobody_gets_more(own_redis: RedisServer) -> None:
    race = Race(own_redis.url, 300, 3, lasts_seconds=40, obeys=False)
    with racing(race) as racers:
        began = racers.go()
        time.sleep(4)
        own_redis.pause()
        time.sleep(5)
        own_redis.resume()
        deadline = time.monotonic() + 12  # the breakers try again after 4 s, or 5
        while is_degraded(racers.events()):
            assert time.monotonic() < deadline, "not shared again"
            time.sleep(0.3)
        time.sleep(3)  # what was admitted before and after must be no more than the limit
        events = racers.stop()
    paused = [event for event in events if began + 5 < event.at < began + 8.9]
    waits = sorted(event.took for event in paused)
    assert waits[int(len(waits) * 0.99)] < 0.001
    assert busiest(admitted(events), 3) <= 300
    alone = [event for event in paused if event.kind == "admitted"]
    assert len(alone) >= 250, "the shares of all processes are used"
    assert all(event.told for event in alone)
    assert not is_degraded(events)


def test_a_redis_that_comes_and_goes_gives_nobody_more(own_redis: RedisServer) -> None:
    race = Race(own_redis.url, 300, 3, lasts_seconds=10, obeys=False)
    with racing(race) as racers:
        began = racers.go()
        while time.monotonic() < began + 9:
            time.sleep(0.7)
            own_redis.pause()
            time.sleep(0.4)
            own_redis.resume()
        events = racers.end()
    times = admitted(events)
    assert busiest(times, 3) <= 300
    assert len(times) > 400


def test_a_redis_that_loses_everything_is_told_what_was_used(own_redis: RedisServer) -> None:
    race = Race(own_redis.url, 300, 20, lasts_seconds=6, obeys=False)
    with racing(race) as racers:
        racers.go()
        time.sleep(2.5)
        own_redis.kill()
        own_redis.start()
        events = racers.end()
    assert len(admitted(events)) == 300
