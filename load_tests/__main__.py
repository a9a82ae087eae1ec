"""The command line: `python -m load_tests --requests 100 --concurrency 10`. See `--help`."""

import argparse
import contextlib
import os
import secrets
import signal
import sys
import tempfile
from collections.abc import Callable, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from load_tests.arrivals import KINDS
from load_tests.capacity import Plan
from load_tests.configuration import Configuration
from load_tests.key import key_of
from load_tests.machine import versions
from load_tests.probing import Known, Probe, ProbeError, scenarios_of
from load_tests.promises import (
    FOUND,
    SAYS_NOTHING,
    Runs,
    compared,
    found_rate,
    number_above,
    rate_or_found,
    search,
    slo_seconds,
    step_line,
    verdict_lines,
    workload_of,
)
from load_tests.report import words
from load_tests.report.writing import PAGE, write_report
from load_tests.results import Result, write_result
from load_tests.running import RunError, Watch, run
from load_tests.samples import Sample
from load_tests.showing import progress_line, table
from monitoring.slo import Slo, load_slo

OK, HAD_ERRORS, USAGE, INVALID, UNREACHABLE = 0, 1, 2, 3, 4
INTERRUPTED = 130

EXIT_CODES = """exit codes: 0 all went well (a refusal with a Retry-After is no error), 1 there were
errors, 2 wrong options, 3 not valid: the load tester was late or was interrupted, 4 no gateway;
of --slo: 0 it holds, 1 it does not or nobody can tell, 2 the run says nothing; of --compare: 0 no
figure is worse, 1 one is, 2 the runs cannot be compared"""

RESULTS = Path("load-results")
DEFAULT_SCENARIOS = "short,medium"
DEFAULT_SECONDS = {"soak": 3600.0}
DEFAULT_SHAPE_SECONDS = 60.0


def parser() -> argparse.ArgumentParser:
    """All options; those that are left out follow from the others (see `configured`)."""
    options = argparse.ArgumentParser(
        prog="python -m load_tests",
        description="Sends requests as users do and measures the answers. The key: OPENAI_API_KEY.",
        epilog=EXIT_CODES,
    )
    add = options.add_argument
    add("--host", default="http://127.0.0.1:8000", metavar="URL")
    add("--model", help="the first of /v1/models that chats")
    add("--scenario", default=DEFAULT_SCENARIOS, metavar="NAME[=WEIGHT],...", help="or all")
    add("--requests", type=int, metavar="N")
    add("--duration", type=number_above(0), metavar="SECONDS")
    add("--concurrency", type=int, metavar="USERS", help="closed loop: each waits for its answer")
    add(
        "--rate",
        type=rate_or_found,
        metavar="PER_SECOND",
        help="open loop: arrivals wait for nobody; found: 90 %% of the knee that was found",
    )
    add("--shape", choices=KINDS, default="constant", help="of the rate or the users over time")
    add("--seed", type=int, default=1, help="the same seed makes the same requests")
    add("--salt", help="what makes cold prompts unique; new for each run")
    add(
        "--cache", choices=("cold", "warm"), default="cold", help="prompts begin anew, or as before"
    )
    add("--scale", type=number_above(0), default=1.0, help="a factor for all lengths")
    add(
        "--context", type=int, metavar="TOKENS", help="of one request, where it cannot be found out"
    )
    add("--retries", type=int, default=0, metavar="N", help="of a refused request, when it may")
    add("--processes", type=int, default=1, metavar="N", help="that make the load")
    add("--max-in-flight", type=int, default=1000, metavar="N", help="of an open loop")
    add(
        "--max-lag-ms",
        type=number_above(0),
        default=50,
        metavar="MS",
        help="of the load tester itself",
    )
    add("--timeout", type=number_above(0), default=120, metavar="SECONDS", help="of one request")
    add("--out", type=Path, metavar="DIR", help="of the report; load-results/TIME")
    verbs = options.add_mutually_exclusive_group()
    verbs.add_argument("--slo", action="store_true", help="does configs/slo.yaml hold? See below")
    verbs.add_argument("--find-capacity", action="store_true", help="the highest rate that is fast")
    verbs.add_argument("--compare", nargs=2, type=Path, metavar="RESULT", help="two runs: old, new")
    add("--workload", metavar="NAME", help="of configs/slo.yaml; the first")
    add(
        "--search-seconds",
        type=number_above(0),
        default=Plan().total_seconds,
        metavar="SECONDS",
    )
    add("--force", action="store_true", help="compare what is not the same")
    return options


