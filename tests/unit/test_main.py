"""How workers share what there is."""

import pytest

from api_server.composition import ALONE, Worker


@pytest.mark.parametrize(("total", "count"), [(5, 1), (5, 2), (5, 3), (6, 3), (2, 4), (0, 2)])
def test_the_workers_parts_add_up_and_are_as_equal_as_can_be(total: int, count: int) -> None:
    parts = [Worker(index, count).share_of(total) for index in range(count)]
    assert sum(parts) == total
    assert max(parts) - min(parts) <= 1


def test_one_worker_has_all() -> None:
    assert ALONE.share_of(7) == 7
