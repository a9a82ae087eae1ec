"""The rows of the table of engines: what they refuse, rename and reset."""

import json
from typing import Any

import pytest

from api_server.errors import InvalidRequestError
from api_server.inference.catalogue import Model
from api_server.inference.engines import (
    ENGINES,
    GATEWAY,
    MAX_SERVE,
    OPENAI,
    TOGETHER,
    VLLM,
    Engine,
)
from api_server.inference.handlers.openai_body import body_of
from api_server.inference.schemas import GenerationParams, InferenceRequest
from api_server.services.requests import parse_chat, parse_text
from api_server.services.upstream import generation_body

MESSAGES = [{"role": "user", "content": "hi"}]
TOOL = {"type": "function", "function": {"name": "f"}}


def model(engine: Engine) -> Model:
    return Model(id="m", engine=engine, replicas=("http://127.0.0.1:1",))


def chat(engine: Engine, **fields: Any) -> dict[str, Any]:
    """What goes up for a chat with these fields."""
    generation = parse_chat(json.dumps({"model": "m", "messages": MESSAGES} | fields).encode())
    body: dict[str, Any] = json.loads(generation_body(generation, model(engine), as_stream=True))
    return body


def text(engine: Engine, **fields: Any) -> dict[str, Any]:
    """What goes up for a text completion with these fields."""
    generation = parse_text(json.dumps({"model": "m", "prompt": "hi"} | fields).encode())
    body: dict[str, Any] = json.loads(generation_body(generation, model(engine), as_stream=True))
    return body


def test_only_engines_whose_answers_pass_as_they_are_get_plain_requests() -> None:
    plain = {engine.name for engine in ENGINES.values() if engine.gets_plain_requests}
    assert {GATEWAY.name, VLLM.name} <= plain
    assert not {MAX_SERVE.name, TOGETHER.name, OPENAI.name} & plain
    assert MAX_SERVE.notices_departed_clients


@pytest.mark.parametrize("engine", [MAX_SERVE, VLLM, TOGETHER], ids=lambda engine: engine.name)
@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("audio", {"voice": "x"}),
        ("modalities", ["text", "audio"]),
        ("functions", []),
        ("prediction", {"type": "content"}),
        ("service_tier", "flex"),
        ("store", True),
        ("verbosity", "high"),
        ("web_search_options", {}),
    ],
)
def test_what_an_engine_would_ignore_is_refused_by_name(
    engine: Engine, field: str, value: Any
) -> None:
    with pytest.raises(InvalidRequestError, match=field) as caught:
        chat(engine, **{field: value})
    assert caught.value.param == field
    chat(OPENAI, **{field: value})


@pytest.mark.parametrize(
    ("field", "fields"),
    [
        ("n", {"n": 2}),
        ("logit_bias", {"logit_bias": {"5": -100}}),
        ("reasoning_effort", {"reasoning_effort": "low"}),
        ("tool_choice", {"tools": [TOOL], "tool_choice": "required"}),
        ("tool_choice", {"tools": [TOOL], "tool_choice": TOOL}),
        ("parallel_tool_calls", {"tools": [TOOL], "parallel_tool_calls": False}),
        ("chat_template_kwargs", {"chat_template_kwargs": {"chat_template": "x"}}),
        ("prompt_tokens", {"prompt_tokens": [99999]}),
        ("messages", {"messages": [{"role": "user", "content": [{"type": "input_audio"}]}]}),
    ],
)
def test_max_serve_refuses_in_a_chat(field: str, fields: dict[str, Any]) -> None:
    with pytest.raises(InvalidRequestError, match=field) as caught:
        chat(MAX_SERVE, **fields)
    assert caught.value.param == field


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("echo", True),
        ("suffix", "x"),
        ("best_of", 2),
        ("logprobs", 0),
        ("logprobs", 1),
        ("prompt", [5, 6]),
        ("prompt", [[5], [6]]),
        ("prompt", ["a", "b"]),
    ],
)
def test_max_serve_refuses_in_a_text(field: str, value: Any) -> None:
    with pytest.raises(InvalidRequestError, match=field) as caught:
        text(MAX_SERVE, **{field: value})
    assert caught.value.param == field


def test_max_serve_takes_what_it_can() -> None:
    assert chat(MAX_SERVE, logprobs=True)["top_logprobs"] == 1
    assert chat(MAX_SERVE, n=1, tools=[TOOL], tool_choice="auto")["tools"] == [TOOL]
    parts = [{"type": "text", "text": "hi"}, {"type": "image_url", "image_url": {"url": "x"}}]
    chat(MAX_SERVE, messages=[{"role": "user", "content": parts}])
    assert text(MAX_SERVE, prompt=["one"])["prompt"] == ["one"]
    assert text(MAX_SERVE, max_completion_tokens=5)["max_tokens"] == 5


def test_max_serve_gets_openais_sampling_and_no_seed_that_means_chance() -> None:
    body = chat(MAX_SERVE)
    assert (body["temperature"], body["top_k"]) == (1.0, -1)
    assert chat(MAX_SERVE, top_k=5)["top_k"] == 5
    seeds = [0, 1, -1, 2**63 - 1, -(2**63)]
    sent = [chat(MAX_SERVE, seed=seed)["seed"] for seed in seeds]
    assert all(1 <= seed < 2**63 for seed in sent)
    assert sent[1] == 1
    assert [chat(OPENAI, seed=seed)["seed"] for seed in seeds] == seeds


@pytest.mark.parametrize("field", ["priority", "request_id", "kv_transfer_params", "chat_template"])
def test_vllm_gets_nothing_that_reaches_past_the_gateway(field: str) -> None:
    with pytest.raises(InvalidRequestError) as caught:
        chat(VLLM, **{field: "x"})
    assert caught.value.param == field


def test_vllm_judges_what_it_knows() -> None:
    fields = {"n": 2, "logit_bias": {"5": 1}, "tools": [TOOL], "tool_choice": TOOL, "seed": -1}
    fields |= {"reasoning_effort": "low", "max_completion_tokens": 5, "top_k": 3, "min_p": 0.1}
    assert fields.items() <= chat(VLLM, **fields).items()
    assert chat(VLLM)["repetition_penalty"] == 1.0
    assert text(VLLM, prompt=[[5], [6]], echo=True, logprobs=2)["prompt"] == [[5], [6]]


def test_together_has_its_own_names_and_log_probabilities() -> None:
    assert chat(TOGETHER, max_completion_tokens=5)["max_tokens"] == 5
    assert chat(TOGETHER, top_k=3, min_p=0.1, repetition_penalty=1.1)["min_p"] == 0.1
    assert chat(TOGETHER, logprobs=False)["logprobs"] is False
    for ask, value in ((chat, True), (text, 0), (text, 2)):
        with pytest.raises(InvalidRequestError) as caught:
            ask(TOGETHER, logprobs=value)
        assert caught.value.param == "logprobs"


@pytest.mark.parametrize("engine", [MAX_SERVE, VLLM, TOGETHER], ids=lambda engine: engine.name)
def test_the_library_knows_their_names_for_what_openai_lacks(engine: Engine) -> None:
    params = GenerationParams(top_k=5, repetition_penalty=1.1, max_new_tokens=7)
    body = json.loads(
        body_of(InferenceRequest(model_id="m", prompt="hi", params=params), model(engine))
    )
    assert (body["top_k"], body["repetition_penalty"], body["max_tokens"]) == (5, 1.1, 7)
