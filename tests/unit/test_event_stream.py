"""What of an engine's blocks is an event, what is an error, and what is neither."""

import pytest

from api_server.errors import InferenceError
from api_server.inference.handlers.event_stream import until_error

OBJECT = b'data: {"choices":[{"delta":{"content":"a {b}"}}]}\n\n'
PROBLEM = b'data: {"error":{"message":"out of memory"}}\n\n'


@pytest.mark.parametrize(
    "block",
    [
        OBJECT,
        OBJECT * 3,
        OBJECT + b"data: [DONE]\n\n",
        b": ping\n\n" + OBJECT,
        b"data: null\n\n" + OBJECT,
        b"event: message\n" + OBJECT,
        b'data:{"choices":[]}\n\n',
        b'data: {"choices":[{"delta":{"content":"}\\n\\ndata: <<<>>>"}}]}\n\n',
        b'data: {"choices":[{"delta":{"content":"\\"error\\""}}]}\n\n',
    ],
)
def test_events_pass(block: bytes) -> None:
    assert until_error(block, "id") == (block, None)


@pytest.mark.parametrize("bad", [PROBLEM, b"data: <<<>>>\n\n", b'data: {"cho\n\n', b"data: x}\n\n"])
@pytest.mark.parametrize("before", [b"", OBJECT, b": ping\n\n"])
@pytest.mark.parametrize("after", [b"", OBJECT, b"data: [DONE]\n\n"])
def test_what_is_an_error_or_no_event_is_found(before: bytes, bad: bytes, after: bytes) -> None:
    good, error = until_error(before + bad + after, "id")
    assert isinstance(error, InferenceError)
    assert good == (before if before == OBJECT else b""), "what came before it is not lost"
