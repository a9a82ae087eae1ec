"""What engines tell of their slots and their context, and what is said where that is wrong."""

from typing import Any

import pytest

from api_server.inference.dimensions import Dimensions, fault_of, told_by
from api_server.inference.engines import LLAMA_SERVER, VLLM


def props(slots: object, context: object) -> dict[str, Any]:
    return {"total_slots": slots, "default_generation_settings": {"n_ctx": context}}


@pytest.mark.parametrize(
    ("answer", "told"),
    [
        (props(4, 2048), Dimensions(4, 2048)),
        (props("4", None), Dimensions()),
        ({"total_slots": 4}, Dimensions(4, None)),
        ({}, Dimensions()),
    ],
)
def test_llama_server_tells_both(answer: dict[str, Any], told: Dimensions) -> None:
    assert told_by(LLAMA_SERVER, "m", answer) == told


@pytest.mark.parametrize(
    ("listed", "context"),
    [
        ([{"id": "m", "max_model_len": 8192}], 8192),
        ([{"id": "other", "max_model_len": 1}, {"id": "m", "max_model_len": 8192}], 8192),
        ([{"id": "called-otherwise", "max_model_len": 8192}], 8192),
        ([{"id": "m"}], None),
        ([], None),
        ("nonsense", None),
    ],
)
def test_vllm_tells_its_context(listed: object, context: int | None) -> None:
    assert told_by(VLLM, "m", {"data": listed}) == Dimensions(None, context)


@pytest.mark.parametrize(
    ("found", "expected", "is_right"),
    [
        ((32, 4096), (32, 4096), True),
        ((32, 4096), (32, None), True),
        ((32, 4096), (None, 4096), True),
        ((32, 4096), (32, 4000), True),  # rounded up
        ((32, 4096), (32, 3840), False),
        ((32, 4095), (32, 4096), False),
        ((31, 4096), (32, 4096), False),
        ((33, 4096), (32, 4096), False),
        ((None, None), (32, 4096), False),
    ],
)
def test_what_differs_is_refused(
    found: tuple[int | None, int | None],
    expected: tuple[int | None, int | None],
    is_right: bool,
) -> None:
    fault = fault_of(LLAMA_SERVER, "llama-cpp:8080", Dimensions(*found), Dimensions(*expected))
    assert (fault is None) is is_right


@pytest.mark.parametrize(
    ("engine", "found", "expected", "sentence"),
    [
        (LLAMA_SERVER, (4, 2048), (32, 4096), "runs 4 slots of 2048 tokens, not the 32 of 4096"),
        (LLAMA_SERVER, (1, 2048), (32, None), "runs 1 slot of 2048 tokens, not the 32 of ENGINE_S"),
        (LLAMA_SERVER, (None, None), (32, None), "does not tell its slots"),
        (VLLM, (None, 2048), (32, 4096), "runs a context of 2048 tokens, not the 32 of 4096"),
        (VLLM, (None, 2048), (None, 4096), "not the 4096 tokens of ENGINE_CONTEXT_TOKENS"),
    ],
)
def test_the_sentence_says_what_is_and_what_should_be(
    engine: Any, found: tuple[Any, Any], expected: tuple[Any, Any], sentence: str
) -> None:
    fault = fault_of(engine, "llama-cpp:8080", Dimensions(*found), Dimensions(*expected))
    assert fault is not None
    assert fault.startswith("llama-cpp:8080 ")
    assert sentence in fault


def test_an_engine_that_need_not_tell_may_be_silent() -> None:
    assert fault_of(VLLM, "vllm:8000", Dimensions(), Dimensions(32, 4096)) is None
