"""One process that makes load: `python -m load_tests.process`, started by running.py.

Locust's import makes the standard library cooperative here, which is why this is a process of its
own. It reads its order from stdin, says that it is ready, reads when to start, and works until its
plan is done or stdin ends. Samples go to a file, its progress and its own lag to stdout.
"""

import gc
import itertools
import os
import sys
import time
from collections.abc import Iterator
from typing import Any, BinaryIO

import gevent
import msgspec
from gevent.event import Event
from gevent.pool import Group
from locust.env import Environment
from locust.event import Events
from msgspec import Struct

from load_tests.client import Client, TimeOuts
from load_tests.configuration import Configuration, planned
from load_tests.figures import spread
from load_tests.locust_entries import enter
from load_tests.results import LoadProcess, sample_line
from load_tests.samples import Sample
from load_tests.scenarios import SCENARIOS
from load_tests.scenarios.ask import Ask

PULSE_SECONDS = 0.02
PROGRESS_SECONDS = 0.5
USER_LOOKS_SECONDS = 0.05
ERROR_PAUSE_SECONDS = 0.2
"""Of a user, so that nobody spins where the gateway is gone."""

MOST_RETRY_SECONDS = 60.0
MOST_PULSES = 500_000
"""Of which the delays are kept: nearly three hours."""


class Order(Struct):
    """What one process is told."""

    configuration: Configuration
    key: str | None
    process: int
    samples: str


class Start(Struct):
    """`zero`: the monotonic clock, which all processes of a machine share, at second 0."""

    zero: float


class Progress(Struct):
    """So far; `recent` are latencies of those that went well since the last time."""

    sent: int
    ok: int
    errors: int
    refused: int
    cancelled: int
    tokens: int
    in_flight: int
    recent: list[float]


