"""The command line: `python -m gpu_proof STEP`. See docs/gpu-proof.md."""

import argparse
import asyncio
import math
import sys
import time
from collections.abc import Sequence
from pathlib import Path

from api_server.errors import SetupError
from api_server.local.terminal import Say, TerminalSay
from api_server.settings import load_environment
from gpu_proof.places import PYTHONS, REPOSITORY, Places
from gpu_proof.preparing import prepare
from gpu_proof.proof import NotFinishedError, Proof, Wanted
from gpu_proof.reporting import write_report
from gpu_proof.shapes import SHAPES

STEPS = ("prepare", "build", "model", "run", "report", "all")
OK, FAILED, USAGE, AGAIN = 0, 1, 2, 75
EXIT_CODES = "exit codes: 0 done, 1 failed, 2 wrong options, 75 the time was over: call it again"
DEFAULT_RATES = "20,25,30"


def parser() -> argparse.ArgumentParser:
    """All options."""
    options = argparse.ArgumentParser(
        prog="python -m gpu_proof",
        description="Proves the stack's speed on an NVIDIA GPU, without a network.",
        epilog=EXIT_CODES,
    )
    add = options.add_argument
    add("step", choices=STEPS)
    add("--device", choices=("cuda", "cpu"), default="cuda")
    add("--shape", choices=tuple(SHAPES), default="8b", help="of the model, random weights")
    add("--slots", type=int, default=32, metavar="N", help="requests in one batch")
    add("--rates", default=DEFAULT_RATES, metavar="R,R", help="requests a second, open loop")
    add("--seconds", type=float, default=20, help="of each run")
    add("--knee-seconds", type=float, default=240, help="of its search; 0: none")
    add("--within", type=float, metavar="SECONDS", help="of this call; then stop in order")
    add("--inputs", type=Path, default=REPOSITORY / ".gpu-proof", metavar="DIR")
    add("--work", type=Path, default=REPOSITORY / ".gpu-proof-work", metavar="DIR")
    add("--out", type=Path, metavar="DIR", help="of the report; WORK/report")
    add("--pythons", default=",".join(PYTHONS), metavar="V,V", help="to prepare for")
    return options


def main(arguments: Sequence[str]) -> int:
    """The exit code."""
    began = time.monotonic()
    options = parser().parse_args(arguments)
    say = TerminalSay(sys.stderr)
    try:
        wanted = _wanted(options, began)
    except ValueError as exc:
        say.line(f"error: {exc}")
        return USAGE
    try:
        asyncio.run(_do(options, wanted, say))
    except NotFinishedError as exc:
        say.line(f"not finished: {exc}. Call the same again.")
        return AGAIN
    except SetupError as exc:
        say.line(f"error: {exc}")
        return FAILED
    except KeyboardInterrupt:
        return 130
    return OK


def _wanted(options: argparse.Namespace, began: float) -> Wanted:
    rates = tuple(float(each) for each in options.rates.split(","))
    times = (options.seconds, options.knee_seconds, options.within or 0.0)
    if not all(map(math.isfinite, (*rates, *times))):
        raise ValueError("rates and seconds must be numbers")
    if min(rates) <= 0 or options.seconds <= 0 or options.slots < 1:
        raise ValueError("rates, seconds and slots must be more than 0")
    settings = load_environment()
    return Wanted(
        places=Places(options.inputs.absolute(), options.work.absolute()),
        device=options.device,
        shape=SHAPES[options.shape],
        slots=options.slots,
        rates=rates,
        seconds=options.seconds,
        knee_seconds=options.knee_seconds,
        ends_at=None if options.within is None else began + options.within,
        cache_home=settings.cache_home,
        llama_server=settings.llama_server,
    )


async def _do(options: argparse.Namespace, wanted: Wanted, say: Say) -> None:
    """One step, or all of them. Raises SetupError, NotFinishedError."""
    step, places = options.step, wanted.places
    needs_inputs = wanted.device == "cuda" and not places.contents.exists()
    if step == "prepare" or (step == "all" and needs_inputs):
        await prepare(places, tuple(options.pythons.split(",")), say)
    proof = Proof(wanted, say)
    if step == "build":
        await proof.build()
    elif step == "model":
        proof.make_model()
    elif step in ("run", "all"):
        await proof.run()
    if step in ("report", "all"):
        folder = (options.out or places.work / "report").absolute()
        for line in write_report(places, proof.records, folder):
            say.line(line)
