"""What a body must look like, and what becomes of it on the way to an engine."""

import json
from typing import Any

import pytest

from api_server.errors import InvalidRequestError
from api_server.inference.catalogue import Model
from api_server.inference.engines import LLAMA_SERVER, OPENAI
from api_server.services.requests import parse_chat, parse_embeddings, parse_text
from api_server.services.upstream import embeddings_bodies, generation_body

MESSAGES = [{"role": "user", "content": "hi"}]


def body(**fields: Any) -> bytes:
    return json.dumps({"model": "m", "messages": MESSAGES} | fields).encode()


def model(engine: Any = LLAMA_SERVER, **defaults: float) -> Model:
    return Model(id="m", engine=engine, replicas=("http://127.0.0.1:1",), defaults=defaults)


def sent(raw: bytes, to: Model | None = None) -> dict[str, Any]:
    generation = parse_chat(raw)
    result: dict[str, Any] = json.loads(generation_body(generation, to or model(), as_stream=True))
    return result


def test_upstream_is_always_a_stream_with_usage() -> None:
    fields = sent(body())
    assert fields["stream"] is True
    assert fields["stream_options"] == {"include_usage": True}
    assert sent(body(stream=False))["stream"] is True


def test_unknown_fields_pass_untouched() -> None:
    fields = sent(body(top_k=3, grammar='root ::= "a"', nested={"a": [1, None, "ü"]}))
    assert fields["top_k"] == 3
    assert fields["grammar"] == 'root ::= "a"'
    assert fields["nested"] == {"a": [1, None, "ü"]}


def test_defaults_lie_below_the_clients_fields() -> None:
    assert sent(body())["temperature"] == 1.0
    assert sent(body(), model(temperature=0.3))["temperature"] == 0.3
    assert sent(body(temperature=0.9), model(temperature=0.3))["temperature"] == 0.9
    assert sent(body(temperature=None), model(temperature=0.3))["temperature"] == 0.3


def test_only_llama_server_gets_its_sampling_reset() -> None:
    assert sent(body())["min_p"] == 0.0
    assert "min_p" not in sent(body(), model(OPENAI))


@pytest.mark.parametrize("field", ["n_predict", "n_cmpl", "verbose", "id_slot", "lora"])
def test_fields_that_reach_past_the_gateway_are_refused(field: str) -> None:
    with pytest.raises(InvalidRequestError) as caught:
        sent(body(**{field: 1}))
    assert caught.value.param == field
    assert sent(body(**{field: 1}), model(OPENAI))[field] == 1


def test_newer_name_of_the_token_limit_wins() -> None:
    fields = sent(body(max_tokens=2, max_completion_tokens=50))
    assert fields["max_tokens"] == 50
    assert "max_completion_tokens" not in fields


def test_usage_is_wanted_only_when_asked_for() -> None:
    assert not parse_chat(body(stream=True)).wants_usage
    with_usage = body(stream=True, stream_options={"include_usage": True})
    assert parse_chat(with_usage).wants_usage


