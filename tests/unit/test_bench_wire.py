"""The benchmark counts right whatever the block boundaries, and takes no error for an answer."""

import pytest

from benchmarks import mock_engine
from benchmarks.wire import AnswerReader, TokenCounter, WireError, fault_of_plain

STREAM = mock_engine.STREAM_HEAD + mock_engine.TOKEN_CHUNK * 5 + mock_engine.stream_end(5, "length")


def read(data: bytes, size: int) -> tuple[AnswerReader, list[bytes]]:
    reader = AnswerReader()
    blocks = [reader.feed(data[at : at + size]) for at in range(0, len(data), size)]
    return reader, blocks


@pytest.mark.parametrize("size", [1, 2, 3, 7, 100, 10_000])
def test_stream_is_counted_at_any_boundary(size: int) -> None:
    reader, blocks = read(STREAM, size)
    counter = TokenCounter(5)
    assert sum(counter.feed(block) for block in blocks) == 5
    assert reader.is_complete
    assert reader.status == 200
    assert counter.fault() is None


@pytest.mark.parametrize("size", [1, 5, 10_000])
def test_plain_answer_is_read_at_any_boundary(size: int) -> None:
    reader, blocks = read(mock_engine.PLAIN, size)
    assert reader.is_complete
    assert fault_of_plain(reader.status, b"".join(blocks)) is None


def test_carriage_returns_and_spaces_of_other_servers_are_understood() -> None:
    counter = TokenCounter(1)
    counter.feed(b'data: {"choices": [{"delta": {"content": " token"}}]}\r\n\r\n')
    counter.feed(b'data: {"choices": [{"delta": {}, "finish_reason": "length"}]}\r\n\r\n')
    counter.feed(b"data: [DONE]\r\n\r\n")
    assert counter.fault() is None


@pytest.mark.parametrize(
    ("stream", "expected"),
    [
        (b"", "0 tokens instead of 5"),
        (b'event: error\ndata: {"error": {"message": " token"}}\n\n', "1 tokens instead of 5"),
        (b'data: {"content": " token"}\n\n' * 5 + b"data: [DONE]\n\n", "no finish_reason"),
        (b'data: {"content": " token"}\n\n' * 6, "6 tokens instead of 5"),
        (
            b'data: {"content": " token"}\n\n' * 5 + b'data: {"finish_reason": "length"}\n\n',
            "did not end",
        ),
    ],
)
def test_a_wrong_stream_is_a_fault(stream: bytes, expected: str) -> None:
    counter = TokenCounter(5)
    counter.feed(stream)
    assert expected in (counter.fault() or "")


@pytest.mark.parametrize(
    ("status", "body", "expected"),
    [
        (503, b'{"error": {"message": "busy"}}', "HTTP 503"),
        (200, b'{"error": {"message": "busy"}}', "no chat completion"),
        (200, b'{"choices": []}', "another text"),
        (
            200,
            b'{"choices": [{"message": {"content": "no"}, "finish_reason": "stop"}]}',
            "another text",
        ),
        (200, b"", "no chat completion"),
    ],
)
def test_a_wrong_answer_is_a_fault(status: int, body: bytes, expected: str) -> None:
    assert expected in (fault_of_plain(status, body) or "")


@pytest.mark.parametrize(
    "data",
    [
        b"SSH-2.0 hello\r\n\r\n",
        b"HTTP/1.1 200 OK\r\n\r\n",
        b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nabc",
        b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\nxyz\r\n",
        b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n1\r\nabc\r\n",
        b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n0\r\n\r\nmore",
        b"x" * 70_000,
    ],
)
def test_what_is_no_http_answer_is_an_error(data: bytes) -> None:
    with pytest.raises(WireError):
        AnswerReader().feed(data)


def test_a_reader_serves_many_answers_on_one_connection() -> None:
    reader = AnswerReader()
    for data in (mock_engine.PLAIN, STREAM, mock_engine.SHORT_STREAM, mock_engine.PLAIN):
        reader.feed(data)
        assert reader.is_complete
        reader.reset()
