"""What a client sees of an engine's events: bytes mostly untouched, usage put right. Pure."""

import re

import msgspec

from api_server.inference import sse
from api_server.inference.chunks import decode
from api_server.services.clean_events import Shape
from api_server.services.usage import Json, UsageTally, has_content

_WORTH_A_LOOK = (b'"usage"', b'"finish_reason":"', sse.DONE, b"data: null")

_CREATED = re.compile(rb'"created":\d+')


class OutgoingEvents:
    """Turns an engine's blocks into a client's.

    Usage goes out once, before the end, and only if it was asked for, as OpenAI does it. What was
    learnt on the way stays in `tally` and `finish_reason`; `content_events` is how many events had
    content, for engines that do not get to report usage. With a `shape` each event is rewritten;
    unless the engine `has_one_date`, all events get the first one's `created`. Of several choices
    none begins before those of lower index have: the official client relies on that.
    """

    def __init__(
        self,
        *,
        wants_usage: bool,
        choices_per_prompt: int,
        prompts: int = 1,
        shape: Shape | None = None,
        has_one_date: bool = True,
    ) -> None:
        self.tally = UsageTally(choices_per_prompt)
        self.finish_reason: str | None = None
        self.content_events = 0
        self._wants_usage = wants_usage
        self._order = FirstInOrder() if choices_per_prompt * prompts > 1 else None
        self._shape = shape
        self._has_one_date = has_one_date
        self._created = b""
        self._last_report: Json | None = None

    def outgoing(self, block: bytes) -> bytes:
        """The block as the client shall see it; `b""` when nothing of it is for the client."""
        if not self._has_one_date:
            block = self._with_one_date(block)
        if (
            self._shape is None
            and self._order is None
            and not any(mark in block for mark in _WORTH_A_LOOK)
        ):
            self.content_events += content_events(block)
            return block
        return b"".join(self._event(event) for event in sse.split_events(block))

    def _with_one_date(self, block: bytes) -> bytes:
        """Inside a text the key's quotes would be escaped, so that this touches no content."""
        if not self._created:
            first = _CREATED.search(block)
            self._created = first[0] if first else b""
        if block.count(b'"created":') == block.count(self._created):
            return block
        return _CREATED.sub(self._created, block)

    def _event(self, event: bytes) -> bytes:
        data = sse.data_of(event)
        if data is None:
            return event + b"\n\n"
        if data == sse.DONE:
            held = self._order.rest() if self._order else b""
            return held + self._usage_event() + event + b"\n\n"
        chunk = decode(data)
        if chunk is None:
            return b""
        had_choices = bool(chunk.get("choices"))
        if self._shape is not None:
            self._shape.reshape(chunk)
        choices = chunk.get("choices") or ()
        for choice in choices:
            self.finish_reason = choice.get("finish_reason") or self.finish_reason
            self.content_events += has_content(choice)
        usage = chunk.pop("usage", None)
        if usage:
            self.tally.add(usage)
            self._last_report = chunk
            outgoing = _as_event(chunk) if choices else b""
        elif had_choices and not choices:  # the shape left nothing of it
            outgoing = b""
        else:
            outgoing = event + b"\n\n" if self._shape is None else _as_event(chunk)
        if self._order is None or not choices:
            return outgoing
        return self._order.let_through(choices[0].get("index") or 0, outgoing)

    def _usage_event(self) -> bytes:
        if not self._wants_usage or self._last_report is None:
            return b""
        return _as_event({**self._last_report, "choices": [], "usage": self.tally.total()})


def content_events(block: bytes) -> int:
    """About how many events of a block bring a part of an answer; an event is a token, mostly.

    Looks at no event by itself. Inside a text the keys' quotes and line ends would be escaped.
    """
    events = block.count(b"\n\n")
    if b'"role":' in block:  # an answer's first event has that, and often nothing else
        events -= block.count(b'"content":null') + block.count(b'"content":""')
    if block[:1] == b":" or b"\n:" in block:
        events -= block.count(b"\n:") + (block[:1] == b":")
    return max(0, events)


class FirstInOrder:
    """Holds the events of a choice back until all choices of lower index have begun."""

    def __init__(self) -> None:
        self._begun = 0
        self._held: dict[int, bytes] = {}

    def let_through(self, index: int, event: bytes) -> bytes:
        """What may go out now that this event of a choice has come."""
        if index > self._begun:
            self._held[index] = self._held.get(index, b"") + event
            return b""
        if index == self._begun:
            self._begun += 1
            while self._begun in self._held:
                event += self._held.pop(self._begun)
                self._begun += 1
        return event

    def rest(self) -> bytes:
        """What is held back still, at the end."""
        held, self._held = self._held, {}
        return b"".join(held[index] for index in sorted(held))


def _as_event(chunk: Json) -> bytes:
    return b"data: " + msgspec.json.encode(chunk) + b"\n\n"
