"""What each of several processes may use of the engines, and when that changes."""

import pytest

from api_server.composition import ALONE, Worker
from api_server.services.shares import Shares, share


@pytest.mark.parametrize(
    ("total", "processes", "each"),
    [(5, 1, 5), (5, 2, 3), (5, 3, 2), (5, 5, 1), (5, 9, 1), (0, 2, 1)],
)
def test_a_share_is_rounded_up(total: int, processes: int, each: int) -> None:
    assert share(total, processes) == each
    assert total <= each * processes <= max(total, processes) + processes - 1


def test_what_is_configured_counts_until_more_are_heard_of() -> None:
    parts = [Shares(Worker(index, 3).share_of, 3) for index in range(3)]
    assert [each.of(5) for each in parts] == [2, 2, 1]
    for each in parts:
        each.heard(1)  # the others of this gateway are about to start
    assert [each.of(5) for each in parts] == [2, 2, 1]
    for each in parts:
        each.heard(6)
    assert [each.of(5) for each in parts] == [1, 1, 1]


def test_whoever_watches_is_told_of_each_change_once() -> None:
    shares, seen = Shares(ALONE.share_of), list[int]()
    shares.watch(lambda: seen.append(shares.of(5)))
    for processes in (1, 3, 3, 2, 1):
        shares.heard(processes)
    assert seen == [2, 3, 5]
