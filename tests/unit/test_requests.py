"""What a body must look like, and what becomes of it on the way to an engine."""

import json
from typing import Any

import pytest

from api_server.errors import InvalidRequestError
from api_server.inference.catalogue import Model
from api_server.inference.engines import LLAMA_SERVER, OPENAI
from api_server.services.requests import Kind, parse, upstream_body

MESSAGES = [{"role": "user", "content": "hi"}]


def body(**fields: Any) -> bytes:
    return json.dumps({"model": "m", "messages": MESSAGES} | fields).encode()


def model(engine: Any = LLAMA_SERVER, **defaults: float) -> Model:
    return Model(id="m", engine=engine, replicas=("http://127.0.0.1:1",), defaults=defaults)


def sent(raw: bytes, to: Model | None = None) -> dict[str, Any]:
    result: dict[str, Any] = json.loads(upstream_body(parse(Kind.CHAT, raw), to or model()))
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


@pytest.mark.parametrize("field", ["n_predict", "verbose", "id_slot", "lora"])
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
    assert not parse(Kind.CHAT, body(stream=True)).wants_usage
    with_usage = body(stream=True, stream_options={"include_usage": True})
    assert parse(Kind.CHAT, with_usage).wants_usage


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
        parse(Kind.CHAT, raw)
    assert caught.value.param == param
    assert fragment in caught.value.message


@pytest.mark.parametrize(
    ("field", "value"), [("echo", True), ("suffix", "x"), ("best_of", 2), ("logprobs", 2)]
)
def test_what_no_engine_honours_is_refused_by_name(field: str, value: Any) -> None:
    raw = json.dumps({"model": "m", "prompt": "x", field: value}).encode()
    with pytest.raises(InvalidRequestError) as caught:
        parse(Kind.TEXT, raw)
    assert caught.value.param == field
