"""The lines of the spool: what a request is noted as when it begins and when it ends. Pure.

A line is JSON in the names that `stores/sql/usage.sql` reads, so that whoever ships it passes its
bytes on.
"""

import random
import time
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Annotated, Literal

import msgspec

from api_server.observability.record import Content, RequestRecord

DIED = "gateway_died"
"""The outcome of a request whose end nobody wrote down."""

LONGEST_TEXT = 256
"""Letters kept of what others make up: users, reasons why an engine ended."""

_LAST_MICROSECOND = 4_102_444_800_000_000
"""The year 2100: a line with a later time is a damaged one."""


class Row(msgspec.Struct, omit_defaults=True):
    """One request; times in milliseconds, `at` in microseconds of Unix time, when it arrived.

    A line of the kind `open` has only what is known when the request goes to a model.
    """

    kind: Literal["open", "closed"]
    id: str
    at: int
    app_id: str
    app: str
    route: str
    request_id: str
    status: int = 0
    outcome: str = ""
    end_user: str | None = None
    model: str | None = None
    fallback_for: str | None = None
    replica: str | None = None
    is_stream: bool | None = None
    cache: str | None = None
    retries: int = 0
    finish_reason: str | None = None
    error_code: str | None = None
    prompt_tokens: int | None = None
    cached_tokens: int | None = None
    completion_tokens: int | None = None
    is_estimate: bool = False
    queue_ms: float | None = None
    engine_ms: float | None = None
    first_token_ms: float | None = None
    own_ms: float | None = None
    total_ms: float | None = None


class _ContentLine(msgspec.Struct):
    """What was said in a request, for apps that want it kept."""

    kind: Literal["content"]
    id: str
    at: int
    app_id: str
    request: str
    answer: str
    is_cut: bool


class _Head(msgspec.Struct):
    """What must be right of a line for it to be one."""

    kind: Literal["open", "closed", "content"]
    id: Annotated[str, msgspec.Meta(pattern="^[0-9a-f]{32}$")]
    at: Annotated[int, msgspec.Meta(ge=0, le=_LAST_MICROSECOND)]


_encode = msgspec.json.Encoder().encode
_head = msgspec.json.Decoder(_Head)
_row = msgspec.json.Decoder(Row)


def opened(record: RequestRecord, row_id: str, at: int) -> bytes:
    """The line of a request that is about to use a model."""
    row = Row(
        *("open", row_id, at, record.app_id or "", record.app or "", record.route),
        record.request_id,
        end_user=record.user,
        model=record.model,
        is_stream=record.stream,
    )
    return _line(row)


def closed(record: RequestRecord, row_id: str, at: int) -> bytes:
    """The line of a request that is over."""
    row = Row(
        "closed",
        row_id,
        at,
        record.app_id or "",
        record.app or "",
        record.route,
        record.request_id,
        record.status,
        record.outcome,
        record.user,
        record.model,
        record.fallback_for,
        record.replica,
        record.stream,
        record.cache,
        record.retries,
        record.finish_reason,
        record.error_code,
        record.prompt_tokens,
        record.cached_tokens,
        record.completion_tokens,
        record.tokens_estimated,
        record.queue_ms,
        record.engine_ms,
        record.first_token_ms,
        record.own_ms,
        record.elapsed_ms(),
    )
    return _line(row)


def content(record: RequestRecord, said: Content, row_id: str, at: int) -> bytes:
    """The line with what was said, as text: a NUL is dropped, half a character replaced."""
    request, answer = (
        bytes(each).replace(b"\0", b"").decode("utf-8", "replace")
        for each in (said.request, said.answer)
    )
    app_id = record.app_id or ""
    return (
        _encode(_ContentLine("content", row_id, at, app_id, request, answer, said.is_cut)) + b"\n"
    )


def died(line: bytes) -> bytes:
    """What an `open` line becomes when its process is gone."""
    row = msgspec.structs.replace(_row.decode(line), kind="closed", status=0, outcome=DIED)
    return _encode(row)


def _line(row: Row) -> bytes:
    """PostgreSQL takes no NUL, and nothing that a client made up may cost a row."""
    user, reason = row.end_user, row.finish_reason
    if user is not None and (len(user) > LONGEST_TEXT or not user.isprintable()):
        row.end_user = _harmless(user)
    if reason is not None and (len(reason) > LONGEST_TEXT or not reason.isprintable()):
        row.finish_reason = _harmless(reason)
    return _encode(row) + b"\n"


def _harmless(text: str) -> str:
    """Without what is not printable: NUL, line ends, halves of characters."""
    return "".join(letter for letter in text[:LONGEST_TEXT] if letter.isprintable())


class RowIds:
    """Ids as UUIDv7 has them, 32 digits: the milliseconds of a time, then chance."""

    def __init__(self) -> None:
        self._chance = random.Random(random.SystemRandom().getrandbits(256))  # noqa: S311

    def new(self, at: int) -> str:
        """An id for a request that arrived `at` (microseconds of Unix time)."""
        bits = self._chance.getrandbits(74)
        low = (bits & 0x3FFF_FFFF_FFFF_FFFF) | 0x8000_0000_0000_0000
        return f"{at // 1000:012x}7{bits >> 62:03x}{low:016x}"


def arrived_at(record: RequestRecord) -> int:
    """When a request came, in microseconds of Unix time."""
    return time.time_ns() // 1000 - int((time.perf_counter() - record.started) * 1e6)


@dataclass
class Reading:
    """What the lines of a segment come to: `rows` for the database, with their times `at`, and
    `contents` with theirs.

    `open_lines` are the requests, by id, that have begun in it and not ended; `torn` is how many
    lines are none.
    """

    rows: list[bytes] = field(default_factory=list)
    times: list[int] = field(default_factory=list)
    contents: list[bytes] = field(default_factory=list)
    content_times: list[int] = field(default_factory=list)
    open_lines: dict[str, tuple[int, bytes]] = field(default_factory=dict)
    torn: int = 0

    def take(self, lines: Iterable[bytes]) -> None:
        """Read these lines too; a request's end comes after its beginning."""
        for line in lines:
            if not line:
                continue
            try:
                head = _head.decode(line)
            except msgspec.MsgspecError:
                self.torn += 1
                continue
            if head.kind == "open":
                self.open_lines[head.id] = (head.at, line)
                continue
            if head.kind == "content":
                self.contents.append(line)
                self.content_times.append(head.at)
                continue
            self.open_lines.pop(head.id, None)
            self.rows.append(line)
            self.times.append(head.at)

    def end_all(self) -> None:
        """Nobody will write an end any more: what is open becomes a row that says so."""
        for at, line in self.open_lines.values():
            try:
                row = died(line)
            except msgspec.MsgspecError:
                self.torn += 1
                continue
            self.rows.append(row)
            self.times.append(at)
        self.open_lines.clear()
