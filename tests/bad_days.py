"""What replicas do on bad days and what clients then see, as data.

`python -m tests.bad_days` prints the tables of docs/bad-days.md, `tests/e2e/test_bad_days.py`
plays them.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

from tests.replicas import Replica

Wait = Literal["at once", "`first_token_seconds`", "`idle_seconds`", "`queue_seconds`"]

KILL: Mapping[str, Any] = {"signal": "KILL"}
FREEZE: Mapping[str, Any] = {"signal": "STOP"}
REFUSE: Mapping[str, Any] = {"fault": "refuse", "seconds": 60}


@dataclass(frozen=True)
class BadDay:
    """One row. `order` is what the replica is told, or a signal.

    Before the first event: `elsewhere` is how long an answer takes that another replica gives,
    `status` and `code` what comes where there is none. In a stream (`status` is then a plain
    request's): the code of the event that ends it. Both within `wait`.
    """

    words: str
    order: Mapping[str, Any]
    status: int
    code: str
    wait: Wait = "at once"
    elsewhere: Wait = "at once"

    def __str__(self) -> str:
        return self.words

    @property
    def ending(self) -> str:
        """What a client sees that no replica answers."""
        return f"{self.status} `{self.code}`" + (", Retry-After" if self.status == 503 else "")

    @property
    def is_a_signal(self) -> bool:
        return self.order in (KILL, FREEZE)

    async def strikes(self, replica: Replica) -> None:
        if self.order == KILL:
            await replica.kill()
        elif self.order == FREEZE:
            replica.pause()
        else:
            await replica.order(**self.order)

    async def is_over(self, replica: Replica) -> None:
        if self.order in (KILL, REFUSE):
            await replica.restart()
        elif self.order == FREEZE:
            replica.resume()
        else:
            await replica.order()


UNAVAILABLE: Any = {"status": 503, "code": "engine_unavailable", "wait": "`queue_seconds`"}
FAILED: Any = {"status": 502, "code": "engine_error"}
SILENT: Any = {
    "status": 504,
    "code": "engine_timeout",
    "wait": "`first_token_seconds`",
    "elsewhere": "`first_token_seconds`",
}
STALLED: Any = {"status": 504, "code": "engine_timeout", "wait": "`idle_seconds`"}
CUT: Any = {"status": 502, "code": "engine_truncated"}

BEFORE_THE_FIRST_EVENT = (
    BadDay("is not there (kill -9)", KILL, **UNAVAILABLE),
    BadDay("refuses connections", REFUSE, **UNAVAILABLE),
    BadDay("answers 429 with Retry-After", {"fault": "error_429", "retry_after": 2}, **UNAVAILABLE),
    BadDay("answers 503 (it loads its model)", {"fault": "loading_503"}, **UNAVAILABLE),
    BadDay("is frozen (SIGSTOP)", FREEZE, **SILENT),
    BadDay("hangs before its headers", {"fault": "hang_before_headers"}, **SILENT),
    BadDay("hangs after its headers", {"fault": "hang_after_headers"}, **SILENT),
    BadDay("resets the connection", {"fault": "reset"}, **FAILED),
    BadDay("closes the connection", {"fault": "close_before_headers"}, **FAILED),
    BadDay("answers 500", {"fault": "error_500"}, **FAILED),
    BadDay("answers 200 with garbage", {"fault": "garbage"}, **FAILED),
    BadDay("streams garbage as its first event", {"fault": "garbage_first"}, **FAILED),
    BadDay("answers in another protocol", {"fault": "not_http"}, **FAILED),
    BadDay("answers 200 with the body of an error", {"fault": "error_body_with_200"}, **FAILED),
    BadDay("streams an error as its first event", {"fault": "error_event_first"}, **FAILED),
)

IN_A_STREAM = (
    BadDay("is killed (kill -9)", KILL, **CUT),
    BadDay("resets the connection", {"fault": "reset_in_stream"}, **CUT),
    BadDay("closes the connection", {"fault": "close_in_stream"}, **CUT),
    BadDay("ends the stream without `[DONE]`", {"fault": "end_without_done"}, **CUT),
    BadDay("sends half an event and stalls", {"fault": "half_event_then_stall"}, **STALLED),
    BadDay("is frozen (SIGSTOP)", FREEZE, **STALLED),
    BadDay("streams garbage", {"fault": "garbage_in_stream"}, **FAILED),
    BadDay("streams an error", {"fault": "error_event_in_stream"}, **FAILED),
)


def markdown() -> str:
    """Both tables as docs/bad-days.md shows them."""
    before = [
        "| before its first event, a replica | another one is well | none is | within |",
        "|---|---|---|---|",
    ]
    for day in BEFORE_THE_FIRST_EVENT:
        answered = "answered" if day.elsewhere == "at once" else f"answered, after {day.elsewhere}"
        before.append(f"| {day.words} | {answered} | {day.ending} | {day.wait} |")
    inside = [
        "| in the middle of an answer, it | a stream ends with | a plain request with | within |",
        "|---|---|---|---|",
    ]
    for day in IN_A_STREAM:
        event = f"an error event, `{day.code}`"
        inside.append(f"| {day.words} | {event} | {day.ending} | {day.wait} |")
    return "\n".join([*before, "", *inside, ""])


if __name__ == "__main__":
    print(markdown(), end="")
