"""The command line: `python -m api_server serve | local | check`."""

import argparse
import asyncio
import sys

from api_server.errors import SetupError
from api_server.local.stack import run_local, stop_on_signals
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
    commands.add_parser("check", help="check the environment and the stack file, start nothing")
    command = parser.parse_args().command
    try:
        settings = load_settings()
        if command == "check":
            return check(settings)
        if command == "local":
            return local(settings)
        configure_logging(settings.environment.log_level)
        serve(settings)
    except SetupError as exc:
        print(f"error: {exc}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        return INTERRUPTED
    return 0


def check(settings: Settings) -> int:
    """Say what was understood."""
    names = ", ".join(model.id for model in settings.stack.models)
    print(f"{settings.environment.stack_config}: ok. Models: {names}.")
    return 0


def local(settings: Settings) -> int:
    """`make local`: until Ctrl-C, which is its normal end."""
    say = TerminalSay(sys.stderr)

    async def run() -> None:
        task = asyncio.current_task()
        assert task is not None
        stop_on_signals(task)
        await run_local(settings, say)

    try:
        asyncio.run(run())
    except asyncio.CancelledError:
        say.line("stopped")
    except BaseExceptionGroup as exc:
        for error in exc.exceptions:
            if isinstance(error, SetupError):
                raise error from exc
        raise
    return 0


if __name__ == "__main__":
    sys.exit(main())
