"""The command line: `python -m monitoring`, a live view of one gateway, or its figures once."""

import argparse
import json
import os
import sys
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime

from monitoring.expressions import PROMISED
from monitoring.slo import Slo, SloError, Workload, load_slo
from monitoring.terminal.drawing import Style, draw
from monitoring.terminal.gateway import GatewayClient, NoGatewayError, Seen, UnreachableError
from monitoring.terminal.report import NOT_REACHABLE, document, exit_code
from monitoring.terminal.screen import own_screen
from monitoring.terminal.watch import Watch

DESCRIPTION = "How a running gateway does, live in a terminal or once; docs/monitor.md explains it."
DEFAULT_URL = "http://127.0.0.1:8000"
INTERRUPTED = 130
PAGE_COLUMNS = 100
LEAST_INTERVAL, MOST_SECONDS = 0.2, 3600.0


Clients = Sequence[GatewayClient]


def main() -> int:
    """0: well; 1: a target is missed, or it is no gateway; 2: nobody answers, or a wrong option."""
    parser = argparse.ArgumentParser(prog="python -m monitoring", description=DESCRIPTION)
    parser.add_argument(
        "--url",
        action="append",
        help=f"of the gateway ({DEFAULT_URL}); of several, with commas or told again, the sum",
    )
    parser.add_argument("--interval", type=_seconds, default=2.0, help="seconds between looks (2)")
    parser.add_argument("--window", type=_seconds, default=60.0, help="seconds counted over (60)")
    parser.add_argument("--model", help="of this model alone")
    parser.add_argument("--workload", default=PROMISED, help="of configs/slo.yaml (%(default)s)")
    parser.add_argument("--once", action="store_true", help="print figures of one interval and end")
    parser.add_argument("--json", action="store_true", help="with --once: for scripts")
    options = parser.parse_args()
    if options.json and not options.once:
        parser.error("--json is for --once")
    if not options.once and options.window < options.interval:
        parser.error("--window must not be less than --interval")
    try:
        promised = _workload(load_slo(), options.workload)
        urls = [each for told in options.url or [DEFAULT_URL] for each in told.split(",")]
        clients = list({client.url: client for client in map(GatewayClient, urls)}.values())
    except SloError as exc:
        print(f"error: {exc}", file=sys.stderr)
        return NOT_REACHABLE
    except ValueError as exc:
        parser.error(str(exc))
    watch = Watch(
        ", ".join(client.url for client in clients), promised, options.window, options.model
    )
    is_live = sys.stdout.isatty() and os.environ.get("TERM", "dumb") != "dumb"
    try:
        if options.once:
            return _once(watch, clients, options.interval, is_json=options.json)
        if is_live:
            return _live(watch, clients, options.interval)
        return _pages(watch, clients, options.interval)
    except KeyboardInterrupt:
        return 0 if is_live and not options.once else INTERRUPTED
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # for the flush at the end
        return INTERRUPTED


def _seconds(text: str) -> float:
    value = float(text)
    if not LEAST_INTERVAL <= value <= MOST_SECONDS:
        raise argparse.ArgumentTypeError(f"{LEAST_INTERVAL:g} to {MOST_SECONDS:g}")
    return value


def _workload(slo: Slo, name: str) -> Workload:
    known = ", ".join(slo.workloads)
    if name not in slo.workloads:
        raise ValueError(f"configs/slo.yaml has no workload {name!r}; known: {known}")
    return slo.workloads[name]


def _look(watch: Watch, clients: Clients) -> None:
    """At all of them at once; of those that do not answer it is said where another does."""
    with ThreadPoolExecutor(len(clients)) as threads:
        told = list(threads.map(_seen, clients))
    failed = [each for each in told if not isinstance(each, Seen)]
    silent = [client.url for client, each in zip(clients, told, strict=True) if each in failed]
    if len(failed) < len(told):
        watch.saw(*(each for each in told if isinstance(each, Seen)), silent=silent)
    else:
        watch.failed(failed[0], time.monotonic())


def _seen(client: GatewayClient) -> Seen | UnreachableError | NoGatewayError:
    try:
        return client.look()
    except (UnreachableError, NoGatewayError) as exc:
        return exc


def _once(watch: Watch, clients: Clients, interval: float, *, is_json: bool) -> int:
    """Two looks; where the first finds nobody there is no second."""
    _look(watch, clients)
    if watch.view.trouble is None:
        time.sleep(interval)
        _look(watch, clients)
    if is_json:
        print(json.dumps(document(watch.view, datetime.now(UTC)), indent=2, allow_nan=False))
    else:
        _print_page(watch)
    return exit_code(watch.view)


def _pages(watch: Watch, clients: Clients, interval: float) -> int:
    """Where there is no terminal to draw on: a page after each look, until interrupted."""
    while True:
        due = time.monotonic() + interval
        _look(watch, clients)
        _print_page(watch)
        time.sleep(max(0.0, due - time.monotonic()))


def _print_page(watch: Watch) -> None:
    lines = draw(watch.view, None, time.monotonic(), PAGE_COLUMNS, None, Style())
    print("\n".join(each.rstrip() for each in lines) + "\n", flush=True)


def _live(watch: Watch, clients: Clients, interval: float) -> int:
    """Until interrupted."""
    encoding = (sys.stdout.encoding or "").lower().replace("-", "")
    style = Style(colours=not os.environ.get("NO_COLOR"), unicode=encoding == "utf8")

    def show() -> None:
        columns, rows = screen.size
        at = time.monotonic()
        screen.show(draw(watch.view, watch.trends, at, columns, rows, style))

    with own_screen(sys.stdout) as screen:
        show()
        while True:
            due = time.monotonic() + interval
            _look(watch, clients)
            show()
            while screen.wait(due - time.monotonic()):
                show()


if __name__ == "__main__":
    sys.exit(main())
