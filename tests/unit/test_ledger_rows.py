"""The lines of the spool."""

import time
import uuid

import msgspec
import pytest

from api_server.observability.record import MOST_CONTENT_BYTES, Content, RequestRecord
from api_server.services.ledger.rows import Reading, RowIds, arrived_at, closed, content, opened

AT = 1_764_000_000_123_456


def record(**told: object) -> RequestRecord:
    made = RequestRecord("req_1", "POST", "/v1/chat/completions", route="/v1/chat/completions")
    for name, value in ({"app_id": "app_1", "app": "shop", "model": "m"} | told).items():
        setattr(made, name, value)
    return made


def read(*lines: bytes) -> Reading:
    reading = Reading()
    reading.take(b"".join(lines).split(b"\n"))
    return reading


def test_a_line_has_what_the_record_has() -> None:
    line = closed(
        record(status=200, user="ann", prompt_tokens=3, completion_tokens=5, finish_reason="stop"),
        RowIds().new(AT),
        AT,
    )
    row = msgspec.json.decode(line)
    assert (row["at"], row["app_id"], row["app"], row["end_user"]) == (AT, "app_1", "shop", "ann")
    assert (row["status"], row["outcome"], row["model"]) == (200, "ok", "m")
    assert (row["prompt_tokens"], row["completion_tokens"]) == (3, 5)
    assert "is_estimate" not in row
    assert line.count(b"\n") == 1


def test_ids_sort_by_time_and_are_uuids_of_version_7() -> None:
    ids = RowIds()
    made = [ids.new(AT + 1000 * number) for number in range(100)]
    assert sorted(made) == made
    assert len({ids.new(AT) for _ in range(10_000)}) == 10_000
    assert {uuid.UUID(each).version for each in made} == {7}
    assert {uuid.UUID(each).variant for each in made} == {uuid.RFC_4122}


def test_what_was_opened_and_closed_is_one_row() -> None:
    first, second = RowIds().new(AT), RowIds().new(AT)
    reading = read(
        opened(record(), first, AT), opened(record(), second, AT), closed(record(), first, AT)
    )
    assert [msgspec.json.decode(row)["id"] for row in reading.rows] == [first]
    assert list(reading.open_lines) == [second]


def test_what_nobody_closed_died_with_its_gateway() -> None:
    row_id = RowIds().new(AT)
    reading = read(opened(record(stream=True), row_id, AT))
    reading.end_all()
    (row,) = reading.rows
    assert msgspec.json.decode(row) == {
        "kind": "closed",
        "id": row_id,
        "at": AT,
        "app_id": "app_1",
        "app": "shop",
        "route": "/v1/chat/completions",
        "request_id": "req_1",
        "model": "m",
        "is_stream": True,
        "outcome": "gateway_died",
    }
    assert reading.times == [AT]
    assert not reading.open_lines


@pytest.mark.parametrize("cut", [1, 20, 60, 150])
def test_a_torn_last_line_costs_that_line_alone(cut: int) -> None:
    ids = RowIds()
    whole, torn = closed(record(), ids.new(AT), AT), closed(record(), ids.new(AT), AT)
    reading = read(whole, torn[:cut])
    assert reading.rows == [whole.strip()]
    assert reading.torn == 1


@pytest.mark.parametrize(
    "line",
    [
        b"\0" * 100,
        b"{}",
        b"[]",
        b'{"kind":"closed","id":"x","at":1}',
        b'{"kind":"closed","id":"' + b"0" * 32 + b'","at":-1}',
        b'{"kind":"closed","id":"' + b"0" * 32 + b'","at":9999999999999999}',
    ],
)
def test_a_line_that_is_none_is_skipped(line: bytes) -> None:
    whole = closed(record(), RowIds().new(AT), AT)
    reading = read(line, b"\n", whole)
    assert reading.rows == [whole.strip()]
    assert reading.torn == 1


def test_an_open_line_with_too_little_in_it_is_no_row() -> None:
    reading = read(b'{"kind":"open","id":"' + b"0" * 32 + b'","at":5}')
    reading.end_all()
    assert reading.rows == []
    assert reading.torn == 1


@pytest.mark.parametrize(
    ("user", "kept"),
    [("a\0b", "ab"), ("a\nb", "ab"), ("\ud800x", "x"), ("y" * 1000, "y" * 256), ("Ärger", "Ärger")],
)
def test_what_a_user_is_called_costs_no_row(user: str, kept: str) -> None:
    line = closed(record(user=user, finish_reason=user), RowIds().new(AT), AT)
    row = msgspec.json.decode(line)
    assert (row["end_user"], row["finish_reason"]) == (kept, kept)


def test_a_request_arrived_before_now() -> None:
    one = record()
    one.started -= 2.0
    assert 1.9 < time.time() - arrived_at(one) / 1e6 < 2.5


def test_content_is_kept_up_to_its_bound() -> None:
    said = Content(b"x" * MOST_CONTENT_BYTES)
    cuts = []
    for block in (b"y" * (MOST_CONTENT_BYTES - 1), b"z", b"", b"z", b""):
        said.add(block)
        cuts.append(said.is_cut)
    assert cuts == [False, False, False, True, True]
    assert (len(said.request), bytes(said.answer[-2:])) == (MOST_CONTENT_BYTES, b"yz")
    assert Content(b"x" * (MOST_CONTENT_BYTES + 1)).is_cut


def test_content_is_a_line_of_its_own() -> None:
    said = Content('{"a": "Ä\\u0000"}'.encode())
    said.add(b"\0data: \xc3\n\n")
    row_id = RowIds().new(AT)
    line = content(record(), said, row_id, AT)
    reading = read(line, closed(record(), row_id, AT))
    assert (len(reading.rows), len(reading.contents), reading.torn) == (1, 1, 0)
    assert msgspec.json.decode(line) == {
        "kind": "content",
        "id": row_id,
        "at": AT,
        "app_id": "app_1",
        "request": '{"a": "Ä\\u0000"}',
        "answer": "data: �\n\n",
        "is_cut": False,
    }
