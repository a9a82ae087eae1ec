"""Runs the rounds: each target is started, warmed up, measured and stopped, one after the other."""

import asyncio
import math
import os
import sys
import tempfile
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import ExitStack, asynccontextmanager
from dataclasses import dataclass
from itertools import repeat
from pathlib import Path

from api_server.local.process import Command
from benchmarks.exchanges import PlainExchange, StreamExchange, lengths_around
from benchmarks.figures import MIB, Measurement, Memory, Row, percentile
from benchmarks.phases import Bounds, Counted, run_once, run_phase
from benchmarks.processes import TargetError, clean_environment, listen, running
from benchmarks.targets import (
    ENGINE_ADDRESSES,
    GATEWAY,
    Endpoint,
    Place,
    Target,
)

ENGINE_START_SECONDS = 10.0

Say = Callable[[str], None]


class BenchError(Exception):
    """The measurement cannot be made or trusted; the message says why."""


class WrongAnswerError(Exception):
    """A target answered with an error or not at all; the message has the first of them."""


@dataclass(frozen=True)
class Plan:
    """How much is measured. Times in seconds."""

    rounds: int = 3
    warm_up_seconds: float = 1.0
    plain_clients: int = 50
    plain_seconds: float = 3.0
    single_answers: int = 3000
    single_seconds: float = 3.0
    few_streams: int = 16
    many_streams: int = 256
    stream_tokens: int = 200
    stream_seconds: float = 4.0
    memory_streams: int = 200
    memory_tokens: int = 20_000
    memory_seconds: float = 400.0
    settle_seconds: float = 2.0


QUICK = Plan(
    rounds=1,
    warm_up_seconds=0.1,
    plain_clients=5,
    plain_seconds=0.2,
    single_answers=20,
    single_seconds=0.5,
    few_streams=2,
    many_streams=8,
    stream_tokens=10,
    stream_seconds=0.3,
    memory_streams=5,
    memory_tokens=100,
    memory_seconds=20.0,
    settle_seconds=0.1,
)
"""Shows that everything works; its figures mean nothing."""


@dataclass(frozen=True)
class Cores:
    """The core of what is measured, and the core of everything else."""

    target: int
    harness: int


def choose_cores(usable: Sequence[int]) -> Cores:
    """The last core for the target. Raises `BenchError` where there is only one."""
    if len(usable) < 2:
        raise BenchError(
            "this needs two cores, one for the gateway and one for the mock engine and the load "
            "generator, and this machine gives us one. On one core the figures would be those of "
            "the load generator."
        )
    ordered = sorted(usable)
    return Cores(target=ordered[-1], harness=ordered[0])


async def measure(endpoint: Endpoint, plan: Plan) -> Measurement:
    """All phases of one target in one round. Raises `WrongAnswerError`."""
    process = endpoint.process
    if process is not None:
        process.look_for_children()

    def cpu_seconds() -> float:
        return process.cpu_seconds() if process is not None else 0.0

    async def phase(name: str, clients: int, bounds: Bounds, tokens: int = 0) -> Counted:
        exchanges = [
            StreamExchange(lengths_around(tokens, number)) if tokens else PlainExchange()
            for number in range(clients)
        ]
        counted = await run_phase(endpoint.port, exchanges, bounds, cpu_seconds)
        if not counted.errors and not (counted.tokens if tokens else counted.answers):
            counted.errors.append("nothing was answered while we counted")
        if counted.errors:
            raise WrongAnswerError(
                f"{name}: {len(counted.errors)} errors, first: {counted.errors[0]}"
            )
        return counted

    warm_up = plan.warm_up_seconds
    plain_bounds = Bounds(warm_up, plan.plain_seconds)
    plain = await phase("plain", plan.plain_clients, plain_bounds)
    single_bounds = Bounds(warm_up / 2, plan.single_seconds, plan.single_answers)
    single = await phase("one connection", 1, single_bounds)
    stream_bounds = Bounds(warm_up, plan.stream_seconds)
    few = await phase("few streams", plan.few_streams, stream_bounds, plan.stream_tokens)
    many = await phase("many streams", plan.many_streams, stream_bounds, plan.stream_tokens)
    return Measurement(
        plain_per_second=plain.answers / plain.seconds,
        cpu_us_per_request=plain.cpu_seconds / plain.answers * 1e6 if process else None,
        p50_ms=percentile(single.whole_seconds, 50) * 1e3,
        p99_ms=percentile(single.whole_seconds, 99) * 1e3,
        cpu_us_per_token=few.cpu_seconds / few.tokens * 1e6 if process else None,
        tokens_per_second=many.tokens / many.seconds,
        first_token_ms=percentile(many.first_token_seconds or [math.nan], 50) * 1e3,
        peak_mib=process.peak_bytes() / MIB if process else None,
    )


