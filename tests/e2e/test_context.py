"""A chat that does not fit into the context: a 400 with both numbers, or it is shortened."""

from collections.abc import Iterator
from typing import Any

import httpx
import openai
import pytest

from tests.engine_probe import EngineProbe
from tests.folded import Json, from_stream, read_events
from tests.local_stack import LocalStack, changed_stack_file, local_stack
from tests.wire import assert_valid

CONTEXT_TOKENS = 2048
CHAT = "/v1/chat/completions"
TEXT = "/v1/completions"
SYSTEM: Json = {"role": "system", "content": "You are a helpful assistant."}
QUESTION: Json = {"role": "user", "content": "What is the capital of France?"}


@pytest.fixture(scope="module")
def dropping(stack: LocalStack, tmp_path_factory: pytest.TempPathFactory) -> Iterator[LocalStack]:
    """A stack of its own that shortens; the session's came up, so the engine is built."""
    assert stack.is_ready()
    folder = tmp_path_factory.mktemp("dropping")
    config = changed_stack_file(folder, local={"context_overflow": "drop_oldest"})
    with local_stack(folder / "data", STACK_CONFIG=config) as running:
        running.wait_ready(30)
        yield running


@pytest.fixture(scope="module")
def engine(dropping: LocalStack) -> Iterator[EngineProbe]:
    with EngineProbe(dropping) as probe:
        yield probe


def prompt_tokens(engine: EngineProbe, messages: list[Json]) -> int:
    """What the engine counts for these messages."""
    body = {"messages": messages}
    prompt = engine.client.post("/apply-template", json=body).raise_for_status().json()["prompt"]
    options = {"content": prompt, "add_special": True, "parse_special": True}
    tokens = engine.client.post("/tokenize", json=options).raise_for_status().json()["tokens"]
    return len(tokens)


def said(number: int, words: int) -> Json:
    """One of the alternating messages of a long talk; each has a length of its own."""
    role = "assistant" if number % 2 else "user"
    return {"role": role, "content": f"{number} " + "word " * (words + number % 7)}


def ask(stack: LocalStack, messages: list[Json], **fields: Any) -> httpx.Response:
    body = {"model": "tiny", "messages": messages, "max_tokens": 20} | fields
    return httpx.post(f"{stack.url}{CHAT}", json=body, timeout=60)


@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize("path", [CHAT, TEXT])
def test_too_long_a_prompt_is_400_with_both_numbers(
    stack: LocalStack, path: str, stream: bool
) -> None:
    long = "word " * 3000
    message = {"role": "user", "content": long}
    with EngineProbe(stack) as engine:
        chat_tokens, text_tokens = prompt_tokens(engine, [message]), len(engine.tokens(long))
    body: Json = {"messages": [message]} if path == CHAT else {"prompt": long}
    body |= {"model": "tiny", "stream": stream}
    response = httpx.post(f"{stack.url}{path}", json=body, timeout=60)
    assert response.status_code == 400
    assert_valid("ErrorResponse", response.json())
    error = response.json()["error"]
    assert error["code"] == "context_length_exceeded"
    assert error["type"] == "invalid_request_error"
    assert error["param"] == ("messages" if path == CHAT else "prompt")
    assert str(CONTEXT_TOKENS) in error["message"]
    counted = {chat_tokens} if path == CHAT else {text_tokens, text_tokens + 1}
    assert any(str(count) in error["message"] for count in counted), counted


def test_nothing_is_dropped_where_nobody_asked_for_it(
    stack: LocalStack, client: openai.OpenAI
) -> None:
    long: Any = [SYSTEM, *(said(number, 100) for number in range(40)), QUESTION]
    with pytest.raises(openai.BadRequestError) as caught:
        client.chat.completions.create(model="tiny", messages=long)
    assert caught.value.code == "context_length_exceeded"
    assert "x-dropped-messages" not in ask(stack, [SYSTEM, QUESTION]).headers


