"""The command line: `python -m api_server serve | local | apps | ...`."""

import signal

signal.signal(signal.SIGINT, signal.SIG_DFL)  # until a command takes over: end, without a traceback

import argparse
import asyncio
import logging
import sys
from collections.abc import Callable, Coroutine
from typing import Protocol

from api_server.commands import apps, import_assistants, migrate, plan, prepare_stores, usage
from api_server.commands.worker import work
from api_server.errors import ConfigurationError, SetupError
from api_server.local.data_dir import reset
from api_server.local.stack import engine_binary, run_local, stop_on_signals
from api_server.local.terminal import TerminalSay
from api_server.observability.logging import configure_logging
from api_server.server import serve
from api_server.settings import ENGINE_NAMES, Settings, load_settings
from api_server.workers import serve_with_workers

INTERRUPTED = 130
OWN_ENGINES = ("local", "reset", "engine")
"""Commands to which it is nothing where `make start` has its engines: the `.env` is for both."""

log = logging.getLogger(__name__)


def main() -> int:
    """Run one command; 0 is success, 1 a sentence on standard error, 130 an interruption."""
    parser = argparse.ArgumentParser(prog="python -m api_server", description=__doc__)
    subparsers = parser.add_subparsers(dest="command", required=True)
    for name, (explanation, _) in COMMANDS.items():
        subparsers.add_parser(name, help=explanation)
    for name, verb in VERBS.items():
        verb.add_arguments(subparsers.add_parser(name, help=verb.EXPLANATION))
    arguments = parser.parse_args()
    try:
        is_local = arguments.command in OWN_ENGINES
        settings = load_settings(without=ENGINE_NAMES if is_local else ())
        if arguments.command in VERBS:
            return VERBS[arguments.command].run(settings, arguments)
        _, run = COMMANDS[arguments.command]
        return run(settings)
    except SetupError as exc:
        print(f"error: {exc}", file=sys.stderr)
    except (OSError, RuntimeError) as exc:  # the edge: a full disk, a loop of links, ~nobody
        print(f"error: {exc}. Correct that and run this again.", file=sys.stderr)
    return 1


def run_gateway(settings: Settings) -> int:
    """`serve`: until a signal."""
    settings.check_can_serve()
    configure_logging(settings.environment.least_logged)
    for warning in settings.warnings():
        log.warning(warning)
    if settings.stack.gateway.workers == 1:
        serve(settings)
    else:
        serve_with_workers(settings)
    return 0


def run_worker(settings: Settings) -> int:
    """`worker`: until a signal."""
    configure_logging(settings.environment.least_logged)
    work(settings)
    return 0


def run_stack(settings: Settings) -> int:
    """`local`: until Ctrl-C, which is its normal end."""
    return until_done(run_local(settings, TerminalSay(sys.stderr)), end=0)


def remove(settings: Settings) -> int:
    """`reset`."""
    reset(settings, TerminalSay(sys.stderr))
    return 0


def find_or_build(settings: Settings) -> int:
    """`engine`."""

    async def run() -> None:
        print(await engine_binary(settings, TerminalSay(sys.stderr)))

    return until_done(run(), end=INTERRUPTED)


def check(settings: Settings) -> int:
    """`check`: say what was understood."""
    names = ", ".join(model.id for model in settings.models())
    print(f"{settings.environment.stack_config}: ok. Models: {names}.")
    for warning in settings.warnings():
        print(f"warning: {warning}")
    try:
        settings.check_can_serve()
    except ConfigurationError as exc:
        print(f"warning: `serve` would refuse to start with this: {exc}")
    return 0


def until_done(work: Coroutine[None, None, None], *, end: int) -> int:
    """Run to the end, or until a signal stops it in order, which gives the exit code `end`."""

    async def run() -> None:
        task = asyncio.current_task()
        assert task is not None
        stop_on_signals(task)
        await work

    try:
        asyncio.run(run())
    except asyncio.CancelledError:
        print("stopped", file=sys.stderr)
        return end
    except BaseExceptionGroup as exc:
        for error in exc.exceptions:
            if isinstance(error, SetupError | OSError):
                raise error from exc
        raise
    return 0


Command = Callable[[Settings], int]
COMMANDS: dict[str, tuple[str, Command]] = {
    "serve": ("run the gateway against the engines of the stack file", run_gateway),
    "worker": ("do jobs, serve nothing", run_worker),
    "local": ("start an engine and the gateway on this machine", run_stack),
    "reset": ("remove what `local` wrote into the data directory", remove),
    "engine": ("find or compile llama-server and print its path", find_or_build),
    "check": ("check the environment and the stack file, start nothing", check),
}


class Verb(Protocol):
    """A module of `commands/`: a command with arguments of its own."""

    EXPLANATION: str

    def add_arguments(self, parser: argparse.ArgumentParser) -> None:
        """Say what it takes."""

    def run(self, settings: Settings, arguments: argparse.Namespace) -> int:
        """Do it; returns the exit code. Raises `SetupError`."""


VERBS: dict[str, Verb] = {
    "migrate": migrate,
    "prepare-stores": prepare_stores,
    "apps": apps,
    "usage": usage,
    "plan": plan,
    "import-assistants": import_assistants,
}

if __name__ == "__main__":
    sys.exit(main())