async def run_rounds(
    targets: Sequence[Target], plan: Plan, place: Place, say: Say
) -> tuple[Row, ...]:
    """Every target in every round, in turn. A peer that fails once is not tried again."""
    found: dict[str, list[Measurement]] = {target.name: [] for target in targets}
    failures: dict[str, Exception] = {}
    for number in range(plan.rounds):
        for target in targets:
            if target.name in failures:
                continue
            say(f"round {number + 1} of {plan.rounds}: {target.name}")
            try:
                async with target.start(place) as endpoint:
                    found[target.name].append(await measure(endpoint, plan))
            except (TargetError, WrongAnswerError) as exc:
                failures[target.name] = exc
                say(f"{target.name}: {exc}")
    return tuple(_row(name, rounds, failures.get(name)) for name, rounds in found.items())


def _row(name: str, rounds: Sequence[Measurement], failure: Exception | None) -> Row:
    """Without figures when there was any failure: half a measurement is none."""
    if failure is None:
        return Row(name, tuple(rounds))
    return Row(name, (), str(failure), is_wrong=isinstance(failure, WrongAnswerError))


async def measure_memory(plan: Plan, place: Place, target: Target = GATEWAY) -> Memory:
    """Many long streams at once through a gateway that has already seen as many short ones."""
    async with target.start(place) as endpoint:
        process = endpoint.process
        assert process is not None

        async def streams(tokens: int) -> Counted:
            exchanges = [StreamExchange(repeat(tokens)) for _ in range(plan.memory_streams)]
            counted = await run_once(endpoint.port, exchanges, plan.memory_seconds)
            if counted.errors or counted.cut:
                reason = counted.errors[0] if counted.errors else "the time was over"
                raise BenchError(f"memory: {counted.answers} streams became whole: {reason}")
            return counted

        await streams(plan.stream_tokens)
        await asyncio.sleep(plan.settle_seconds)
        before = process.resident_bytes()
        counted = await streams(plan.memory_tokens)
        await asyncio.sleep(plan.settle_seconds)
        return Memory(
            plan.memory_streams,
            plan.memory_tokens,
            before,
            process.resident_bytes(),
            process.peak_bytes(),
            counted.seconds,
        )


@asynccontextmanager
async def workplace(cores: Cores) -> AsyncIterator[Place]:
    """The mock engine on the harness's core, where this process goes too, and a folder.

    It listens on several addresses, so that it can stand for several engines.
    """
    os.sched_setaffinity(0, {cores.harness})
    with ExitStack() as stack:
        name = stack.enter_context(tempfile.TemporaryDirectory(prefix="bench-"))
        first = stack.enter_context(listen(ENGINE_ADDRESSES[0]))
        port: int = first.getsockname()[1]
        others = [stack.enter_context(listen(each, port)) for each in ENGINE_ADDRESSES[1:]]
        folder = Path(name)
        fds = tuple(listener.fileno() for listener in (first, *others))
        argv = [sys.executable, "-m", "benchmarks.mock_engine", *map(str, fds)]
        environment = clean_environment()
        program = Command("mock engine", argv, environment, folder / "engine.log", fds)
        async with running(program, cores.harness) as engine:
            try:
                await engine.wait_until_it_answers(port, ENGINE_START_SECONDS)
            except TargetError as exc:
                raise BenchError(f"the mock engine: {exc}") from exc
            yield Place(cores.target, cores.harness, port, folder)
