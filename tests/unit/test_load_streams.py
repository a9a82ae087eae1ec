"""The readers of the load tests: HTTP, events and answers, whatever the boundaries of blocks."""

import json
from typing import Any

import pytest

from load_tests.answers import AnswerError, StreamReading, error_kind, read_plain, stages
from load_tests.answers import retry_after as retry_after_of
from load_tests.http1 import HttpError, ResponseReader
from load_tests.sse import EventReader


def _event(content: Any) -> bytes:
    return b"data: " + json.dumps(content).encode() + b"\n\n"


def _piece(text: str) -> dict[str, Any]:
    return {"choices": [{"index": 0, "delta": {"content": text}, "finish_reason": None}]}


USAGE = {
    "choices": [],
    "usage": {
        "prompt_tokens": 9,
        "completion_tokens": 2,
        "prompt_tokens_details": {"cached_tokens": 4},
    },
    "timings": {"prompt_ms": 20.0, "predicted_ms": 5.0},
}
STREAM = b": hello\n\n" + _event(_piece("a")) + _event(_piece("é")) + _event(USAGE)
BODY = STREAM + b"data: [DONE]\n\n"
HEAD = b"HTTP/1.1 200 OK\r\nServer-Timing: queue;dur=1.5, engine;dur=20\r\n"


def _chunked(body: bytes, size: int = 7) -> bytes:
    pieces = [body[at : at + size] for at in range(0, len(body), size)]
    chunks = b"".join(b"%x\r\n%s\r\n" % (len(piece), piece) for piece in pieces)
    return HEAD + b"transfer-encoding: chunked\r\n\r\n" + chunks + b"0\r\nx-trailer: 1\r\n\r\n"


@pytest.mark.parametrize("block", [1, 2, 3, 5, 64, 10_000])
def test_a_stream_is_the_same_in_blocks_of_any_size(block: int) -> None:
    raw = _chunked(BODY)
    response, events, reading = ResponseReader(), EventReader(), StreamReading()
    for at in range(0, len(raw), block):
        for data in events.feed(response.feed(raw[at : at + block])):
            reading.event(data, float(at))
    reading.end()
    assert response.is_complete
    assert response.keeps_alive
    assert response.status == 200
    assert events.is_between
    assert reading.pieces == 2
    facts = reading.facts
    assert (facts.prompt_tokens, facts.completion_tokens, facts.cached_tokens) == (9, 2, 4)
    assert (facts.prompt_seconds, facts.decode_seconds) == (0.02, 0.005)
    assert stages(response.headers) == {"queue": 0.0015, "engine": 0.02}


@pytest.mark.parametrize("line_end", [b"\n", b"\r\n"])
def test_events_end_with_either_line_end_and_may_have_several_lines(line_end: bytes) -> None:
    raw = line_end.join([b"event: x", b"data: one", b"data:two", b"", b"data: 3", b"", b""])
    for split in range(len(raw)):
        reader = EventReader()
        assert reader.feed(raw[:split]) + reader.feed(raw[split:]) == [b"one\ntwo", b"3"]
        assert reader.is_between


def test_half_an_event_is_held() -> None:
    reader = EventReader()
    assert reader.feed(b"data: {") == []
    assert not reader.is_between


def test_first_token_and_gaps_are_of_events_with_text() -> None:
    reading = StreamReading()
    role = {"choices": [{"delta": {"role": "assistant", "content": ""}}]}
    for content, now in ((role, 1.0), (_piece("a"), 2.0), (_piece("b"), 2.5), (_piece("c"), 4.0)):
        reading.event(json.dumps(content).encode(), now)
    assert reading.first_token == 2.0
    assert reading.gap_mean == 1.0
    assert reading.gap_max == 1.5


