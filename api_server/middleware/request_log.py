"""Gives each request an id; at its end, whatever that is, counts it and writes its line of log."""

import logging
import re
from collections.abc import Callable

from starlette.types import ASGIApp, Message, Receive, Scope, Send

from api_server.middleware.security_headers import security_headers
from api_server.observability.degradation import Degradation
from api_server.observability.metrics import Metrics
from api_server.observability.record import RequestRecord, attach_record, new_request_id

_ACCEPTED_ID = re.compile(rb"[A-Za-z0-9._:-]{1,128}")
_ASKED_OFTEN = frozenset({"/health/live", "/health/open", "/health/ready", "/metrics"})

Close = Callable[[RequestRecord], None]

log = logging.getLogger("api_server.request")


class RequestLog:
    """Outermost wrapper. A client's own `x-request-id` is kept if it is short and harmless.

    `close` is told of each request that is over, before its last byte leaves: in time to have noted
    it when somebody has seen the answer, whatever happens to this process then. It may be told of
    one twice.
    """

    def __init__(
        self,
        app: ASGIApp,
        metrics: Metrics,
        degradation: Degradation | None = None,
        close: Close | None = None,
    ) -> None:
        self._app = app
        self._close = close or _nothing
        self._metrics = metrics
        self._degradation = degradation or Degradation((), metrics)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        record = RequestRecord(_request_id(scope), scope["method"], scope["path"])
        attach_record(scope, record)

        async def send_with_id(message: Message) -> None:
            if message["type"] == "http.response.start":
                record.status = message["status"]
                headers = message.get("headers", ())
                message["headers"] = [
                    *headers,
                    *security_headers(record.path, record.status, headers),
                    (b"x-request-id", record.request_id.encode("latin-1")),
                    (b"server-timing", record.server_timing()),
                    *record.headers,
                ]
                if self._degradation.header is not None:
                    message["headers"].append(self._degradation.header)
            elif message["type"] == "http.response.body" and not message.get("more_body"):
                self._close(record)
            await send(message)

        try:
            await self._app(scope, receive, send_with_id)
        finally:
            self._close(record)
            self._metrics.request_ended(record)
            level = record.log_level
            if level == logging.INFO and record.path in _ASKED_OFTEN:
                level = logging.DEBUG
            if log.isEnabledFor(level):
                log.log(level, "request", extra=record.as_fields())


def _nothing(_: RequestRecord) -> None:
    """Where nobody keeps a ledger."""


def _request_id(scope: Scope) -> str:
    for name, value in scope["headers"]:
        if name == b"x-request-id" and _ACCEPTED_ID.fullmatch(value):
            return str(value, "ascii")
    return new_request_id()
