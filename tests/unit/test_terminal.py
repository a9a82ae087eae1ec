"""What is printed on a terminal and on a pipe."""

import io

from api_server.local.terminal import TerminalSay


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


class Clock:
    seconds = 0.0

    def __call__(self) -> float:
        return self.seconds


def test_progress_rewrites_the_line_on_a_terminal_and_a_line_takes_its_place() -> None:
    stream = Terminal()
    say = TerminalSay(stream)
    say.progress("1 %")
    say.progress("2 %")
    say.line("done")
    say.line("next")
    assert stream.getvalue() == "1 %\r\x1b[K2 %\r\x1b[Kdone\nnext\n"


def test_progress_never_wraps_on_a_terminal() -> None:
    stream = Terminal()
    TerminalSay(stream).progress("x" * 1000)
    assert len(stream.getvalue()) < 1000


def test_progress_on_a_pipe_is_a_line_at_most_each_10_seconds() -> None:
    stream, clock = io.StringIO(), Clock()
    say = TerminalSay(stream, clock=clock)
    for clock.seconds in (0.0, 1.0, 9.9, 10.0, 15.0):
        say.progress(f"{clock.seconds:.0f} s")
    say.line("done")
    assert stream.getvalue() == "0 s\n10 s\ndone\n"