@pytest.mark.parametrize(
    ("raw", "param", "fragment"),
    [
        (b"", None, "not valid JSON"),
        (b"{", None, "not valid JSON"),
        (b"[]", None, "must be a JSON object"),
        (b'"x"', None, "must be a JSON object"),
        (b'{"model": "\xff"}', None, "not valid JSON"),
        (b"[" * 100_000, None, ""),
        (b'{"model":"m","messages":' + b"[" * 100_000, None, ""),
        (b'{"messages": [{"role":"user","content":"x"}]}', "model", "model is required"),
        (body(model=""), "model", "model"),
        (body(model=3), "model", "expected 'str', got 'int'"),
        (body(messages=[]), "messages", "messages"),
        (body(messages="hi"), "messages", "messages"),
        (body(messages=[{"content": "x"}]), "messages[0].role", "is required"),
        (body(messages=[{"role": "robot", "content": "x"}]), "messages[0].role", "'robot'"),
        (body(max_tokens=-1), "max_tokens", ">= 1"),
        (body(max_tokens=2.5), "max_tokens", "expected 'int"),
        (body(temperature=3), "temperature", "<= 2"),
        (body(temperature="hot"), "temperature", "got 'str'"),
        (body(tools=[1]), "tools[0]", "got 'int'"),
        (body(tools=[{"type": "x"}]), "tools[0].type", "'x'"),
        (body(tools=[{"type": "function", "function": {}}]), "tools[0].function.name", "required"),
        (body(max_tokens=2**63), "max_tokens", ""),
        (body(seed=2**80), "seed", ""),
        (body(tool_choice="required"), "tool_choice", "needs tools"),
        (
            body(tool_choice={"type": "function", "function": {"name": "f"}}),
            "tool_choice",
            "not among",
        ),
        (
            body(messages=[{"role": "user", "content": [{"text": "x"}]}]),
            "messages[0].content[0].type",
            "",
        ),
        (
            body(messages=[{"role": "user", "content": [{"type": "text", "text": 5}]}]),
            "messages[0].content[0].text",
            "",
        ),
        (body(messages=[{"role": "user", "content": "x", "name": 5}]), "messages[0].name", ""),
        (
            body(messages=[{"role": "assistant", "tool_calls": [{}]}]),
            "messages[0].tool_calls[0].function",
            "",
        ),
        (body(tool_choice="maybe"), "tool_choice", "'maybe'"),
        (body(tool_choice={"type": "function"}), "tool_choice.function", "is required"),
        (body(response_format={"type": "xml"}), "response_format.type", "'xml'"),
        (body(n=0), "n", ">= 1"),
        (body(stop=["a"] * 65), "stop", "length <= 64"),
        (body(top_logprobs=21), "top_logprobs", "<= 20"),
        (body(stream_options={"include_usage": True}), "stream_options", "stream: true"),
    ],
)
def test_bad_bodies_name_the_field(raw: bytes, param: str | None, fragment: str) -> None:
    with pytest.raises(InvalidRequestError) as caught:
        parse_chat(raw)
    assert caught.value.param == param
    assert fragment in caught.value.message


FUNCTION = {"type": "function", "function": {"name": "f"}}
OTHER = {"type": "function", "function": {"name": "g"}}


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("audio", {"voice": "x"}),
        ("modalities", ["text", "audio"]),
        ("web_search_options", {}),
        ("prediction", {"type": "content"}),
        ("functions", []),
        ("function_call", "auto"),
        ("reasoning_effort", "low"),
        ("verbosity", "high"),
        ("store", True),
        ("service_tier", "flex"),
    ],
)
def test_what_the_engine_cannot_honour_is_refused_by_name(field: str, value: Any) -> None:
    with pytest.raises(InvalidRequestError) as caught:
        sent(body(**{field: value}))
    assert caught.value.param == field
    assert field in caught.value.message


@pytest.mark.parametrize(
    ("field", "value"),
    [("modalities", ["text"]), ("store", False), ("service_tier", "auto"), ("user", "u")],
)
def test_what_changes_nothing_passes(field: str, value: Any) -> None:
    assert sent(body(**{field: value}))[field] == value


def test_other_engines_judge_openai_fields_themselves() -> None:
    fields = sent(body(reasoning_effort="low", max_completion_tokens=5), model(OPENAI))
    assert fields["reasoning_effort"] == "low"
    assert fields["max_completion_tokens"] == 5


def test_a_demanded_function_is_the_only_one_the_engine_sees() -> None:
    raw = body(tools=[FUNCTION, OTHER], tool_choice=OTHER)
    fields = sent(raw)
    assert fields["tools"] == [OTHER]
    assert fields["tool_choice"] == "required"
    untouched = sent(raw, model(OPENAI))
    assert (untouched["tools"], untouched["tool_choice"]) == ([FUNCTION, OTHER], OTHER)


def test_log_probabilities_are_asked_for_in_the_engines_words() -> None:
    assert sent(body(logprobs=True))["top_logprobs"] == 1
    assert sent(body(logprobs=True, top_logprobs=3))["top_logprobs"] == 3
    generation = parse_text(text_body(logprobs=2))
    fields = json.loads(generation_body(generation, model(), as_stream=True))
    assert fields["n_probs"] == 2
    assert "logprobs" not in fields


