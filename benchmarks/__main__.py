"""The command line: `python -m benchmarks [--peers | --choosing | ...] [--quick]`."""

import argparse
import asyncio
import gc
import os
import signal
import sys
import tempfile
from collections.abc import Callable, Coroutine, Sequence
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path

import uvloop

from api_server.errors import SetupError
from api_server.local.stack import engine_binary
from api_server.local.terminal import TerminalSay
from api_server.settings import load_environment, load_settings
from benchmarks import choosing, jobs, ledger, limits, machine, runs, threads
from benchmarks.bench import (
    QUICK,
    BenchError,
    Plan,
    choose_cores,
    measure_memory,
    run_rounds,
    workplace,
)
from benchmarks.figures import Row, beside, median_of, table
from benchmarks.peers import peers
from benchmarks.processes import TargetError
from benchmarks.targets import DIRECT, GATEWAY, GATEWAY_OF_FOUR, WITHOUT_STATE, Place, Target

INTERRUPTED = 130
ALONE = {"choosing": choosing.report, "ledger": ledger.report, "limits": limits.report}
"""What takes microseconds and is measured without a gateway round it."""


def main() -> int:
    """0 when everything was measured and every answer was right, 1 when not, 130 on Ctrl-C."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks", description=__doc__)
    what = parser.add_mutually_exclusive_group()
    what.add_argument("--peers", action="store_true", help="other gateways too")
    what.add_argument("--choosing", action="store_true", help="the choice of a replica alone")
    what.add_argument("--ledger", action="store_true", help="a request's lines in the ledger alone")
    what.add_argument("--limits", action="store_true", help="the limits of apps alone")
    what.add_argument("--affinity", action="store_true", help="real engines and their caches")
    what.add_argument("--jobs", action="store_true", help="jobs accepted, done and polled")
    what.add_argument("--runs", action="store_true", help="the first token of an assistant's run")
    what.add_argument("--threads", action="store_true", help="a thread of 10,000 messages")
    parser.add_argument(
        "--quick", action="store_true", help="tiny counts; the figures mean nothing"
    )
    parser.add_argument("--rounds", type=int, help="how often everything is measured (3)")
    arguments = parser.parse_args()
    plan = QUICK if arguments.quick else Plan()
    if arguments.rounds:
        plan = replace(plan, rounds=arguments.rounds)
    alone = next((ALONE[name] for name in ALONE if getattr(arguments, name)), None)
    if alone is not None:
        print(asyncio.run(alone(batches=3 if arguments.quick else 200, requests=200)))
        return 0
    gc.disable()  # no pauses of ours in what is measured
    try:
        if arguments.affinity:
            return uvloop.run(
                until_signal(run_affinity(arguments.rounds, is_quick=arguments.quick))
            )
        for name, measure in (("jobs", run_jobs), ("runs", run_runs), ("threads", run_threads)):
            if getattr(arguments, name):
                return uvloop.run(until_signal(measure(is_quick=arguments.quick)))
        return uvloop.run(until_signal(run(plan, with_peers=arguments.peers)))
    except asyncio.CancelledError:
        print("stopped", file=sys.stderr)
        return INTERRUPTED
    except (BenchError, TargetError, SetupError) as exc:
        print(f"error: {exc}", file=sys.stderr)
        return 1


async def until_signal(work: Coroutine[None, None, int]) -> int:
    """Run it; a signal cancels it, so that everything it started is stopped."""
    task = asyncio.ensure_future(work)
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        asyncio.get_running_loop().add_signal_handler(number, task.cancel)
    return await task


async def run(plan: Plan, *, with_peers: bool) -> int:
    """Measure and print."""
    cores = choose_cores(sorted(os.sched_getaffinity(0)))
    targets: list[Target] = [DIRECT, GATEWAY, GATEWAY_OF_FOUR, WITHOUT_STATE]
    if with_peers:
        targets += await peers(load_environment().cache_home, progress)
    watch = machine.LoadWatch.begin()
    async with workplace(cores) as place:
        rows = await run_rounds(targets, plan, place, progress)
        report(rows, plan)
        ours = rows[1:4]
        is_good = not any(row.failure for row in ours) and not any(row.is_wrong for row in rows)
        if not rows[1].failure:
            progress(f"memory: {plan.memory_streams} streams of {plan.memory_tokens} tokens")
            memory = await measure_memory(plan, place)
            print(memory, flush=True)
            is_good = is_good and memory.is_constant
    if warning := watch.warning():
        print(warning)
    return 0 if is_good else 1


async def run_affinity(rounds: int | None, *, is_quick: bool) -> int:
    """Measure with real engines and print."""
    from benchmarks import affinity  # noqa: PLC0415 - needs httpx, which only developers have

    workload = affinity.QUICK if is_quick else affinity.Workload()
    if rounds:
        workload = replace(workload, rounds=rounds)
    binary = await engine_binary(load_settings(), TerminalSay(sys.stderr))
    watch = machine.LoadWatch.begin()
    with tempfile.TemporaryDirectory(prefix="bench-") as folder:
        print(await affinity.measure(binary, Path(folder), workload, progress))
    if warning := watch.warning():
        print(warning)
    return 0


async def run_jobs(*, is_quick: bool) -> int:
    """Measure jobs and print."""
    return await run_alone(
        lambda place: jobs.report(place, jobs.QUICK if is_quick else jobs.Size())
    )


async def run_runs(*, is_quick: bool) -> int:
    """Measure runs of assistants and print."""
    return await run_alone(
        lambda place: runs.report(place, runs.QUICK if is_quick else runs.Size())
    )


async def run_alone(report: Callable[[Place], Coroutine[None, None, str]]) -> int:
    """Measure one part and print."""
    watch = machine.LoadWatch.begin()
    async with workplace(choose_cores(sorted(os.sched_getaffinity(0)))) as place:
        print(await report(place))
    if warning := watch.warning():
        print(warning)
    return 0


async def run_threads(*, is_quick: bool) -> int:
    """Measure a long thread and print."""
    return await run_alone(
        lambda place: threads.report(place, threads.QUICK if is_quick else threads.Size())
    )


def progress(line: str) -> None:
    """What happens now, for whoever waits."""
    print(line, file=sys.stderr, flush=True)


def report(rows: Sequence[Row], plan: Plan) -> None:
    """The table, and what is needed to read it."""
    direct = rows[0]
    if direct.failure:
        raise BenchError(f"the mock engine or the load generator failed: {direct.failure}")
    print(
        f"\n{datetime.now(UTC):%Y-%m-%d}, {machine.cpu_model()}; medians of {plan.rounds} rounds; "
        f"a direct answer takes {median_of(direct.rounds, lambda m: m.p50_ms):.2f} ms (p99 "
        f"{median_of(direct.rounds, lambda m: m.p99_ms):.2f}) with one connection\n"
    )
    print(table(rows))
    for row in rows:
        if row.failure:
            print(f"\n{row.name} was not measured: {row.failure}")
    one, *others = rows[1:4]
    for row in others:
        if one.rounds and row.rounds:
            print(f"\n{beside(row, one)}")
    print(flush=True)


if __name__ == "__main__":
    sys.exit(main())
