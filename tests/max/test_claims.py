"""What the table of engines says of MAX, asked of MAX itself.

One that fails after an update of MAX means that its row can be shorter.
"""

import json
from pathlib import Path
from typing import Any

import httpx
import pytest

from tests.e2e.test_parameters import CAPITAL, CHAT, GET_WEATHER, STORY, TEXT, assert_valid_plain
from tests.max.engine import Engine, Installed, running_engine

CHATTING: dict[str, Any] = {"model": "tiny", "messages": CAPITAL}
CONTINUING: dict[str, Any] = {"model": "tiny", "prompt": "The"}


def ask(engine: Engine, body: dict[str, Any]) -> httpx.Response:
    path = CHAT if "messages" in body else TEXT
    return httpx.post(f"{engine.url}{path}", json=body, timeout=60)


def text(engine: Engine, body: dict[str, Any]) -> str:
    choice = ask(engine, body).json()["choices"][0]
    return str(choice["text"] if "text" in choice else choice["message"]["content"])


@pytest.mark.parametrize(
    "fields",
    [
        {"audio": {"voice": "alloy", "format": "wav"}, "modalities": ["text", "audio"]},
        {"function_call": "auto", "functions": [{"name": "look"}]},
        {"logit_bias": {str(token): -100 for token in range(1000)}},
        {"prediction": {"type": "content", "content": "x"}, "moderation": {"model": "x"}},
        {"reasoning_effort": "high", "verbosity": "low", "web_search_options": {}},
        {"store": True, "service_tier": "flex"},
        {"n": 2},
    ],
    ids=lambda fields: next(iter(fields)),
)
def test_it_ignores_these_in_a_chat(engine: Engine, fields: dict[str, Any]) -> None:
    answer = ask(engine, CHATTING | fields)
    assert answer.status_code == 200
    assert len(answer.json()["choices"]) == 1
    assert text(engine, CHATTING | fields) == text(engine, CHATTING)


@pytest.mark.parametrize(
    "fields", [{"n": 2}, {"best_of": 2}, {"echo": True}, {"suffix": "x"}, {"logit_bias": {"5": 9}}]
)
def test_it_ignores_these_in_a_text(engine: Engine, fields: dict[str, Any]) -> None:
    assert len(ask(engine, CONTINUING | fields).json()["choices"]) == 1
    body = CONTINUING | {"max_tokens": 12}
    assert text(engine, body | fields) == text(engine, body)


@pytest.mark.parametrize(
    "choice", ["required", {"type": "function", "function": {"name": "get_weather"}}]
)
def test_it_demands_no_tool(engine: Engine, choice: Any) -> None:
    body = CHATTING | {"tools": [GET_WEATHER]}
    assert text(engine, body | {"tool_choice": choice}) == text(engine, body)
    assert "get_weather" not in text(engine, body)


def test_it_drops_parts_that_it_does_not_know(engine: Engine) -> None:
    audio = {"type": "input_audio", "input_audio": {"data": "AA==", "format": "wav"}}
    body = {"model": "tiny", "messages": [{"role": "user", "content": [audio]}]}
    assert ask(engine, body).status_code == 200


def test_its_default_is_that_of_the_model(engine: Engine) -> None:
    """This one's generation_config.json says do_sample: false; a temperature changes nothing."""
    body = CONTINUING | {"max_tokens": 12}
    assert len({text(engine, body | {"temperature": 1, "seed": n}) for n in range(1, 7)}) == 1
    free = {"temperature": 1, "top_k": -1}
    assert len({text(engine, body | free | {"seed": n}) for n in range(1, 7)}) > 1


def test_min_p_changes_nothing_on_a_cpu(engine: Engine) -> None:
    body = CONTINUING | {"max_tokens": 12, "temperature": 1, "top_k": -1}
    plain = [text(engine, body | {"seed": n}) for n in range(1, 7)]
    assert len(set(plain)) > 1
    assert [text(engine, body | {"seed": n, "min_p": 0.9}) for n in range(1, 7)] == plain


def test_seed_0_is_chance(engine: Engine) -> None:
    body = CONTINUING | {"max_tokens": 12, "temperature": 1, "top_k": -1}
    assert len({text(engine, body | {"seed": 0}) for _ in range(6)}) > 1
    assert len({text(engine, body | {"seed": 1}) for _ in range(6)}) == 1


def test_its_streams_show_the_stop_sequence(engine: Engine) -> None:
    stop = "small robot. It l"
    body = {"model": "tiny", "messages": STORY, "stop": stop}
    assert stop not in text(engine, body)
    events = ask(engine, body | {"stream": True}).text.split("\n\n")
    chunks = [json.loads(e.removeprefix("data: ")) for e in events if e.startswith("data: {")]
    assert stop in "".join(chunk["choices"][0]["delta"]["content"] for chunk in chunks)


@pytest.mark.parametrize("body", [CHATTING, CONTINUING | {"max_tokens": 3}])
def test_its_plain_answers_are_not_of_openais_shape(engine: Engine, body: dict[str, Any]) -> None:
    with pytest.raises(AssertionError, match="not a Create"):
        assert_valid_plain(CHAT if "messages" in body else TEXT, ask(engine, body).json())


def test_log_probabilities_of_a_text_have_no_tokens(engine: Engine) -> None:
    answer = ask(engine, CONTINUING | {"logprobs": 2, "max_tokens": 2}).json()
    assert answer["choices"][0]["logprobs"]["tokens"] is None
    chat = ask(engine, CHATTING | {"logprobs": True, "top_logprobs": 0}).json()
    assert chat["choices"][0]["logprobs"]["content"] == []


def test_several_prompts_cannot_be_streamed(engine: Engine) -> None:
    body = {"model": "tiny", "prompt": ["The", "A"], "max_tokens": 3}
    assert len(ask(engine, body).json()["choices"]) == 2
    assert ask(engine, body | {"stream": True}).status_code == 500


@pytest.mark.parametrize(
    "killer",
    [{"prompt": [99999]}, {"prompt": "The", "echo": True, "logprobs": 2}],
    ids=["a token id outside the vocabulary", "echo with log probabilities"],
)
def test_this_ends_it(
    installed: Installed, engine: Engine, model: Path, tmp_path: Path, killer: dict[str, Any]
) -> None:
    assert engine.process.poll() is None, "the session's own lives on"
    with running_engine(installed, model, tmp_path) as victim:
        ask(victim, {"model": "tiny", "max_tokens": 2} | killer)
        assert victim.process.wait(30) != 0
