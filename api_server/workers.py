"""Several processes that serve on one socket, forked by a parent that only watches them.

The parent opens the socket and makes the memory that the workers count in, and forks before any
event loop or thread exists. It restarts a worker that dies or hangs, passes signals on, and takes
the workers with it when it is killed itself.
"""

import logging
import math
import os
import signal
import socket
import time
from dataclasses import dataclass

from api_server.composition import Worker
from api_server.local.plan import restart_delay_seconds
from api_server.local.tether import die_with
from api_server.observability.numbers import Numbers
from api_server.server import open_listener, serve_on
from api_server.settings import Settings

STOP_MARGIN_SECONDS = 3.0
"""Beyond `gateway.drain_seconds`, after which a worker ends its answers itself."""

STABLE_SECONDS = 60.0
POLL_SECONDS = 1.0
SILENT_LOOKS = 15
"""A worker whose event loop did not turn for so many looks, a second apart, is killed."""

_STOP = frozenset({signal.SIGTERM, signal.SIGINT})
_HEARD = _STOP | {signal.SIGCHLD}

log = logging.getLogger(__name__)


def serve_with_workers(settings: Settings) -> None:
    """Serve with `gateway.workers` processes until a signal; returns when all have ended."""
    with open_listener(settings) as listener:
        _Parent(settings, listener).run()


@dataclass
class _Seat:
    """The place of one worker, and the process that has it now. Times are monotonic."""

    index: int
    pid: int | None = None
    started: float = 0.0
    next_start: float = 0.0
    crashes: int = 0
    beats: float = 0.0
    silent_looks: int = 0


class _Parent:
    def __init__(self, settings: Settings, listener: socket.socket) -> None:
        count = settings.stack.gateway.workers
        self._settings = settings
        self._listener = listener
        self._numbers = [Numbers() for _ in range(count)]
        self._seats = [_Seat(index) for index in range(count)]
        ending_seconds = settings.environment.drain_notice_seconds + settings.drain_seconds
        self._stop_seconds = ending_seconds + STOP_MARGIN_SECONDS
        self._deadline: float | None = None
        self._next_look = 0.0

    def run(self) -> None:
        """One thread, no loop: signals are waited for, so that none comes at a bad moment."""
        mask = signal.pthread_sigmask(signal.SIG_BLOCK, _HEARD)
        while self._deadline is None or self._living():
            if self._deadline is None:
                self._start_those_due(mask)
                self._kill_the_silent()
            elif time.monotonic() > self._deadline:
                self._send(signal.SIGKILL)
            received = signal.sigtimedwait(_HEARD, self._wait_seconds())
            if received is not None and received.si_signo in _STOP:
                self._stop()
            self._reap()

    def _stop(self) -> None:
        """First time: workers drain. Again: they hurry."""
        if self._deadline is None:
            self._deadline = time.monotonic() + self._stop_seconds
            self._listener.close()
        self._send(signal.SIGTERM)

    def _living(self) -> list[_Seat]:
        return [seat for seat in self._seats if seat.pid is not None]

    def _send(self, signal_: signal.Signals, *seats: _Seat) -> None:
        """To these workers, or to all. Only we reap them, so that each pid is still theirs."""
        for seat in seats or self._living():
            assert seat.pid is not None
            os.kill(seat.pid, signal_)

    def _kill_the_silent(self) -> None:
        """Looks are counted, not seconds: a stack that was paused as a whole is not silent."""
        if time.monotonic() < self._next_look:
            return
        self._next_look = time.monotonic() + POLL_SECONDS
        for seat in self._living():
            beats = self._numbers[seat.index].beats
            seat.silent_looks = seat.silent_looks + 1 if beats == seat.beats else 0
            seat.beats = beats
            if seat.silent_looks >= SILENT_LOOKS:
                log.warning("a worker is silent and is killed", extra={"worker": seat.index})
                self._send(signal.SIGKILL, seat)

    def _wait_seconds(self) -> float:
        """Until the next thing to do; a child's death or a signal comes in between."""
        times = [seat.next_start for seat in self._seats if seat.pid is None]
        due = min(times, default=math.inf) if self._deadline is None else self._deadline
        return min(POLL_SECONDS, max(0.01, due - time.monotonic()))

    def _reap(self) -> None:
        while True:
            try:
                pid, status = os.waitpid(-1, os.WNOHANG)
            except ChildProcessError:
                return
            if pid == 0:
                return
            for seat in self._seats:
                if seat.pid == pid:
                    self._has_ended(seat, os.waitstatus_to_exitcode(status))

    def _has_ended(self, seat: _Seat, code: int) -> None:
        self._numbers[seat.index].is_alive = False
        seat.pid = None
        if self._deadline is not None:
            return
        now = time.monotonic()
        seat.crashes = 1 if now - seat.started > STABLE_SECONDS else seat.crashes + 1
        delay_seconds = restart_delay_seconds(seat.crashes)
        seat.next_start = now + delay_seconds
        log.warning(
            "a worker ended and is started again",
            extra={"worker": seat.index, "exit_code": code, "delay_seconds": delay_seconds},
        )

    def _start_those_due(self, mask: set[int | signal.Signals]) -> None:
        now = time.monotonic()
        for seat in self._seats:
            if seat.pid is None and seat.next_start <= now:
                seat.started, seat.silent_looks = now, 0
                parent, pid = os.getpid(), os.fork()
                if pid == 0:
                    self._serve(seat.index, parent, mask)
                seat.pid = pid

    def _serve(self, index: int, parent: int, mask: set[int | signal.Signals]) -> None:
        """The life of a worker, from fork to exit; never returns into the parent's code."""
        code = 1
        try:
            os.setsid()  # a Ctrl-C in the terminal is the parent's to pass on, once
            die_with(parent)
            signal.pthread_sigmask(signal.SIG_SETMASK, mask)
            worker = Worker(index, len(self._seats), self._numbers)
            serve_on(self._listener, self._settings, worker)
            code = 0
        except Exception:  # the edge of this process
            log.exception("a worker failed")
        finally:
            logging.shutdown()
            os._exit(code)
