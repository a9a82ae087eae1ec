"""The edge: every error of a request becomes an envelope here, and nothing leaks past it."""

import asyncio
import logging

import msgspec
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from api_server.errors import (
    ApiError,
    ClientLeftError,
    InternalError,
    ShuttingDownError,
    envelope_for,
)
from api_server.observability.record import record_of

log = logging.getLogger(__name__)


class ErrorEdge:
    """Answers with the envelope of an `ApiError`; any other exception is a logged 500.

    Errors after the headers went out are the endpoint's own to tell; here they only end the
    connection.
    """

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        has_begun = False

        async def noting_send(message: Message) -> None:
            nonlocal has_begun
            has_begun = True
            await send(message)

        record = record_of(scope)
        try:
            await self._app(scope, receive, noting_send)
        except ClientLeftError:
            if record.outcome == "ok":  # else it left after it was told of an error
                record.outcome = "client_left"
            return
        except ApiError as exc:
            error = exc
        except asyncio.CancelledError:
            if has_begun:
                raise
            # Nothing else cancels a whole request; with an answer, this is the end of it.
            if (task := asyncio.current_task()) is not None:
                task.uncancel()
            error = ShuttingDownError(
                "The server is shutting down; send the request again.", retry_after_seconds=1
            )
        except Exception:  # the edge: a defect must neither kill the server nor reach the client
            log.exception("unexpected error", extra={"request_id": record.request_id})
            error = InternalError(
                f"The server failed; its log has the reason under {record.request_id}."
            )
        else:
            return
        record.fail("error", error.code, error.message, error.log_level)
        if not has_begun:
            await send_error(send, error, scope["path"])


async def send_error(send: Send, error: ApiError, path: str) -> None:
    """One error as a whole HTTP answer, in the envelope of the path's family."""
    body = msgspec.json.encode(envelope_for(path, error))
    headers = [
        (b"content-type", b"application/json"),
        (b"content-length", str(len(body)).encode()),
    ]
    headers += [(name.encode(), value.encode()) for name, value in error.headers.items()]
    await send({"type": "http.response.start", "status": error.status, "headers": headers})
    await send({"type": "http.response.body", "body": body})
