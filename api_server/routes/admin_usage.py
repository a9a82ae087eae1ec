"""`/admin/usage`: who used what, from the ledger, for the operator."""

from datetime import UTC, date, datetime
from typing import Annotated, Literal

from fastapi import APIRouter, Depends, Query, Request
from pydantic import BaseModel

from api_server.errors import RouteNotFoundError
from api_server.routes.admin import check_key
from api_server.services.ledger.reports import Usage, question


class UsageSum(BaseModel):
    """Sums over requests. Of `day`, `app`, `model` those that were asked for are there.

    `failed` are those that did not end well, departed clients among them; `cache_hits` those that
    the cache answered, whose tokens are in no sum. `estimated_tokens` is how many of the tokens no
    engine has counted.
    """

    day: date | None = None
    app: str | None = None
    model: str | None = None
    requests: int
    failed: int
    cache_hits: int
    prompt_tokens: int
    cached_tokens: int
    completion_tokens: int
    estimated_tokens: int


class UsageReport(BaseModel):
    """`waiting_rows` of this machine are in no sum yet, the oldest for `waiting_seconds`."""

    object: Literal["list"] = "list"
    since: datetime
    until: datetime
    by: list[str]
    data: list[UsageSum]
    has_more: bool
    waiting_rows: int
    waiting_seconds: float | None


router = APIRouter(prefix="/admin", tags=["admin"], dependencies=[Depends(check_key)])

Text = Annotated[str | None, Query(max_length=256)]


@router.get("/usage", response_model_exclude_unset=True)
async def report_usage(
    request: Request,
    by: Text = None,
    since: Text = None,
    until: Text = None,
    app: Text = None,
    model: Text = None,
) -> UsageReport:
    """Requests and tokens from `since` on and before `until` (UTC; this month), by `day`, `app`,
    `model` (some of them, with commas), of one `app` (name or id) or `model` where one is named.
    """
    usage: Usage | None = request.app.state.usage
    if usage is None:
        raise RouteNotFoundError("There is no ledger: the gateway runs without POSTGRES_URL.")
    asked = question(by, since, until, app=app, model=model, now=datetime.now(UTC))
    return UsageReport.model_validate((await usage.report(asked)).as_json())
