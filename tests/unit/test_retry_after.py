"""What an engine's Retry-After asks for."""

from datetime import UTC, datetime

import pytest

from api_server.errors import EngineBusyError
from api_server.inference.handlers.faults import seconds_of, translate_error

NOW = datetime(2026, 11, 21, 12, 0, 0, tzinfo=UTC)


@pytest.mark.parametrize(
    ("header", "seconds"),
    [
        ("0", 0.0),
        ("7", 7.0),
        ("1.5", 1.5),
        ("99999999", 60.0),
        ("9" * 400, None),
        ("9" * 5000, None),
        ("Sat, 21 Nov 2026 12:00:30 GMT", 30.0),
        ("Sat, 21 Nov 2026 11:00:00 GMT", 0.0),
        ("Thu, 21 Nov 2099 12:00:00 GMT", 60.0),
        ("-3", None),
        ("soon", None),
        ("nan", None),
        ("Sat, 99 Nov 2026 12:00:30 GMT", None),
    ],
)
def test_a_number_or_a_date_within_bounds(header: str, seconds: float | None) -> None:
    assert seconds_of(header, NOW) == seconds


def test_a_client_is_told_no_more_than_that() -> None:
    error = translate_error(429, b"{}", "86400")
    assert isinstance(error, EngineBusyError)
    assert error.headers["retry-after"] == "60"
