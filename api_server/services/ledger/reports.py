"""Who used what: reads a question, asks the table, says what may be missing from the answer."""

import asyncio
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from datetime import UTC, date, datetime, timedelta
from pathlib import Path
from typing import Any

from api_server.errors import InvalidRequestError
from api_server.services.ledger.adopting import Depth, depth
from api_server.stores.usage import UsageLine, UsageStore

BY = ("day", "app", "model")
MOST_LINES = 10_000


@dataclass(frozen=True)
class Question:
    """Of requests that arrived from `since` on and before `until`. `by` holds names of `BY`."""

    by: tuple[str, ...]
    since: datetime
    until: datetime
    app: str | None = None
    model: str | None = None


@dataclass(frozen=True)
class Report:
    """The lines, and what waits on this machine's disk and is in none of them."""

    question: Question
    lines: Sequence[UsageLine]
    waiting: Depth
    now: datetime

    @property
    def is_cut(self) -> bool:
        """Whether there are more lines than were asked for."""
        return len(self.lines) > MOST_LINES

    def as_json(self) -> dict[str, Any]:
        """For `/admin/usage` and `--json`."""
        return {
            "object": "list",
            "since": self.question.since.isoformat(),
            "until": self.question.until.isoformat(),
            "by": list(self.question.by),
            "data": [line_as_json(line, self.question.by) for line in self.lines[:MOST_LINES]],
            "has_more": self.is_cut,
            "waiting_rows": self.waiting.rows,
            "waiting_seconds": self.waiting_seconds,
        }

    @property
    def waiting_seconds(self) -> float | None:
        """How old the oldest row is that waits to be in the table; None where none does."""
        if self.waiting.oldest_at is None:
            return None
        return round(max(0.0, self.now.timestamp() - self.waiting.oldest_at), 1)


class Usage:
    """Answers questions. `spool` is the folder in which rows of this machine may wait."""

    def __init__(self, store: UsageStore, spool: Path) -> None:
        self._store = store
        self._spool = spool

    async def report(self, question: Question) -> Report:
        """Raises `DependencyDownError` where PostgreSQL is away."""
        waiting = await asyncio.to_thread(depth, self._spool)
        lines = await self._store.report(
            question.by,
            question.since,
            question.until,
            app=question.app,
            model=question.model,
            most=MOST_LINES + 1,
        )
        return Report(question, lines, waiting, datetime.now(UTC))


def line_as_json(line: UsageLine, by: Sequence[str]) -> dict[str, Any]:
    """Without the names that were not asked for."""
    named = {name: value for name, value in asdict(line).items() if name not in BY or name in by}
    if isinstance(named.get("day"), date):
        named["day"] = named["day"].isoformat()
    return named


def question(
    by: str | None,
    since: str | None,
    until: str | None,
    *,
    app: str | None,
    model: str | None,
    now: datetime,
) -> Question:
    """Of texts: `app,model,day`, days or times such as 2026-11-01 (UTC). Pure.

    Without `since` it is this month, without `until` it is up to now. Raises
    `InvalidRequestError` that names what is wrong.
    """
    names = tuple(name.strip() for name in (by or "app,model").split(",") if name.strip())
    for name in names:
        if name not in BY:
            raise InvalidRequestError(
                f"by: '{name[:40]}' is none of {', '.join(BY)}; write some of them with commas.",
                param="by",
            )
    begins = now.replace(day=1, hour=0, minute=0, second=0, microsecond=0)
    first = _time("since", since) or begins
    last = _time("until", until) or max(now, first) + timedelta(seconds=1)
    if last <= first:
        raise InvalidRequestError("until: must be after since.", param="until")
    for name, text in (("app", app), ("model", model)):
        if text is not None and "\0" in text:
            raise InvalidRequestError(f"{name}: no such name.", param=name)
    return Question(names, first, last, app or None, model or None)


def _time(name: str, text: str | None) -> datetime | None:
    if not text:
        return None
    try:
        parsed = datetime.fromisoformat(text)
        return (parsed if parsed.tzinfo else parsed.replace(tzinfo=UTC)).astimezone(UTC)
    except (ValueError, OverflowError) as exc:
        raise InvalidRequestError(
            f"{name}: '{text[:40]}' is no day such as 2026-11-01 and no time such as "
            "2026-11-01T12:00 (UTC).",
            param=name,
        ) from exc
