"""What the engine can be told to do, and which order a request falls under.

A request may carry the fields of `Play` in its body. `POST /fault` gives the same fields to all
requests that carry no `fault` of their own, and more (see `Orders`); each such order replaces the
one before, so `{}` makes the engine well again.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields, replace
from typing import Any

FAULTS = {
    "hang_before_headers": "takes the request and says nothing",
    "hang_after_headers": "answers 200, then says nothing",
    "half_event_then_stall": "stops within the third event and keeps the connection",
    "garbage": "answers 200 with JSON that is no answer",
    "garbage_first": "its first event is no JSON",
    "garbage_in_stream": "its third event is no JSON, and comes alone",
    "not_http": "answers in another protocol",
    "reset": "resets the connection before a byte of an answer",
    "close_before_headers": "closes the connection before a byte of an answer",
    "reset_in_stream": "resets the connection after two events",
    "close_in_stream": "closes the connection after two events",
    "end_without_done": "ends the stream in good order, without [DONE]",
    "error_500": "answers 500",
    "error_429": "answers 429 with Retry-After",
    "loading_503": "answers 503, as while a model is loaded",
    "too_long": "answers 400: more tokens than the context holds",
    "bad_value": "answers 400",
    "no_images": "answers 500 where the client is to blame",
    "error_body_with_200": "answers 200 with the body of an error",
    "error_event_first": "its first event is an error",
    "error_event_in_stream": "its third event is an error",
    "close_after_done": "closes the connection after [DONE], without the end of the HTTP body",
    "says_close": "announces that it closes the connection",
    "slams_the_door": "closes the connection after a complete answer, unannounced",
    "done_in_content": "a token's text looks like the end of the stream",
    "pings_first": "sends comments before the first event",
    "cut_plain": "closes the connection within a plain answer",
    "away_for_a_while": "answers 503 to the first two requests",
    "drops_the_first": "closes the connection of the first request",
}
"""By request or as a whole."""

REFUSE = "refuse"
"""As a whole only: listens no more for `seconds`; kept connections without a request are closed."""

HEALTH = ("", "fails", "hangs")


@dataclass(frozen=True)
class Play:
    """How one request is answered.

    `tokens` events of `size` letters each; `first_pause` seconds before the first, `pause` after
    each; `retry_after` seconds where a 429 or a 503 says so; of the prompt, `cached` tokens were
    known. With `heeds_max` no answer is longer than the request wants it. A chat that has tools,
    and whose last message is no output of one, is answered by `calls` (`name` and `arguments` of
    each).
    """

    fault: str = ""
    tokens: int = 5
    size: int = 1
    first_pause: float = 0.0
    pause: float = 0.0
    retry_after: int | None = None
    cached: int = 0
    heeds_max: bool = False
    calls: Sequence[Mapping[str, str]] = ()

    def changed(self, told: Mapping[str, Any]) -> "Play":
        """The same with the fields that are told. Raises `ValueError` for an unknown fault."""
        play = replace(self, **{name: told[name] for name in PLAY_FIELDS if name in told})
        if play.fault and play.fault not in FAULTS:
            raise ValueError(f"unknown fault {play.fault!r}; known: {', '.join(FAULTS)}")
        return play


PLAY_FIELDS = tuple(field.name for field in fields(Play))


class Orders:
    """What the engine was told as a whole.

    `for_requests` requests fall under it, all where that is left out; `health` makes `/health` fail
    or hang until the next order.
    """

    def __init__(self, told: Mapping[str, Any]) -> None:
        """Raises `ValueError` for a field or a value that does not exist."""
        known = {*PLAY_FIELDS, "for_requests", "health", "seconds"}
        if unknown := sorted(set(told) - known):
            raise ValueError(f"unknown field {unknown[0]!r}; known: {', '.join(sorted(known))}")
        self.health: str = told.get("health", "")
        if self.health not in HEALTH:
            raise ValueError(f"unknown health {self.health!r}; known: {', '.join(HEALTH[1:])}")
        self.refuse_seconds: float = told.get("seconds", 1.0) if _is_refusal(told) else 0.0
        self._play = Play() if _is_refusal(told) else Play().changed(told)
        self._requests_left: int | None = told.get("for_requests")

    def play(self, body: Mapping[str, Any]) -> Play:
        """How to answer the request with this body; it uses up one of `for_requests`."""
        if body.get("fault") or self._requests_left == 0:
            return Play().changed(body)
        if self._requests_left is not None:
            self._requests_left -= 1
        return self._play.changed({name: body[name] for name in body if name != "fault"})


def _is_refusal(told: Mapping[str, Any]) -> bool:
    return told.get("fault") == REFUSE
