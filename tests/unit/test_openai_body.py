"""What an engine is asked for, from a request of the library."""

import json
import math
from typing import Any

import pytest
from pydantic import ValidationError

from api_server.errors import ConfigurationError, InvalidRequestError
from api_server.inference.catalogue import Model
from api_server.inference.engines import GATEWAY, LLAMA_SERVER, OPENAI
from api_server.inference.handlers.openai_body import body_of, path_of, prefix_of
from api_server.inference.schemas import GenerationParams, InferenceRequest

MESSAGES = [{"role": "user", "content": "hi"}]


def model(**fields: Any) -> Model:
    given: dict[str, Any] = {"id": "m", "engine": LLAMA_SERVER, "replicas": ("http://x",)}
    return Model(**(given | fields))


def written(of: Model, params: GenerationParams | None = None, **fields: Any) -> dict[str, Any]:
    given: dict[str, Any] = {"prompt": "p"} if "messages" not in fields else {}
    request = InferenceRequest(
        model_id="m", params=params or GenerationParams(), **(given | fields)
    )
    body: dict[str, Any] = json.loads(body_of(request, of))
    return body


def test_a_prompt_is_a_completion_and_messages_are_a_chat() -> None:
    assert path_of(InferenceRequest(model_id="m", prompt="p")) == "/v1/completions"
    assert path_of(InferenceRequest(model_id="m", messages=MESSAGES)) == "/v1/chat/completions"
    assert written(model())["prompt"] == "p"
    tools = [{"type": "function", "function": {"name": "f"}}]
    body = written(model(), messages=MESSAGES, tools=tools)
    assert (body["messages"], body["tools"]) == (MESSAGES, tools)
    assert "prompt" not in body


def test_always_a_stream_with_usage() -> None:
    body = written(model())
    assert body["stream"] is True
    assert body["stream_options"] == {"include_usage": True}


def test_the_engine_knows_the_model_by_its_own_name() -> None:
    assert written(model())["model"] == "m"
    assert written(model(name_at_engine="org/M-8B"))["model"] == "org/M-8B"


def test_layers_from_the_engine_to_the_request() -> None:
    entry = model(defaults={"temperature": 0.1, "max_tokens": 9, "seed": 5})
    body = written(entry)
    assert (body["temperature"], body["max_tokens"], body["seed"]) == (0.1, 9, 5)
    assert (body["top_p"], body["min_p"]) == (1.0, 0.0)  # the engine's row
    body = written(entry, GenerationParams(temperature=0.9, max_new_tokens=20, top_p=0.5))
    assert (body["temperature"], body["max_tokens"], body["top_p"]) == (0.9, 20, 0.5)
    body = written(model())
    assert (body["temperature"], body["max_tokens"]) == (0.7, 256)


def test_none_leaves_the_choice_to_the_engine() -> None:
    body = written(model(), GenerationParams(temperature=None, max_new_tokens=None))
    assert body["temperature"] == 1.0  # of its row
    assert "max_tokens" not in body


@pytest.mark.parametrize(
    "params",
    [
        GenerationParams(do_sample=False, temperature=0.9, top_p=0.5, top_k=7),
        GenerationParams(temperature=0.0, top_p=0.5, top_k=7),
    ],
)
def test_greedy_is_temperature_zero_and_no_other_choice(params: GenerationParams) -> None:
    for entry in (
        model(defaults={"temperature": 1.0, "top_p": 0.3}),
        model(engine=OPENAI),  # has no top_k, and greedy needs none
    ):
        body = written(entry, params)
        assert body["temperature"] == 0.0
        assert not {"top_p", "top_k", "min_p"} & body.keys()


def test_each_engine_has_its_own_names() -> None:
    params = GenerationParams(top_k=5, repetition_penalty=1.2)
    body = written(model(), params)
    assert (body["top_k"], body["repeat_penalty"]) == (5, 1.2)
    assert "repetition_penalty" not in body
    assert written(model(engine=GATEWAY), GenerationParams(top_k=5))["top_k"] == 5


@pytest.mark.parametrize(
    ("engine", "name", "value"),
    [(OPENAI, "top_k", 5), (OPENAI, "repetition_penalty", 1.2), (GATEWAY, "repetition_penalty", 2)],
)
def test_what_the_engine_does_not_have_is_refused_by_name(
    engine: Any, name: str, value: float
) -> None:
    params = GenerationParams.model_validate({name: value})
    with pytest.raises(ConfigurationError, match=f"^{name} is {value}.*'m'.*{engine.name}"):
        written(model(engine=engine), params)


def test_a_value_that_changes_nothing_is_not_refused() -> None:
    body = written(model(engine=OPENAI), GenerationParams(top_k=0, repetition_penalty=1.0))
    assert not {"top_k", "repetition_penalty", "repeat_penalty"} & body.keys()


def test_the_limit_goes_by_the_name_that_the_route_and_the_engine_know() -> None:
    params = GenerationParams(max_new_tokens=7)
    assert written(model(), params, messages=MESSAGES)["max_tokens"] == 7
    chat = written(model(engine=OPENAI), params, messages=MESSAGES)
    assert chat["max_completion_tokens"] == 7
    assert "max_tokens" not in chat
    assert written(model(engine=OPENAI), params)["max_tokens"] == 7
    renamed = model(engine=OPENAI, defaults={"max_tokens": 5})
    assert written(renamed, messages=MESSAGES)["max_completion_tokens"] == 5


def test_the_models_limit_is_a_cap() -> None:
    capped = model(max_output_tokens=10)
    assert written(capped)["max_tokens"] == 10
    assert written(capped, GenerationParams(max_new_tokens=3))["max_tokens"] == 3
    assert written(capped, GenerationParams(max_new_tokens=None))["max_tokens"] == 10


def test_stop_sequences_stay_here_and_counts_are_asked_for() -> None:
    body = written(model(), stop_sequences=["END"])
    assert "stop" not in body
    assert body["timings_per_token"] is True
    assert "timings_per_token" not in written(model())
    assert "timings_per_token" not in written(model(engine=OPENAI), stop_sequences=["END"])


def test_what_is_no_json_is_the_callers_error() -> None:
    with pytest.raises(InvalidRequestError, match="cannot be written as JSON"):
        written(model(), messages=[{"role": "user", "content": object()}])


@pytest.mark.parametrize(
    "fields", [{"prompt": "a \ud800"}, {"messages": [{"role": "user", "content": "a \ud800"}]}]
)
def test_half_a_surrogate_pair_is_the_callers_error(fields: dict[str, Any]) -> None:
    with pytest.raises(InvalidRequestError, match=r"UTF-8: '\\ud800' is no letter"):
        written(model(), **fields)


def test_requests_of_one_conversation_share_a_prefix() -> None:
    def prefix(**fields: Any) -> bytes:
        return prefix_of(InferenceRequest(model_id="m", **fields))

    later = [*MESSAGES, {"role": "assistant", "content": "ho"}, {"role": "user", "content": "?"}]
    assert prefix(messages=MESSAGES) == prefix(messages=later)
    assert prefix(messages=[{"role": "user", "content": "other"}]) != prefix(messages=MESSAGES)
    assert prefix(prompt="a" * 300) == prefix(prompt="a" * 400) != prefix(prompt="b" * 300)
    assert prefix(messages=[{"content": "no role"}])


@pytest.mark.parametrize("name", ["temperature", "top_p", "repetition_penalty"])
@pytest.mark.parametrize("value", [math.inf, math.nan])
def test_numbers_that_json_does_not_have_are_refused(name: str, value: float) -> None:
    with pytest.raises(ValidationError, match=name):
        GenerationParams(**{name: value})