@pytest.mark.parametrize(
    ("events", "fault"),
    [
        ([_piece("a"), USAGE], "truncated"),
        ([USAGE, "[DONE]"], "no token"),
        ([_piece("a"), "[DONE]"], "no usage"),
        ([_piece("a"), "<<<"], "bad event"),
        ([_piece("a"), {"error": {"code": "engine_error"}}], "stream engine_error"),
        ([_piece("a"), {"choices": None}], "bad event"),
        ([_piece("a"), USAGE, "[DONE]", "[DONE]"], "an event after [DONE]"),
    ],
)
def test_a_faulty_stream_is_an_error(events: list[Any], fault: str) -> None:
    reading = StreamReading()

    def read() -> None:
        for content in events:
            data = content if isinstance(content, str) else json.dumps(content)
            reading.event(data.encode(), 1.0)
        reading.end()
        reading.facts.check("text")

    with pytest.raises(AnswerError) as raised:
        read()
    assert str(raised.value) == fault


def test_tool_calls_of_a_stream_are_put_together() -> None:
    for arguments, fault in ((['{"ci', 'ty": "Oslo"}'], None), (['{"ci'], "answer is no JSON")):
        reading = StreamReading()
        for part in arguments:
            delta = {"tool_calls": [{"index": 0, "function": {"arguments": part}}]}
            reading.event(json.dumps({"choices": [{"delta": delta}]}).encode(), 1.0)
        reading.event(json.dumps(USAGE).encode(), 1.0)
        if fault is None:
            reading.facts.check("tool_call")
        else:
            with pytest.raises(AnswerError, match=fault):
                reading.facts.check("tool_call")


def _plain(text: str, finish_reason: str = "stop") -> bytes:
    choice = {"message": {"content": text}, "finish_reason": finish_reason}
    return json.dumps({"choices": [choice], "usage": USAGE["usage"]}).encode()


def test_a_plain_answer_must_be_what_was_asked_for() -> None:
    good = read_plain(_plain('{"a": 1}'), "json")
    good.check("json")
    read_plain(_plain('{"a":', "length"), "json").check("json")
    wrong = read_plain(_plain('{"a":'), "json")
    with pytest.raises(AnswerError, match="answer is no JSON"):
        wrong.check("json")
    assert good.completion_tokens == wrong.completion_tokens == 2
    for body, fault in (
        (_plain(""), "no token"),
        (b"{}", "bad answer"),
        (b"null", "bad answer"),
    ):
        with pytest.raises(AnswerError, match=fault):
            read_plain(body, "json")


def test_a_vector_must_have_numbers() -> None:
    def read(embedding: list[float]) -> None:
        body = {"data": [{"embedding": embedding}], "usage": USAGE["usage"]}
        facts = read_plain(json.dumps(body).encode(), "vector")
        facts.check("vector")
        assert facts.prompt_tokens == 9

    read([0.5])
    with pytest.raises(AnswerError, match="no vector"):
        read([])


def test_a_body_ends_where_its_length_says() -> None:
    raw = HEAD + b"content-length: 5\r\n\r\nhello"
    for split in range(1, len(raw)):
        response = ResponseReader()
        assert response.feed(raw[:split]) + response.feed(raw[split:]) == b"hello"
        assert response.is_complete


@pytest.mark.parametrize(
    "raw",
    [
        b"",
        HEAD,
        HEAD + b"content-length: 5\r\n\r\nhell",
        _chunked(BODY)[:-2],
        _chunked(BODY)[:-30],
    ],
)
def test_a_response_that_is_cut_is_an_error(raw: bytes) -> None:
    response = ResponseReader()
    response.feed(raw)
    assert not response.is_complete
    with pytest.raises(HttpError):
        response.end()


@pytest.mark.parametrize(
    "raw",
    [
        b"220 mail.example ESMTP ready\r\n\r\n",
        HEAD + b"content-length: x\r\n\r\n",
        HEAD + b"content-length: 1\r\n\r\nab",
        HEAD + b"transfer-encoding: chunked\r\n\r\nzz\r\n",
        HEAD + b"transfer-encoding: chunked\r\n\r\n1\r\nab\r\n",
        _chunked(b"a") + b"more",
    ],
)
def test_what_is_no_response_is_an_error(raw: bytes) -> None:
    with pytest.raises(HttpError):
        ResponseReader().feed(raw)


