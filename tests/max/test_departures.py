"""A client that leaves ends MAX's work, by MAX's own count of the tokens it makes."""

import time
from typing import Any

import httpx
import pytest

from tests.e2e.test_parameters import CHAT, STORY
from tests.max.engine import CONTEXT_TOKENS, Engine

LONG: dict[str, Any] = {
    "model": "tiny",
    "messages": STORY,
    "temperature": 0,
    "ignore_eos": True,
    "max_tokens": CONTEXT_TOKENS - 50,
}
FREED_SECONDS = 0.5
STAY_SECONDS = 0.3


def leave_in_the_middle(url: str, *, stream: bool) -> None:
    """Ask for a long answer, and close the connection before it is there."""
    if not stream:
        with pytest.raises(httpx.ReadTimeout):
            httpx.post(f"{url}{CHAT}", json=LONG, timeout=STAY_SECONDS)
        return
    with httpx.stream("POST", f"{url}{CHAT}", json=LONG | {"stream": True}, timeout=10) as response:
        assert response.status_code == 200
        for number, _ in enumerate(response.iter_lines()):
            if number > 10:
                break


@pytest.mark.parametrize("stream", [False, True], ids=["plain", "streamed"])
@pytest.mark.parametrize("through", ["gateway", "MAX itself"])
def test_a_client_that_leaves_ends_the_work(
    gateway: str, engine: Engine, through: str, stream: bool
) -> None:
    url = gateway if through == "gateway" else engine.url
    begun = engine.generated_tokens()
    whole = httpx.post(f"{url}{CHAT}", json=LONG, timeout=60).json()["usage"]["completion_tokens"]
    assert whole == LONG["max_tokens"]
    before = engine.generated_tokens()
    assert before - begun == whole - 1, "its count is right: the first token is another step"

    leave_in_the_middle(url, stream=stream)
    time.sleep(FREED_SECONDS)
    after = engine.generated_tokens()
    assert before < after < before + whole - 1, "it had begun, and did not come to its end"
    time.sleep(2 * FREED_SECONDS)
    assert engine.generated_tokens() == after
