"""Runs a configuration: starts the processes that make load, watches them, merges their samples.

Nothing here is under gevent: what happens in this process does not delay a request.
"""

import contextlib
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import msgspec

from load_tests.configuration import Configuration
from load_tests.machine import hardware, versions
from load_tests.probing import Known
from load_tests.results import LoadProcess, Result, read_samples
from load_tests.samples import Sample
from load_tests.summing_up import ALL, faults_of, lag_of, row, rows, timeline

REPOSITORY = Path(__file__).resolve().parent.parent
READY_SECONDS = 60.0
HEAD_START_SECONDS = 0.3
"""Until second 0, from when all processes know of it."""

SILENT_SECONDS = 30.0
"""A process says something twice a second, unless it hangs."""

STOP_SECONDS = 10.0
LOOK_SECONDS = 0.5

WAS_INTERRUPTED = "the run was interrupted"

Watch = Callable[[float, Sequence[dict[str, Any]]], None]
"""Told the second of the run and the latest progress of each process, twice a second."""


class RunError(Exception):
    """A process of the load tester failed, which is no fault of the gateway's."""


class _Worker:
    """One process that makes load; a thread reads what it says."""

    def __init__(
        self, configuration: Configuration, key: str | None, number: int, folder: Path
    ) -> None:
        self.samples = folder / f"samples-{number}.jsonl"
        self._errors = folder / f"errors-{number}.txt"
        with self._errors.open("wb") as errors:
            self._process = subprocess.Popen(
                [sys.executable, "-m", "load_tests.process"],
                cwd=REPOSITORY,
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=errors,
                start_new_session=True,  # Ctrl-C is for us: we stop it in good order
            )
        self.is_ready = threading.Event()
        self.is_done = threading.Event()
        self.progress: dict[str, Any] = {}
        self.heard_at = time.monotonic()
        self.ended: LoadProcess | None = None
        self._thread = threading.Thread(target=self._read, daemon=True)
        self._thread.start()
        self.tell(
            {
                "configuration": configuration,
                "key": key,
                "process": number,
                "samples": str(self.samples),
            }
        )

    def tell(self, order: dict[str, Any]) -> None:
        """A line on its stdin. What a dead process no longer reads, `failure` tells."""
        assert self._process.stdin is not None
        with contextlib.suppress(OSError):
            self._process.stdin.write(msgspec.json.encode(order) + b"\n")
            self._process.stdin.flush()

    def stop(self) -> None:
        """Nothing new is sent, and what is under way is given up."""
        assert self._process.stdin is not None
        with contextlib.suppress(OSError):
            self._process.stdin.close()

    def end(self) -> None:
        """It is gone afterwards."""
        self.stop()
        try:
            self._process.wait(STOP_SECONDS)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
        self._thread.join(STOP_SECONDS)
        assert self._process.stdout is not None
        self._process.stdout.close()

    def failure(self) -> str:
        """The end of what it complained of."""
        return self._errors.read_text(errors="replace").strip()[-2000:] or "it said nothing"

    def _read(self) -> None:
        assert self._process.stdout is not None
        for line in self._process.stdout:
            said = msgspec.json.decode(line)
            self.heard_at = time.monotonic()
            if "ready" in said:
                self.is_ready.set()
            elif "progress" in said:
                self.progress = said["progress"]
            elif "ended" in said:
                self.ended = msgspec.convert(said["ended"], LoadProcess)
        self.is_ready.set()
        self.is_done.set()


def run(
    configuration: Configuration,
    key: str | None = None,
    *,
    known: Known | None = None,
    watch: Watch | None = None,
) -> tuple[Result, list[Sample]]:
    """Make the load and measure it: the result, and the samples in the order they were due.

    `known` adds versions and what was left out. On KeyboardInterrupt the load ends, and the result
    of what was measured is one that does not count. Raises `RunError`.
    """
    with (
        tempfile.TemporaryDirectory(prefix="load-tests-") as folder,
        _workers(configuration, key, Path(folder)) as workers,
    ):
        for worker in workers:
            if not worker.is_ready.wait(READY_SECONDS):
                raise RunError(f"a process of the load tester does not start: {worker.failure()}")
        zero = time.monotonic() + HEAD_START_SECONDS
        started_at = datetime.now(UTC).isoformat(timespec="milliseconds")
        for worker in workers:
            worker.tell({"zero": zero})
        was_interrupted = not _wait(workers, zero, watch)
        _end(workers)
        if failed := [worker for worker in workers if worker.ended is None]:
            raise RunError(f"a process of the load tester ended: {failed[0].failure()}")
        samples = [sample for worker in workers for sample in read_samples(worker.samples)]
        why_lost = "; ".join({worker.failure().splitlines()[-1] for worker in workers})
        processes = [worker.ended for worker in workers if worker.ended is not None]
    samples.sort(key=lambda sample: (sample.intended, sample.number))
    seconds = max((sample.ended for sample in samples), default=0.0) or 1e-9
    lag = lag_of(samples)
    faults = faults_of(configuration, lag, processes)
    if was_interrupted:
        faults.append(WAS_INTERRUPTED)
    elif lost := sum(process.sent for process in processes) - len(samples):
        faults.append(f"{lost} requests were not measured, a fault of the load tester: {why_lost}")
    if not samples:
        faults.append("no request was sent")
    result = Result(
        started_at=started_at,
        seconds=seconds,
        invalid_because=faults,
        configuration=configuration,
        left_out=known.left_out if known else {},
        probes=known.probes if known else 0,
        versions=versions(
            known.gateway_version if known else None, known.engine_version if known else None
        ),
        hardware=hardware(),
        total=row(ALL, samples, seconds),
        scenarios=rows(samples, seconds),
        timeline=timeline(samples),
        lag=lag,
        processes=processes,
    )
    return result, samples


@contextmanager
def _workers(
    configuration: Configuration, key: str | None, folder: Path
) -> Iterator[list[_Worker]]:
    workers: list[_Worker] = []
    try:
        for number in range(configuration.processes):
            workers.append(_Worker(configuration, key, number, folder))  # noqa: PERF401 - one may fail
        yield workers
    finally:
        _end(workers)


def _end(workers: Sequence[_Worker]) -> None:
    """All stop at the same time, then each is waited for."""
    for worker in workers:
        worker.stop()
    for worker in workers:
        worker.end()


def _are_done(workers: Sequence[_Worker], seconds: float) -> bool:
    """Whether all are done at the latest after so long."""
    ends = time.monotonic() + seconds
    return all(worker.is_done.wait(max(0.0, ends - time.monotonic())) for worker in workers)


def _wait(workers: Sequence[_Worker], zero: float, watch: Watch | None) -> bool:
    """Until all are done; False when a person did not want to wait so long.

    One that died is done: what it had measured is not enough. Raises `RunError`.
    """
    try:
        while not _are_done(workers, LOOK_SECONDS):
            if any(worker.is_done.is_set() and worker.ended is None for worker in workers):
                return True
            if any(
                not worker.is_done.is_set() and time.monotonic() - worker.heard_at > SILENT_SECONDS
                for worker in workers
            ):
                raise RunError(f"a process of the load tester is silent for {SILENT_SECONDS:g} s")
            if watch is not None:
                watch(time.monotonic() - zero, [worker.progress for worker in workers])
    except KeyboardInterrupt:
        return False
    return True
