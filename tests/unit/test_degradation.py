"""What answers and metrics say while a backing service is away."""

from api_server.observability.degradation import Degradation
from api_server.observability.metrics import Metrics
from api_server.observability.numbers import Numbers


def headers(degradation: Degradation) -> list[tuple[bytes, bytes]]:
    return [degradation.header] if degradation.header else []


def test_the_header_names_what_is_away_and_goes_when_it_is_back() -> None:
    metrics = Metrics([], Numbers())
    degradation = Degradation(["redis", "postgres"], metrics)
    assert headers(degradation) == []
    degradation.changed("redis", "down")
    degradation.changed("postgres", "down")
    assert headers(degradation) == [(b"x-degraded", b"postgres, redis")]
    assert degradation.states() == {"redis": "down", "postgres": "down"}
    assert b'dependency="redis",state="down"} 1' in metrics.render()
    degradation.changed("redis", "up")
    assert headers(degradation) == [(b"x-degraded", b"postgres")]
    degradation.changed("postgres", "up")
    assert headers(degradation) == []
    assert b'dependency="redis",state="down"} 0' in metrics.render()
