"""The command line: `python -m api_server serve | local | reset | engine | check`."""

import signal

signal.signal(signal.SIGINT, signal.SIG_DFL)  # until a command takes over: end, without a traceback

import argparse
import asyncio
import sys
from collections.abc import Coroutine

from api_server.errors import SetupError
from api_server.local.stack import engine_binary, reset, run_local, stop_on_signals
from api_server.local.terminal import TerminalSay
from api_server.observability.logging import configure_logging
from api_server.server import serve
from api_server.settings import Settings, load_settings

INTERRUPTED = 130


def main() -> int:
    """Run one command; 0 is success, 1 a sentence on standard error, 130 an interruption."""
    parser = argparse.ArgumentParser(prog="python -m api_server", description=__doc__)
    commands = parser.add_subparsers(dest="command", required=True)
    commands.add_parser("serve", help="run the gateway against the engines of the stack file")
    commands.add_parser("local", help="start an engine and the gateway on this machine")
    commands.add_parser("reset", help="remove the data directory of `local`")
    commands.add_parser("engine", help="find or compile llama-server and print its path")
    commands.add_parser("check", help="check the environment and the stack file, start nothing")
    command = parser.parse_args().command
    try:
        settings = load_settings()
        if command == "check":
            return check(settings)
        if command == "local":
            return until_done(run_local(settings, TerminalSay(sys.stderr)), end=0)
        if command == "reset":
            reset(settings, TerminalSay(sys.stderr))
            return 0
        if command == "engine":
            return until_done(engine(settings), end=INTERRUPTED)
        configure_logging(settings.environment.log_level)
        serve(settings)
    except SetupError as exc:
        print(f"error: {exc}", file=sys.stderr)
        return 1
    return 0


def check(settings: Settings) -> int:
    """Say what was understood."""
    names = ", ".join(model.id for model in settings.stack.models)
    print(f"{settings.environment.stack_config}: ok. Models: {names}.")
    return 0


async def engine(settings: Settings) -> None:
    """Make sure that there is an engine."""
    print(await engine_binary(settings, TerminalSay(sys.stderr)))


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
            if isinstance(error, SetupError):
                raise error from exc
        raise
    return 0


if __name__ == "__main__":
    sys.exit(main())