class Load:
    """The requests of one process, and what it counts of them and of itself."""

    def __init__(self, order: Order, zero: float, file: BinaryIO) -> None:
        self._configuration = order.configuration
        self._process = order.process
        self._zero = zero
        self._file = file
        times = TimeOuts(order.configuration.idle_seconds, order.configuration.total_seconds)
        self._client = Client(
            *(order.configuration.host, order.key, self._now, times),
            needs_usage=order.configuration.needs_usage,
        )
        self._world = order.configuration.world()
        self._environment = Environment(
            events=Events(),  # type: ignore[no-untyped-call]
            host=order.configuration.host,
        )
        self._runner = self._environment.create_local_runner()
        self._group = Group()
        self._delays: list[float] = []
        self._unsent = 0
        self._counts = Progress(0, 0, 0, 0, 0, 0, 0, [])
        self.stopped = Event()

    def run(self) -> LoadProcess:
        """Until the plan is done, or `stopped` and all requests ended or were given up."""
        beside = [gevent.spawn(self._pulse), gevent.spawn(self._say_progress)]
        gevent.sleep(max(0.0, -self._now()))
        cpu_before, began = time.process_time(), time.monotonic()
        plan = planned(self._configuration, self._process)
        if self._configuration.is_open:
            self._send_arrivals(plan)
        else:
            self._run_users(plan)
        while self._group and not self.stopped.is_set():
            gevent.sleep(PULSE_SECONDS)
        if self._group:
            self._group.kill()
        elapsed = max(1e-9, time.monotonic() - began)
        cpu_share = (time.process_time() - cpu_before) / elapsed
        gevent.killall(beside)
        self._client.close()
        self._say()
        entries = self._environment.stats.entries
        return LoadProcess(
            sent=self._counts.sent,
            unsent=self._unsent,
            cpu_share=cpu_share,
            loop_delay=spread(self._delays),
            locust={name: entry.num_requests for (name, _), entry in entries.items()},
        )

    def _now(self) -> float:
        return time.monotonic() - self._zero

    def _send_arrivals(self, plan: Iterator[Any]) -> None:
        processes = self._configuration.processes
        most = -(-self._configuration.most_in_flight // processes)
        for number, intended, scenario, which in plan:
            ask = SCENARIOS[scenario](self._world, which)  # before its time, not in it
            wait = intended - self._now()
            if wait > 0 and self.stopped.wait(wait):
                return
            if self.stopped.is_set():
                return
            if self._counts.in_flight >= most:
                self._unsent += 1
                gevent.sleep(0)  # the answers must be read all the same
            else:
                self._counts.in_flight += 1
                self._group.start(gevent.Greenlet(self._arrive, ask, intended, number))

    def _run_users(self, plan: Iterator[Any]) -> None:
        level = self._configuration.level()
        mine = range(self._process, int(level.highest), self._configuration.processes)
        for user in mine:
            self._group.start(gevent.Greenlet(self._use, user, plan))

    def _use(self, user: int, plan: Iterator[Any]) -> None:
        """One user asks again when an answer is whole, as long as there are so many users."""
        level = self._configuration.level()
        while not self.stopped.is_set():
            now = self._now()
            if level.seconds is not None and now >= level.seconds:
                return
            if user + 1 > max(1.0, level.at(now)):
                gevent.sleep(USER_LOOKS_SECONDS)
                continue
            item = next(plan, None)
            if item is None:
                return
            number, _, scenario, which = item
            self._counts.in_flight += 1
            sample = self._arrive(SCENARIOS[scenario](self._world, which), None, number)
            if sample.outcome == "refused" or sample.error is not None:
                pause = min(sample.retry_after or ERROR_PAUSE_SECONDS, MOST_RETRY_SECONDS)
                if level.seconds is not None:  # nobody comes again after the end
                    pause = min(pause, max(0.0, level.seconds - self._now()))
                self.stopped.wait(pause)

    def _arrive(self, ask: Ask, intended: float | None, number: int) -> Sample:
        """Its last attempt. It counts as in flight already, and not while it waits to come again.

        A retry is due when the Retry-After of the attempt before is over.
        """
        for attempt in itertools.count(1):
            self._counts.sent += 1
            try:
                sample = self._client.measure(ask, intended, number, attempt)
            finally:
                self._counts.in_flight -= 1
            self._keep(sample)
            if sample.retry_after is None or attempt > self._configuration.retries:
                break
            intended = sample.ended + min(sample.retry_after, MOST_RETRY_SECONDS)
            if self.stopped.wait(max(0.0, intended - self._now())):
                break
            self._counts.in_flight += 1
        return sample

    def _keep(self, sample: Sample) -> None:
        self._file.write(sample_line(sample))
        counts = self._counts
        counts.tokens += sample.completion_tokens
        if sample.outcome == "ok":
            counts.ok += 1
            counts.recent.append(sample.latency)
        elif sample.outcome == "error":
            counts.errors += 1
        elif sample.outcome == "refused":
            counts.refused += 1
        else:
            counts.cancelled += 1
        enter(self._environment, sample)

    def _pulse(self) -> None:
        gevent.sleep(max(0.0, -self._now()))
        while len(self._delays) < MOST_PULSES:
            before = time.monotonic()
            gevent.sleep(PULSE_SECONDS)
            self._delays.append(max(0.0, time.monotonic() - before - PULSE_SECONDS))

    def _say_progress(self) -> None:
        while True:
            gevent.sleep(PROGRESS_SECONDS)
            self._say()

    def _say(self) -> None:
        say("progress", self._counts)
        self._counts.recent.clear()


def say(what: str, content: object = None) -> None:
    """A line for running.py, which always reads."""
    os.write(1, msgspec.json.encode({what: content}) + b"\n")


def _stop_when_stdin_ends(load: Load) -> None:
    gevent.get_hub().threadpool.apply(sys.stdin.buffer.read)
    load.stopped.set()


def main() -> None:
    """One run."""
    order = msgspec.json.decode(sys.stdin.buffer.readline(), type=Order)
    say("ready")
    start = msgspec.json.decode(sys.stdin.buffer.readline(), type=Start)
    with open(order.samples, "wb") as file:  # noqa: PTH123 - written by the line
        load = Load(order, start.zero, file)
        gevent.spawn(_stop_when_stdin_ends, load)
        gc.collect()
        gc.freeze()
        ended = load.run()
    say("ended", ended)
    os._exit(0)  # a thread still waits for stdin


if __name__ == "__main__":
    main()