@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize("words", [30, 100, 700])
def test_oldest_messages_are_dropped(
    dropping: LocalStack, engine: EngineProbe, words: int, stream: bool
) -> None:
    talk = [said(number, words) for number in range(5000 // words // 2 * 2)]
    more = {"stream": True, "stream_options": {"include_usage": True}} if stream else {}
    response = ask(dropping, [SYSTEM, *talk, QUESTION], **more)
    assert response.status_code == 200, response.text
    dropped = int(response.headers["x-dropped-messages"])
    usage = from_stream(read_events(response.text))["usage"] if stream else response.json()["usage"]
    assert 0 < dropped <= len(talk)
    assert usage["prompt_tokens"] == prompt_tokens(engine, [SYSTEM, *talk[dropped:], QUESTION])
    assert usage["prompt_tokens"] + 20 <= CONTEXT_TOKENS, "max_tokens would not fit"
    if words < 500:
        assert usage["prompt_tokens"] > CONTEXT_TOKENS / 3, "no more is dropped than must be"


def test_the_answer_is_to_the_last_question(dropping: LocalStack) -> None:
    talk = [said(number, 100) for number in range(40)]
    shortened = ask(dropping, [SYSTEM, *talk, QUESTION])
    assert int(shortened.headers["x-dropped-messages"]) > 0
    # The model was trained on short prompts only, so that a fitting few of old messages confuse it.
    alone = ask(dropping, [SYSTEM, {"role": "user", "content": "word " * 2500}, QUESTION])
    assert alone.headers["x-dropped-messages"] == "1"
    assert "Paris" in alone.json()["choices"][0]["message"]["content"]


def test_a_chat_that_fits_is_left_alone(dropping: LocalStack, engine: EngineProbe) -> None:
    messages = [SYSTEM, said(0, 20), said(1, 20), QUESTION]
    response = ask(dropping, messages)
    assert "x-dropped-messages" not in response.headers
    assert response.json()["usage"]["prompt_tokens"] == prompt_tokens(engine, messages)


@pytest.mark.parametrize("rounds", range(6, 18))
def test_calls_of_tools_and_their_results_go_together(
    dropping: LocalStack, engine: EngineProbe, rounds: int
) -> None:
    talk: list[Json] = []
    for number in range(rounds):
        ids = [f"call_{number}_{part}" for part in range(2)]
        function = {"name": "get_weather", "arguments": '{"city": "Paris"}'}
        calls = [{"id": id_, "type": "function", "function": function} for id_ in ids]
        talk.append({"role": "user", "content": f"{number} " + "word " * 60})
        talk.append({"role": "assistant", "content": None, "tool_calls": calls})
        sunny = "sunny " * 40
        talk += [{"role": "tool", "tool_call_id": id_, "content": sunny} for id_ in ids]
        talk.append({"role": "assistant", "content": "It is sunny. " * (10 + number)})
    response = ask(dropping, [SYSTEM, *talk, QUESTION])
    assert response.status_code == 200, response.text
    dropped = int(response.headers.get("x-dropped-messages", "0"))
    kept = talk[dropped:]
    assert not kept or kept[0]["role"] != "tool", "a result lost its call"
    used = response.json()["usage"]["prompt_tokens"]
    assert used == prompt_tokens(engine, [SYSTEM, *kept, QUESTION])
    assert dropped or prompt_tokens(engine, [SYSTEM, *talk, QUESTION]) <= CONTEXT_TOKENS


def test_what_follows_the_last_user_message_stays(
    dropping: LocalStack, engine: EngineProbe
) -> None:
    function = {"name": "get_weather", "arguments": '{"city": "Paris"}'}
    asked = {"role": "user", "content": "What is the weather in Paris?"}
    call = {
        "role": "assistant",
        "content": None,
        "tool_calls": [{"id": "call_1", "type": "function", "function": function}],
    }
    result = {"role": "tool", "tool_call_id": "call_1", "content": '{"sky": "sunny"}'}
    old = [said(number, 2500) for number in range(2)]
    response = ask(dropping, [SYSTEM, *old, asked, call, result])
    assert response.status_code == 200, response.text
    assert response.headers["x-dropped-messages"] == "2"
    used = response.json()["usage"]["prompt_tokens"]
    assert used == prompt_tokens(engine, [SYSTEM, asked, call, result])


@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize("where", ["system", "last user message", "text completion"])
def test_what_still_does_not_fit_is_400(dropping: LocalStack, where: str, stream: bool) -> None:
    long = "word " * 3000
    old = [said(0, 30), said(1, 30)]
    if where == "text completion":
        body: Json = {"model": "tiny", "prompt": long, "stream": stream}
        response = httpx.post(f"{dropping.url}{TEXT}", json=body, timeout=60)
    elif where == "system":
        messages = [{"role": "system", "content": long}, *old, QUESTION]
        response = ask(dropping, messages, stream=stream)
    else:
        messages = [SYSTEM, *old, {"role": "user", "content": long}]
        response = ask(dropping, messages, stream=stream)
    assert response.status_code == 400
    assert "x-dropped-messages" not in response.headers
    error = response.json()["error"]
    assert error["code"] == "context_length_exceeded"
    assert str(CONTEXT_TOKENS) in error["message"]
