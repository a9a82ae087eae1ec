"""What the monitor draws: fits, says what it left out, and is no danger to the terminal."""

import re
from dataclasses import replace

import pytest

from monitoring.terminal.drawing import Style, draw
from monitoring.terminal.gateway import UnreachableError
from monitoring.terminal.layout import Piece, Section, fitted, line, painted
from monitoring.terminal.trends import PLAIN_BARS, Point, Trends, bars
from monitoring.terminal.watch import TREND_SECONDS, View
from monitoring.terminal.wording import age, milliseconds, percent, plain, rate
from tests.unit.test_monitor_figures import PROMISED, WELL, Gateway

ESCAPES = re.compile(r"\x1b\[[0-9;]*m")


def busy() -> Gateway:
    """With something in every line, and figures as wide as they come."""
    gateway = Gateway()
    gateway.look()
    for _ in range(20):
        gateway.chat(50, seconds=0.3, first_token_ms=90.0, completion_tokens=900, queue_ms=2.0)
        gateway.chat(2, status=502, outcome="error", error_code="engine_unavailable")
        gateway.chat(1, outcome="client_left")
        gateway.metrics.shed("tiny", "queue_full")
        gateway.metrics.limited("requests")
        gateway.metrics.jobs(1234, 16, 99.0)
        gateway.metrics.dependency("redis", is_up=False)
        gateway.metrics.slots("tiny", 32)
        gateway.metrics.lane("tiny", busy=31, oldest_seconds=119.0)
        gateway.look()
    return gateway


def screen(gateway: Gateway, columns: int = 80, rows: int | None = 24, **style: bool) -> list[str]:
    return draw(
        gateway.watch.view, gateway.watch.trends, gateway.moment, columns, rows, Style(**style)
    )


def test_all_of_it_fits_80_by_24() -> None:
    lines = screen(busy(), unicode=True)
    assert lines == screen(busy(), rows=None, unicode=True)
    assert len(lines) <= 24
    assert len(lines) > 18
    text = "\n".join(lines)
    for said in (
        *("ok", "MISSED", "of 32", "oldest 119 s", "redis is down", "queue_full 20"),
        *("1,234 waiting, 16 running", "engine 40", "█"),
    ):
        assert said in text


def test_nothing_is_cut_at_80_columns() -> None:
    gateway = busy()
    wide = [each.split() for each in screen(gateway, 400, None)]
    narrow = [each.split() for each in screen(gateway, 80, None)]
    is_bar = re.compile(f"[{re.escape(PLAIN_BARS)}]{{2,}}")
    for one, other in zip(wide, narrow, strict=True):
        assert [w for w in one if not is_bar.fullmatch(w)] == [
            w for w in other if not is_bar.fullmatch(w)
        ]


@pytest.mark.parametrize("columns", [1, 20, 40, 60, 79, 80, 200])
@pytest.mark.parametrize("rows", [1, 2, 5, 10, 23, 24, 60])
def test_it_keeps_to_any_size(columns: int, rows: int) -> None:
    lines = screen(busy(), columns, rows, colours=True, unicode=True)
    assert len(lines) <= rows
    assert max(len(ESCAPES.sub("", each)) for each in lines) <= columns


def test_what_does_not_fit_is_named() -> None:
    gateway = busy()
    lines = screen(gateway, 80, 18)
    assert len(lines) == 18
    assert lines[-1].startswith("left out: ")
    shown = {each.split("  ")[0].strip() for each in screen(gateway, 80, None)}
    still = {each.split("  ")[0].strip() for each in lines}
    for name in lines[-1].removeprefix("left out: ").split(", "):
        assert name in shown - still
    assert any(each.startswith("end to end") for each in lines)
    assert re.search(r", \d+ more$", screen(gateway, 50, 8)[-1])


def test_without_colours_there_is_no_escape_sequence() -> None:
    assert "\x1b" not in "".join(screen(busy()))
    assert "\x1b[1;31m" in "".join(screen(busy(), colours=True))


def test_without_unicode_there_is_ascii_alone() -> None:
    assert "".join(screen(busy())).isascii()


def test_a_fresh_gateway_says_so() -> None:
    gateway = Gateway()
    gateway.look()
    assert "the first figures come with the second look" in screen(gateway)[1]
    gateway.look()
    text = "\n".join(screen(gateway))
    assert "no requests yet" in text
    assert "nan" not in text.lower()
    gateway.chat(1)
    gateway.look()
    gateway.moment += 100
    gateway.look()
    gateway.look()
    assert "no requests in the last" in screen(gateway)[1]


