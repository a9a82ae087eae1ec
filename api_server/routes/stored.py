"""What the routes of everything that is kept have in common: who asks, bodies, pages, answers."""

from typing import Any, cast

import msgspec
from fastapi import Request, Response

from api_server.errors import DependencyDownError, InvalidRequestError
from api_server.routes.token_path import read_body
from api_server.schemas.apps import ANYONE, CALLER, Caller
from api_server.schemas.paging import MOST_LISTED, USUALLY_LISTED, Order, Page


def caller_of(request: Request) -> Caller:
    """Whose request it is, as the authentication has found."""
    caller: Caller = request.scope.get(CALLER, ANYONE)
    return caller


def service_of(request: Request, name: str, needs: str = "PostgreSQL (POSTGRES_URL)") -> Any:
    """`app.state.NAME`. Raises `DependencyDownError` where what it needs is not set up."""
    service = getattr(request.app.state, name)
    if service is None:
        raise DependencyDownError(needs, retry_after_seconds=60)
    return service


async def body_of(request: Request) -> bytes:
    """The whole body, within the gateway's bounds."""
    bounds = request.app.state.bounds
    return await read_body(
        request.scope, request.receive, bounds.max_body_bytes, bounds.body_timeout_seconds
    )


def page_of(request: Request, *, usual: int = USUALLY_LISTED, most: int = MOST_LISTED) -> Page:
    """`limit`, `order`, `after` and `before` of the query."""
    asked = request.query_params
    limit, order = asked.get("limit", str(usual)), asked.get("order", "desc")
    if not (limit.isascii() and limit.isdigit() and 1 <= int(limit[:9]) <= most):
        raise InvalidRequestError(f"limit: must be 1 to {most}.", param="limit")
    if order not in ("asc", "desc"):
        raise InvalidRequestError("order: must be asc or desc.", param="order")
    return Page(
        limit=int(limit[:9]),
        order=cast("Order", order),
        after=asked.get("after") or None,
        before=asked.get("before") or None,
    )


def answer(content: Any) -> Response:
    """JSON, as msgspec writes it."""
    return Response(msgspec.json.encode(content), media_type="application/json")


STREAM: dict[int | str, dict[str, Any]] = {
    200: {"content": {"text/event-stream": {"schema": {"type": "string"}}}}
}
"""`responses` of a route that answers with a stream, where that is asked for."""


def takes(schema: type, *, required: bool = True) -> dict[str, Any]:
    """`openapi_extra` of a route that reads its body itself; openapi.py describes the schema."""
    content = {"application/json": {"schema": {"$ref": f"#/components/schemas/{schema.__name__}"}}}
    return {"requestBody": {"required": required, "content": content}}