def test_a_connection_is_used_again_only_where_that_is_allowed() -> None:
    response = ResponseReader()
    response.feed(HEAD + b"connection: close\r\ncontent-length: 1\r\n\r\na")
    assert not response.keeps_alive
    for said, is_kept in ((b"", False), (b"connection: Keep-Alive\r\n", True)):
        response = ResponseReader()
        response.feed(b"HTTP/1.0 200 OK\r\n" + said + b"content-length: 1\r\n\r\na")
        assert response.keeps_alive is is_kept
    response = ResponseReader()
    assert response.feed(HEAD + b"\r\nabc") == b"abc"
    response.end()
    assert response.is_complete
    assert not response.keeps_alive


def test_errors_and_refusals_are_named() -> None:
    assert error_kind(503, b'{"error": {"code": "engine_unavailable"}}') == "503 engine_unavailable"
    assert error_kind(429, b'{"error_code": "RATE_LIMITED"}') == "429 RATE_LIMITED"
    assert error_kind(502, b"<html>") == "502 no error of the stack"
    assert retry_after_of({"retry-after": "2", "retry-after-ms": "1500"}) == 1.5
    assert retry_after_of({"retry-after": "soon"}) is None
    assert retry_after_of({}) is None


DEEP = b"[" * 200_000


@pytest.mark.parametrize(
    "event",
    [
        DEEP,
        b"[1]",
        b'{"choices": [], "usage": {"prompt_tokens": Infinity}}',
        b'{"choices": [], "usage": {"prompt_tokens": 1, "completion_tokens": 1e300}}',
        b'{"choices": [], "usage": {"prompt_tokens": -1}}',
        b'{"choices": [{"delta": {"content": 5}}]}',
        b'{"choices": [{"delta": {"tool_calls": [{"function": {"arguments": 5}}]}}]}',
    ],
)
def test_what_is_no_event_is_an_error_of_the_answer_and_not_of_the_load_tester(
    event: bytes,
) -> None:
    with pytest.raises(AnswerError, match="bad event"):
        StreamReading().event(event, 1.0)


def test_a_body_of_any_depth_is_an_answer() -> None:
    assert error_kind(500, DEEP) == "500 no error of the stack"
    with pytest.raises(AnswerError, match="bad answer"):
        read_plain(DEEP, "text")


def test_times_that_no_clock_measures_are_left_out() -> None:
    reading = StreamReading()
    reading.event(b'{"choices": [], "timings": {"prompt_ms": NaN, "predicted_ms": -4}}', 1.0)
    assert (reading.facts.prompt_seconds, reading.facts.decode_seconds) == (None, None)
    assert stages({"server-timing": "a;dur=1.2.3, b;dur=..., c;dur=-5"}) == {"a": 0.0012}


@pytest.mark.parametrize("said", ["nan", "inf", "-5", "1e999"])
def test_a_retry_after_that_nobody_can_wait_for_is_none(said: str) -> None:
    assert retry_after_of({"retry-after": said}) is None
    assert retry_after_of({"retry-after": "3", "retry-after-ms": said}) == 3


def test_a_kind_of_error_does_nothing_to_a_terminal_and_can_be_written() -> None:
    body = json.dumps({"error": {"code": "\x1b[31m\x07\ud800" + 1000 * "y"}}).encode()
    kind = error_kind(500, body)
    assert kind.isprintable()
    assert len(kind) < 100
    kind.encode()


@pytest.mark.parametrize(
    "head",
    [b"HTTP/1.1 200 OK\r\ncontent-length: " + b"9" * 5000, "HTTP/1.1 ²²² OK".encode("latin-1")],
)
def test_numbers_of_http_are_numbers(head: bytes) -> None:
    with pytest.raises(HttpError):
        ResponseReader().feed(head + b"\r\n\r\n")


def test_a_chunk_has_no_negative_size() -> None:
    head = b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n"
    with pytest.raises(HttpError, match="no number"):
        ResponseReader().feed(head + b"-5\r\nabc\r\n")