def configured(options: argparse.Namespace, known: Known, salt: str) -> Configuration:
    """The run that the options ask for, of a gateway that is known. Raises `ValueError`."""
    scenarios = scenarios_of(options.scenario)
    if options.scenario == "all":
        scenarios = {name: scenarios[name] for name in scenarios if name not in known.left_out}
    elif known.left_out:
        raise ValueError("; ".join(f"{name}: {why}" for name, why in known.left_out.items()))
    seconds, concurrency = options.duration, options.concurrency
    if options.rate is None and concurrency is None:
        concurrency = 10
    if seconds is None and (options.shape != "constant" or options.requests is None):
        seconds = DEFAULT_SECONDS.get(options.shape, DEFAULT_SHAPE_SECONDS)
    return Configuration(
        host=options.host,
        scenarios=scenarios,
        requests=options.requests,
        seconds=seconds,
        rate=options.rate,
        concurrency=concurrency,
        shape=options.shape,
        seed=options.seed,
        salt=options.salt or salt,
        retries=options.retries,
        processes=options.processes,
        most_in_flight=options.max_in_flight,
        most_lag_seconds=options.max_lag_ms / 1000,
        total_seconds=options.timeout,
        idle_seconds=min(60.0, options.timeout),
        model=known.model,
        embedding_model=known.embedding_model,
        cache=options.cache,
        scale=options.scale,
        tokens_per_word=known.tokens_per_word,
        context_tokens=known.context_tokens,
        takes_ignore_eos=known.takes_ignore_eos,
        needs_usage=known.needs_usage,
    )


def watching(configuration: Configuration, write: Callable[[str], Any], *, is_tty: bool) -> Watch:
    """Shows progress: a line that is written over, or on no terminal one every ten seconds."""
    planned = (
        f"{configuration.seconds:g} s" if configuration.seconds else f"{configuration.requests}"
    )
    shown = [-10.0]

    def watch(second: float, processes: Sequence[dict[str, Any]]) -> None:
        line = progress_line(second, processes, planned)
        if is_tty:
            write(f"\r\x1b[2K{line}")
        elif second - shown[0] >= 10:
            shown[0] = second
            write(f"{line}\n")

    return watch


def exit_code(result: Result) -> int:
    if not result.is_valid:
        return INVALID
    return HAD_ERRORS if result.total.errors else OK


def main(arguments: Sequence[str] | None = None) -> int:
    """The exit code."""
    options = parser().parse_args(arguments)
    if options.compare:
        text, code = compared(options.compare, is_forced=options.force)
        print(text)
        return code
    key = key_of(os.environ, options.host)
    try:
        slo, known, configuration = _prepared(options, key)
        return _find_or_run(options, slo, configuration, known, key)
    except (UsageError, ProbeError, RunError, OSError) as exc:
        print(f"error: {exc}", file=sys.stderr)
        if options.slo or isinstance(exc, UsageError):
            return SAYS_NOTHING
        return UNREACHABLE if isinstance(exc, ProbeError) else INVALID
    except KeyboardInterrupt:
        print("interrupted", file=sys.stderr)
        return INTERRUPTED


class UsageError(Exception):
    """The options do not go together, or the gateway cannot do what they ask for."""


