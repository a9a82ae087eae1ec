"""The outermost wrapper: when it tells that a request is over."""

import pytest
from starlette.types import Message, Receive, Scope, Send

from api_server.middleware.request_log import RequestLog
from api_server.observability.metrics import Metrics
from api_server.observability.numbers import Numbers
from api_server.observability.record import RequestRecord, record_of

START = {"type": "http.response.start", "status": 200, "headers": []}
PART = {"type": "http.response.body", "body": b"a", "more_body": True}
LAST = {"type": "http.response.body", "body": b"b"}


async def happened(*messages: Message, fails: bool = False) -> list[str]:
    """What was sent and what was closed, in order, of an answer of these messages."""
    order: list[str] = []

    async def app(scope: Scope, _: Receive, send: Send) -> None:
        for message in messages:
            await send(dict(message))
        if fails:
            record_of(scope).outcome = "client_left"
            raise ConnectionError

    async def receive() -> Message:
        raise AssertionError

    async def send(message: Message) -> None:
        order.append(message.get("body", b"start").decode())

    def close(record: RequestRecord) -> None:
        order.append(f"closed {record.status} {record.outcome}")

    scope = {"type": "http", "method": "POST", "path": "/x", "headers": []}
    log = RequestLog(app, Metrics((), Numbers()), None, close)
    if fails:
        with pytest.raises(ConnectionError):
            await log(scope, receive, send)
    else:
        await log(scope, receive, send)
    return order


async def test_a_request_is_closed_before_its_last_byte_leaves() -> None:
    closed = "closed 200 ok"
    assert await happened(START, LAST) == ["start", closed, "b", closed]
    assert await happened(START, PART, PART, LAST) == ["start", "a", "a", closed, "b", closed]


async def test_a_request_without_an_end_is_closed_with_what_became_of_it() -> None:
    order = await happened(START, PART, fails=True)
    assert order == ["start", "a", "closed 200 client_left"]
    assert await happened(fails=True) == ["closed 0 client_left"]