def test_old_figures_are_marked() -> None:
    gateway = busy()
    gateway.watch.failed(UnreachableError("Connection refused"), gateway.moment + 2)
    gateway.moment += 14
    lines = screen(gateway)
    assert lines[1] == ("NOT REACHABLE: Connection refused; figures are 14 s old; tried for 12 s")
    assert any(each.startswith("end to end") for each in lines)


def test_a_restart_is_told() -> None:
    gateway = Gateway()
    gateway.chat(3)
    gateway.look()
    gateway.restart()
    gateway.look()
    (found,) = [each for each in screen(gateway) if each.startswith("not well")]
    assert found.endswith("started anew once")


def test_nobody_was_ever_there() -> None:
    trouble = Gateway()
    trouble.watch.failed(UnreachableError("Connection refused"), 0.0)
    lines = screen(trouble)
    assert len(lines) == 2
    assert "old" not in lines[1]


def test_what_others_wrote_cannot_steer_the_terminal() -> None:
    gateway = busy()
    health = replace(WELL, version="1\x1b[2J", unready=("m\x07\r\n",))
    gateway.watch.view = replace(gateway.watch.view, health=health)
    text = "".join(screen(gateway))
    assert not re.search(r"[\x00-\x1f\x7f]", text)
    assert "1?[2J" in text


def test_a_view_of_nothing_is_drawn() -> None:
    assert draw(View("http://x", None, PROMISED), None, 0.0, 80, 24, Style())


def test_bars() -> None:
    assert bars([0, 1, 2, 4, 8, None], "12345678") == "11248 "
    assert bars([0.0, 0.0], "12345678") == "11"
    assert bars([None, None]) == "  "
    assert bars([1e-9, 1.0], "12345678") == "18"


def test_trends_are_placed_by_their_time_and_keep_their_peaks() -> None:
    trends = Trends(100.0)
    for moment in range(200):
        trends.add(Point(moment, moment + 1.0, {"a": 9.0 if moment == 155 else 1.0, "b": None}))
    assert trends.columns("a", 200.0, 10) == [1, 1, 1, 1, 1, 9, 1, 1, 1, 1]
    assert trends.columns("b", 200.0, 3) == [None] * 3
    assert trends.columns("a", 250.0, 10) == [9 if n == 0 else 1 for n in range(5)] + [None] * 5


def test_of_the_time_away_nothing_is_drawn() -> None:
    gateway = Gateway()
    for _ in range(10):
        gateway.chat(1)
        gateway.look()
    gateway.watch.failed(UnreachableError("gone"), gateway.moment)
    gateway.moment += TREND_SECONDS / 2
    gateway.look()
    found = gateway.watch.trends.columns("requests", gateway.moment, 30)
    assert found[18:-1] == [None] * 11
    assert found[-1] is not None


def test_sections_go_by_their_importance_the_lower_first() -> None:
    sections = [Section(5, name, [line(name)]) for name in ("a", "b")]
    sections += [Section(0, ""), Section(2, "c", [line("c"), line("c")])]
    assert [each[0].text for each in fitted(sections, 3, 80)] == [
        *("a", "b"),
        "left out: c",
    ]
    assert len(fitted(sections, 4, 80)) == 4  # the blank one goes without a word
    assert len(fitted(sections, None, 80)) == 5


def test_a_line_is_cut_within_a_piece() -> None:
    parts = line("ab", Piece("cdef", "bad"), Piece("g", "good"))
    assert painted(parts, 4, colours=False) == "abcd"
    assert painted(parts, 4, colours=True) == "ab\x1b[1;31mcd\x1b[0m"


def test_words_of_figures() -> None:
    assert [milliseconds(each) for each in (None, 0.0042, 0.84, 1.62, 12.34)] == [
        *("-", "4.2 ms", "840 ms", "1,620 ms", "12.3 s")
    ]
    assert [age(each) for each in (0.44, 12.4, 300.0, 9000.0, 8e5)] == [
        *("0.4 s", "12 s", "5 min", "2 h", "9 days")
    ]
    assert [rate(each) for each in (0.0, 0.25, 20.44, 1234.5)] == ["0.00", "0.25", "20.4", "1,234"]
    assert [percent(each) for each in (None, 0.0005, 0.123)] == ["-", "0.05 %", "12.3 %"]
    assert plain("ä\x1b[1m") == "??[1m"