def _prepared(options: argparse.Namespace, key: str | None) -> tuple[Slo, Known, Configuration]:
    """What the run is held to, what is known of the gateway, and the run."""
    try:
        slo = load_slo()
        if options.rate == FOUND:
            options.rate = _found(options, slo)
        if options.slo or options.find_capacity:
            _as_promised(options, slo)
        wanted = scenarios_of(options.scenario)
        known = Probe(options.host, key).ask(wanted, options.model, options.context)
        return slo, known, configured(options, known, f"{secrets.randbelow(10**6):06}")
    except ValueError as exc:
        raise UsageError(str(exc)) from exc


def _find_or_run(
    options: argparse.Namespace,
    slo: Slo,
    configuration: Configuration,
    known: Known,
    key: str | None,
) -> int:
    now = datetime.now(UTC).strftime("%Y%m%d-%H%M%S")
    folder = options.out or RESULTS / now
    is_new = not folder.exists()
    _check_folder(folder)
    is_tty = sys.stderr.isatty()

    def write(text: str) -> None:
        print(text, end="", file=sys.stderr, flush=True)

    def runs(wanted: Configuration) -> tuple[Result, list[Sample]]:
        try:
            watch = watching(wanted, write, is_tty=is_tty)
            return run(wanted, key, known=known, watch=watch)
        finally:
            if is_tty:
                write("\r\x1b[2K")

    try:
        if options.find_capacity:
            return _find_capacity(options, slo, configuration, known, runs, folder)
        result, samples = runs(configuration)
    except BaseException:
        if is_new:
            with contextlib.suppress(OSError):  # something is kept in it
                folder.rmdir()
        raise
    path = write_result(result, samples, folder)
    verdicts = write_report(folder, slo, result=result, samples=samples)
    print(table(result))
    print(f"  result: {path}")
    print(f"  report: {folder / PAGE}")
    if not options.slo:
        return exit_code(result)
    name, _ = workload_of(slo, options.workload)
    verdict = next(each for each in verdicts if each.workload == name)
    print(verdict_lines(verdict))
    return verdict.exit_code


def _check_folder(folder: Path) -> None:
    """Before minutes are spent on what then cannot be written. Raises `UsageError`."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=folder):
            pass
    except OSError as exc:
        raise UsageError(f"results cannot be written to {folder}: {exc.strerror}") from exc


def _found(options: argparse.Namespace, slo: Slo) -> float:
    name, _ = workload_of(slo, options.workload)
    rate, where = found_rate(RESULTS, options.host, name)
    print(f"{rate:g} requests per second: {where}, less headroom", file=sys.stderr)
    return rate


def _as_promised(options: argparse.Namespace, slo: Slo) -> None:
    """The run is that of a workload, at its rate or at one that was found or named."""
    _, workload = workload_of(slo, options.workload)
    is_counted = options.concurrency is not None or options.requests is not None
    if options.scenario != DEFAULT_SCENARIOS or is_counted:
        raise ValueError("a workload has its own scenarios, and requests arrive at a rate")
    options.scenario = ",".join(workload.scenarios)
    if options.find_capacity:
        options.rate = options.rate or Plan().first_rate
        options.duration = options.duration or Plan().least_seconds
        return
    if options.rate is None:
        options.rate = workload.requests_per_second
    options.duration = options.duration or slo_seconds(workload, options.rate)


def _find_capacity(
    options: argparse.Namespace,
    slo: Slo,
    configuration: Configuration,
    known: Known,
    runs: Runs,
    folder: Path,
) -> int:
    capacity = search(
        runs,
        configuration,
        workload_of(slo, options.workload),
        Plan(first_rate=options.rate, total_seconds=options.search_seconds),
        told=lambda step: print(step_line(step), flush=True),
        versions=versions(known.gateway_version, known.engine_version),
    )
    write_report(folder, slo, capacity=capacity)
    print(f"{words.knee(capacity)}\n  report: {folder / PAGE}")
    if capacity.ended == "interrupted":
        return INTERRUPTED
    return OK if capacity.rate is not None else HAD_ERRORS


if __name__ == "__main__":
    signal.signal(signal.SIGTERM, signal.default_int_handler)  # as Ctrl-C: it leaves nothing behind
    sys.exit(main())
