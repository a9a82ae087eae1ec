"""What is asked of the ledger, as texts."""

from datetime import UTC, date, datetime, timedelta

import pytest

from api_server.errors import InvalidRequestError
from api_server.services.ledger.adopting import Depth
from api_server.services.ledger.reports import MOST_LINES, Question, Report, question
from api_server.stores.usage import UsageLine

NOW = datetime(2026, 11, 21, 15, 30, tzinfo=UTC)


def asked(
    by: str | None = None,
    since: str | None = None,
    until: str | None = None,
    app: str | None = None,
) -> Question:
    return question(by, since, until, app=app, model=None, now=NOW)


def test_without_a_word_it_is_this_month_by_app_and_model() -> None:
    found = asked()
    assert found.by == ("app", "model")
    assert found.since == datetime(2026, 11, 1, tzinfo=UTC)
    assert NOW < found.until < NOW + timedelta(minutes=1)


@pytest.mark.parametrize(
    ("text", "when"),
    [
        ("2026-10-01", datetime(2026, 10, 1, tzinfo=UTC)),
        ("2026-10-01T12:30", datetime(2026, 10, 1, 12, 30, tzinfo=UTC)),
        ("2026-10-01T12:30:00+02:00", datetime(2026, 10, 1, 10, 30, tzinfo=UTC)),
        ("2026-10-01T00:00:00Z", datetime(2026, 10, 1, tzinfo=UTC)),
    ],
)
def test_days_and_times_are_utc_unless_they_say_otherwise(text: str, when: datetime) -> None:
    assert asked(since=text).since == when
    assert asked(since="2026-01-01", until=text).until == when


@pytest.mark.parametrize(
    ("given", "param", "part"),
    [
        ({"by": "app,phase of the moon"}, "by", "'phase of the moon' is none of day, app, model"),
        ({"by": "app; drop table usage"}, "by", "is none of"),
        ({"since": "yesterday"}, "since", "2026-11-01"),
        ({"since": "0001-01-01T00:00+23:00"}, "since", "2026-11-01"),
        ({"since": "2026-10-02", "until": "2026-10-02"}, "until", "after since"),
        ({"app": "a\0b"}, "app", "no such name"),
    ],
)
def test_what_is_wrong_is_named(given: dict[str, str], param: str, part: str) -> None:
    with pytest.raises(InvalidRequestError, match=part) as caught:
        asked(**given)
    assert caught.value.param == param


def test_a_report_says_what_waits_and_what_is_cut() -> None:
    line = UsageLine(date(2026, 11, 1), None, "m", 1, 0, 0, 3, 0, 5, 0)
    waiting = Depth(7, NOW.timestamp() - 12.5, 1000)
    report = Report(asked(by="day,model"), [line] * (MOST_LINES + 1), waiting, NOW).as_json()
    assert (report["waiting_rows"], report["waiting_seconds"]) == (7, 12.5)
    assert report["has_more"]
    assert len(report["data"]) == MOST_LINES
    assert report["data"][0] == {
        "day": "2026-11-01",
        "model": "m",
        "requests": 1,
        "failed": 0,
        "cache_hits": 0,
        "prompt_tokens": 3,
        "cached_tokens": 0,
        "completion_tokens": 5,
        "estimated_tokens": 0,
    }
    nothing = Report(asked(), [], Depth(), NOW).as_json()
    assert nothing["waiting_seconds"] is None
    assert not nothing["has_more"]
