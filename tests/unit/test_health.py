"""When this gateway should get requests."""

import pytest

from api_server.inference.catalogue import Model
from api_server.inference.engines import LLAMA_SERVER, OPENAI
from api_server.services.health import can_serve, humanize_seconds

A = Model(id="a", engine=LLAMA_SERVER, replicas=("http://127.0.0.1:1",))
B = Model(id="b", engine=LLAMA_SERVER, replicas=("http://127.0.0.1:2",), fallbacks=("a", "c"))
CLOUD = Model(id="c", engine=OPENAI, replicas=("https://x",), location="cloud")
OTHER_CLOUD = Model(id="d", engine=OPENAI, replicas=("https://y",), location="cloud")


@pytest.mark.parametrize(
    ("models", "well", "expected"),
    [
        ([A], "a", True),
        ([A], "", False),
        ([A, B, CLOUD], "ab", True),
        ([A, B, CLOUD], "a", True),
        ([A, B, CLOUD], "bc", False),
        ([A, B, CLOUD], "", False),
        ([CLOUD, OTHER_CLOUD], "d", True),
        ([CLOUD, OTHER_CLOUD], "", False),
    ],
)
def test_each_model_here_must_be_answered_by_itself_or_a_fallback(
    models: list[Model], well: str, expected: bool
) -> None:
    ready = {model.id: model.id in well for model in models}
    assert can_serve(models, ready) is expected


def test_seconds_for_people() -> None:
    assert humanize_seconds(0.4) == "0 seconds"
    assert humanize_seconds(93784) == "1 day, 2 hours, 3 minutes"