def test_log_probabilities_beside_tools_are_refused() -> None:
    with pytest.raises(InvalidRequestError) as caught:
        parse_chat(body(logprobs=True, tools=[FUNCTION]))
    assert caught.value.param == "logprobs"
    with pytest.raises(InvalidRequestError) as caught:
        parse_chat(body(top_logprobs=2))
    assert caught.value.param == "top_logprobs"


def text_body(**fields: Any) -> bytes:
    return json.dumps({"model": "m", "prompt": "x"} | fields).encode()


def test_text_completions_end_after_16_tokens_unless_told_otherwise() -> None:
    def limit(raw: bytes, **defaults: float) -> Any:
        upstream = generation_body(parse_text(raw), model(**defaults), as_stream=True)
        return json.loads(upstream)["max_tokens"]

    assert limit(text_body()) == 16
    assert limit(text_body(max_tokens=3)) == 3
    assert limit(text_body(), max_tokens=99) == 99
    assert "max_tokens" not in sent(body())


@pytest.mark.parametrize(("field", "value"), [("echo", True), ("suffix", "x"), ("best_of", 2)])
def test_text_fields_that_cannot_be_honoured_are_refused(field: str, value: Any) -> None:
    generation = parse_text(text_body(**{field: value}))
    with pytest.raises(InvalidRequestError) as caught:
        generation_body(generation, model(), as_stream=True)
    assert caught.value.param == field


def test_plain_upstream_keeps_the_request_plain() -> None:
    raw = generation_body(parse_chat(body()), model(OPENAI), as_stream=False)
    assert "stream" not in json.loads(raw)


@pytest.mark.parametrize(
    ("value", "count"),
    [("a", 1), (["a", "b"], 2), ([1, 2, 3], 1), ([[1], [2, 3]], 2)],
)
def test_prompts_and_inputs_are_counted(value: Any, count: int) -> None:
    assert parse_text(text_body(prompt=value)).prompts == count
    assert parse_embeddings(json.dumps({"model": "m", "input": value}).encode()).inputs == count


@pytest.mark.parametrize("value", [[], [""], "", [[]], [1, "a"], [1.5], [None], [True]])
def test_inputs_of_no_known_form_are_refused(value: Any) -> None:
    with pytest.raises(InvalidRequestError) as caught:
        parse_embeddings(json.dumps({"model": "m", "input": value}).encode())
    assert caught.value.param == "input"


def test_too_many_inputs_are_refused() -> None:
    with pytest.raises(InvalidRequestError, match="2049 items"):
        parse_embeddings(json.dumps({"model": "m", "input": ["a"] * 2049}).encode())


def test_dimensions_stay_here() -> None:
    job = parse_embeddings(b'{"model": "x", "input": "a", "dimensions": 3, "user": "u"}')
    assert job.dimensions == 3
    (body,) = embeddings_bodies(job, model())
    assert json.loads(body) == {"model": "m", "input": "a", "user": "u"}


def test_more_inputs_than_slots_go_up_in_parts() -> None:
    inputs = [["a", "b"][n % 2] * (n + 1) for n in range(9)]
    job = parse_embeddings(json.dumps({"model": "m", "input": inputs}).encode())
    parts = [json.loads(body)["input"] for body in embeddings_bodies(job, model())]
    assert [len(part) for part in parts] == [4, 4, 1]
    assert [each for part in parts for each in part] == inputs


def test_a_grammar_that_would_end_the_engine_is_refused() -> None:
    with pytest.raises(InvalidRequestError) as caught:
        sent(body(grammar="root ::= " + "(" * 1001))
    assert caught.value.param == "grammar"


def test_seeds_are_those_that_the_engine_tells_from_chance() -> None:
    assert sent(body(seed=7))["seed"] == 7
    assert sent(body(seed=-1))["seed"] == 2**32 - 2
    assert sent(body(seed=2**32 - 1))["seed"] == 0
    assert sent(body(seed=-1), model(OPENAI))["seed"] == -1


def test_an_engine_that_must_not_call_tools_does_not_see_them() -> None:
    raw = body(tools=[FUNCTION], tool_choice="none", parallel_tool_calls=True)
    assert not {"tools", "tool_choice", "parallel_tool_calls"} & sent(raw).keys()
    assert sent(raw, model(OPENAI))["tool_choice"] == "none"
