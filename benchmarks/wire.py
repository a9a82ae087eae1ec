"""Reads answers off a connection and counts what is in them. Pure: bytes in, values out.

As little parsing as an honest count allows, since it shares its core with the mock engine; what
it does not understand is an error, never skipped.
"""

import re

import msgspec

MAX_HEAD_BYTES = 64 * 1024
WORD = " token"
"""What the mock engine generates, again and again."""

PLAIN_TOKENS = 8
PLAIN_TEXT = WORD * PLAIN_TOKENS

_WORD_IN_EVENT = f'"{WORD}"'.encode()
_FINISH = re.compile(rb'"finish_reason":\s*"(stop|length)"')
_DONE = re.compile(rb"^data: ?\[DONE\]\r?$", re.MULTILINE)


class WireError(Exception):
    """The other side sent something that cannot be read as HTTP/1.1."""


class AnswerReader:
    """Splits one connection's bytes into answers.

    `feed` takes what arrived and gives the body bytes in it; `status` is 0 until the head is read.
    After `is_complete`, `reset` makes it ready for the next answer.
    """

    __slots__ = ("_is_chunked", "_remaining", "_rest", "is_complete", "status")

    def __init__(self) -> None:
        self.reset()

    def reset(self) -> None:
        self.status = 0
        self.is_complete = False
        self._is_chunked = False
        self._remaining = 0
        self._rest = b""

    def feed(self, data: bytes) -> bytes:
        """Body bytes, without framing. Raises `WireError`."""
        if self.is_complete:
            raise WireError("bytes came that nobody had asked for")
        if self._rest:
            data = self._rest + data
            self._rest = b""
        start = 0
        if not self.status:
            end = data.find(b"\r\n\r\n")
            if end < 0:
                if len(data) > MAX_HEAD_BYTES:
                    raise WireError("the head of an answer does not end")
                self._rest = data
                return b""
            self._read_head(data[:end])
            start = end + 4
        return self._chunks(data, start) if self._is_chunked else self._counted(data, start)

    def _read_head(self, head: bytes) -> None:
        if not head.startswith(b"HTTP/1.1 ") or not head[9:12].isdigit():
            raise WireError(f"this is no answer in HTTP/1.1: {head[:60]!r}")
        self.status = int(head[9:12])
        lowered = head.lower()
        at = lowered.find(b"\r\ncontent-length:")
        if at >= 0:
            end = lowered.find(b"\r\n", at + 2)
            self._remaining = int(lowered[at + 17 : end if end > 0 else None])
        elif b"\r\ntransfer-encoding: chunked" in lowered:
            self._is_chunked = True
        else:
            raise WireError("an answer has neither a length nor chunks")

    def _counted(self, data: bytes, start: int) -> bytes:
        body = data[start:] if start else data
        if len(body) > self._remaining:
            raise WireError("more bytes came than the answer's length says")
        self._remaining -= len(body)
        self.is_complete = not self._remaining
        return body

    def _chunks(self, data: bytes, start: int) -> bytes:
        """Whole chunks; what is left of an unfinished one waits for the next bytes."""
        blocks = []
        while True:
            line_end = data.find(b"\r\n", start)
            if line_end < 0:
                break
            try:
                size = int(data[start:line_end].partition(b";")[0], 16)
            except ValueError as exc:
                raise WireError(f"this is no chunk: {data[start : start + 20]!r}") from exc
            end = line_end + 2 + size + 2
            if end > len(data):
                break
            if data[end - 2 : end] != b"\r\n":
                raise WireError("a chunk is longer than it says")
            if not size:
                if end != len(data):
                    raise WireError("bytes came that nobody had asked for")
                self.is_complete = True
                start = end
                break
            blocks.append(data[line_end + 2 : end - 2])
            start = end
        self._rest = data[start:]
        return blocks[0] if len(blocks) == 1 else b"".join(blocks)


class TokenCounter:
    """Counts the tokens of one event stream, whatever its blocks are, and checks its end."""

    __slots__ = ("_end", "_expected", "_rest", "tokens")

    def __init__(self, expected: int) -> None:
        self._expected = expected
        self._rest = b""
        self._end = b""
        self.tokens = 0

    def feed(self, block: bytes) -> int:
        """Count a block of the body; gives how many tokens were in it."""
        if self._rest:
            block = self._rest + block
            self._rest = b""
        if not block.endswith(b"\n"):
            cut = block.rfind(b"\n") + 1
            self._rest = block[cut:]
            block = block[:cut]
        found = block.count(_WORD_IN_EVENT)
        self.tokens += found
        if self.tokens >= self._expected:
            self._end += block
        return found

    def fault(self) -> str | None:
        """What is wrong with the stream as a whole, once it is over."""
        if self.tokens != self._expected:
            return f"a stream had {self.tokens} tokens instead of {self._expected}"
        if not _FINISH.search(self._end):
            return "a stream gave no finish_reason"
        if not _DONE.search(self._end):
            return "a stream did not end with [DONE]"
        return None


class _Message(msgspec.Struct):
    content: str


class _Choice(msgspec.Struct):
    message: _Message
    finish_reason: str


class _Answer(msgspec.Struct):
    choices: list[_Choice]


_answers = msgspec.json.Decoder(_Answer)


def fault_of_plain(status: int, body: bytes) -> str | None:
    """What is wrong with a plain answer; None when it is the one that the mock engine gives."""
    if status != 200:
        return fault_of_status(status, body)
    try:
        choices = _answers.decode(body).choices
    except msgspec.DecodeError as exc:
        return f"an answer is no chat completion: {exc}"
    if len(choices) != 1 or choices[0].message.content != PLAIN_TEXT:
        return "an answer has another text than the engine's"
    if choices[0].finish_reason != "stop":
        return f"an answer has the finish_reason {choices[0].finish_reason!r}"
    return None


def fault_of_status(status: int, body: bytes) -> str:
    return f"HTTP {status}: {body[:200].decode('utf-8', 'replace')}"
