"""Every parameter of OpenAI's reference that the stack honours, against the real engine.

Each request of the tables is asked in four ways, plain and streamed, sync and async: the answers
wear the reference's shapes and say the same. The tests below the tables say what a parameter means.
"""

import json
import time
from collections.abc import Iterator
from typing import Any

import httpx
import jsonschema
import openai
import pytest

from tests.engine_probe import EngineProbe
from tests.folded import Json, assert_equal, from_plain, from_stream, read_events
from tests.local_stack import LocalStack
from tests.wire import assert_valid

CHAT = "/v1/chat/completions"
TEXT = "/v1/completions"


def user(text: str) -> list[Json]:
    return [{"role": "user", "content": text}]


def function(name: str, description: str) -> Json:
    city = {"type": "object", "properties": {"city": {"type": "string"}}, "required": ["city"]}
    return {
        "type": "function",
        "function": {"name": name, "description": description, "parameters": city},
    }


CAPITAL = user("What is the capital of France?")
STORY = user("Tell me a story.")
WEATHER = user("What is the weather in Paris?")
GET_WEATHER = function("get_weather", "Get the weather for a city")
GET_TIME = function("get_time", "Get the time in a city")
PLACE: Json = {
    "type": "object",
    "properties": {"name": {"type": "string", "maxLength": 9}, "size": {"enum": ["big", "small"]}},
    "required": ["name", "size"],
    "additionalProperties": False,
}
PLACE_FORMAT = {
    "type": "json_schema",
    "json_schema": {"name": "place", "strict": True, "schema": PLACE},
}
PROMPT = "<|start_header_id|>user<|end_header_id|>\n\n{}<|eot_id|>"
PROMPT += "<|start_header_id|>assistant<|end_header_id|>\n\n"
HELLO_PROMPT = PROMPT.format("Hello!")
STORY_PROMPT = PROMPT.format("Tell me a story.")

CHATS: dict[str, Json] = {
    "nothing else": {"messages": CAPITAL},
    "developer": {"messages": [{"role": "developer", "content": "Be kind."}, *CAPITAL]},
    "parts": {"messages": [{"role": "user", "content": [{"type": "text", "text": "Hello!"}]}]},
    "top_p": {"messages": CAPITAL, "top_p": 0.5},
    "stop, a string": {"messages": STORY, "stop": "the"},
    "stop, a list": {"messages": STORY, "stop": ["zzz", " robot", "sea"]},
    "stop at once": {"messages": CAPITAL, "stop": "The"},
    "stop across tokens": {"messages": STORY, "stop": "small robot. It l"},
    "stop that never comes": {"messages": CAPITAL, "stop": "Pari!"},
    "max_tokens": {"messages": STORY, "max_tokens": 7},
    "max_completion_tokens": {"messages": STORY, "max_completion_tokens": 7},
    "n": {"messages": CAPITAL, "n": 3},
    "seed": {"messages": STORY, "seed": 7, "temperature": 0.5},
    "presence_penalty": {"messages": STORY, "presence_penalty": 2, "max_tokens": 60},
    "frequency_penalty": {"messages": STORY, "frequency_penalty": 2, "max_tokens": 60},
    "logit_bias": {"messages": CAPITAL, "logit_bias": {"300": -100, "400": 1}},
    "logprobs": {"messages": CAPITAL, "logprobs": True},
    "top_logprobs": {"messages": CAPITAL, "logprobs": True, "top_logprobs": 5},
    "top_logprobs and stop": {
        "messages": STORY,
        "logprobs": True,
        "top_logprobs": 2,
        "stop": " robot. It",
    },
    "top_logprobs and n": {"messages": CAPITAL, "logprobs": True, "top_logprobs": 1, "n": 2},
    "json_object": {"messages": CAPITAL, "response_format": {"type": "json_object"}},
    "json_schema": {"messages": CAPITAL, "response_format": PLACE_FORMAT},
    "text format": {"messages": CAPITAL, "response_format": {"type": "text"}},
    "tools": {"messages": WEATHER, "tools": [GET_WEATHER]},
    "tools that are not needed": {"messages": CAPITAL, "tools": [GET_WEATHER]},
    "tool_choice none": {"messages": WEATHER, "tools": [GET_WEATHER], "tool_choice": "none"},
    "tool_choice auto": {"messages": WEATHER, "tools": [GET_WEATHER], "tool_choice": "auto"},
    "tool_choice required": {
        "messages": WEATHER,
        "tools": [GET_WEATHER, GET_TIME],
        "tool_choice": "required",
    },
    "tool_choice named": {
        "messages": WEATHER,
        "tools": [GET_WEATHER, GET_TIME],
        "tool_choice": {"type": "function", "function": {"name": "get_time"}},
    },
    "parallel_tool_calls": {
        "messages": WEATHER,
        "tools": [GET_WEATHER, GET_TIME],
        "parallel_tool_calls": True,
    },
    "no parallel_tool_calls": {
        "messages": WEATHER,
        "tools": [GET_WEATHER, GET_TIME],
        "parallel_tool_calls": False,
    },
    "tools and n": {"messages": WEATHER, "tools": [GET_WEATHER], "n": 2},
}

TEXTS: dict[str, Json] = {
    "a prompt": {"prompt": HELLO_PROMPT},
    "several prompts": {"prompt": [HELLO_PROMPT, STORY_PROMPT], "max_tokens": 5},
    "tokens": {"prompt": [5, 6, 7], "max_tokens": 5},
    "lists of tokens": {"prompt": [[5, 6, 7], [8]], "max_tokens": 5},
    "stop, a string": {"prompt": STORY_PROMPT, "stop": "a small"},
    "stop, a list": {"prompt": STORY_PROMPT, "stop": ["zzz", " was"]},
    "max_tokens": {"prompt": STORY_PROMPT, "max_tokens": 40},
    "n": {"prompt": HELLO_PROMPT, "n": 3},
    "n of several prompts": {"prompt": [HELLO_PROMPT, STORY_PROMPT], "n": 2, "max_tokens": 5},
    "top_p": {"prompt": STORY_PROMPT, "top_p": 0.5},
    "seed": {"prompt": STORY_PROMPT, "seed": 7, "temperature": 0.5},
    "penalties": {"prompt": STORY_PROMPT, "presence_penalty": 1, "frequency_penalty": 1},
    "logit_bias": {"prompt": HELLO_PROMPT, "logit_bias": {"300": -100}},
    "logprobs": {"prompt": HELLO_PROMPT, "logprobs": 3},
    "no alternatives": {"prompt": HELLO_PROMPT, "logprobs": 0},
    "logprobs of several": {
        "prompt": [HELLO_PROMPT, STORY_PROMPT],
        "logprobs": 2,
        "n": 2,
        "max_tokens": 4,
    },
}

REQUESTS = [
    *(pytest.param(CHAT, request, id=f"chat: {name}") for name, request in CHATS.items()),
    *(pytest.param(TEXT, request, id=f"text: {name}") for name, request in TEXTS.items()),
]
COMMON: Json = {"model": "tiny", "extra_body": {"cache_prompt": False}}
"""Without the engine's cache of prompts: what it reused would stand in the usage, and differ."""


def method(client: Any, path: str) -> Any:
    """The official client's method for a route; any table's row can be its arguments."""
    return client.chat.completions if path == CHAT else client.completions


def ask(stack: LocalStack, path: str, **fields: Any) -> Json:
    """A plain answer without a client, which must be one."""
    response = httpx.post(f"{stack.url}{path}", json={"model": "tiny"} | fields, timeout=60)
    assert response.status_code == 200, response.text
    answer: Json = response.json()
    assert_valid_plain(path, answer)
    return answer


def chat(stack: LocalStack, **fields: Any) -> Json:
    """The first choice of a plain chat."""
    choice: Json = ask(stack, CHAT, **fields)["choices"][0]
    return choice


def assert_valid_plain(path: str, answer: Json) -> None:
    is_chat = path == CHAT
    assert_valid("CreateChatCompletionResponse" if is_chat else "CreateCompletionResponse", answer)


def assert_valid_events(path: str, chunks: list[Json]) -> None:
    """The reference forgets that a text completion's `finish_reason` is null until its end."""
    for chunk in chunks:
        if path == CHAT:
            assert_valid("CreateChatCompletionStreamResponse", chunk)
            continue
        choices = [{**c, "finish_reason": c["finish_reason"] or "stop"} for c in chunk["choices"]]
        assert_valid("CreateCompletionResponse", {**chunk, "choices": choices})


@pytest.fixture(scope="module")
def engine(stack: LocalStack) -> Iterator[EngineProbe]:
    with EngineProbe(stack) as probe:
        yield probe


@pytest.mark.parametrize(("path", "request_"), REQUESTS)
async def test_plain_and_streamed_sync_and_async_say_the_same(
    stack: LocalStack,
    client: openai.OpenAI,
    async_client: openai.AsyncOpenAI,
    path: str,
    request_: Json,
) -> None:
    with_usage = {"stream": True, "stream_options": {"include_usage": True}}
    raw = method(client, path).with_raw_response.create(**COMMON, **request_)
    answer = json.loads(raw.text)
    assert_valid_plain(path, answer)
    plain = from_plain(answer)

    body = {"model": "tiny", "cache_prompt": False, **request_, **with_usage}
    response = httpx.post(f"{stack.url}{path}", json=body, timeout=60)
    assert response.headers["content-type"].startswith("text/event-stream")
    chunks = read_events(response.text)
    assert_valid_events(path, chunks)
    assert_equal(from_stream(chunks), plain)

    async_plain = await method(async_client, path).create(**COMMON, **request_)
    assert_equal(from_plain(async_plain.model_dump(mode="json", exclude_unset=True)), plain)
    events = await method(async_client, path).create(**COMMON, **request_, **with_usage)
    async_chunks = [event.model_dump(mode="json", exclude_unset=True) async for event in events]
    assert_equal(from_stream(async_chunks), plain)


@pytest.mark.parametrize("path", [CHAT, TEXT])
def test_a_stream_tells_its_usage_only_when_asked(stack: LocalStack, path: str) -> None:
    request = {"messages": CAPITAL} if path == CHAT else {"prompt": HELLO_PROMPT}
    for options in ({}, {"stream_options": {"include_usage": False}}):
        body = {"model": "tiny", "stream": True} | request | options
        chunks = read_events(httpx.post(f"{stack.url}{path}", json=body).text)
        assert all(chunk["choices"] and not chunk.get("usage") for chunk in chunks)


def test_all_chunks_of_a_chat_have_the_same_time(stack: LocalStack) -> None:
    """The reference says so of `created`; this stream begins shortly before a new second."""
    request = {"messages": STORY, "max_tokens": 1000, "ignore_eos": True, "stream": True}
    time.sleep(-(time.time() + 0.15) % 1)
    begun = int(time.time())
    response = httpx.post(f"{stack.url}{CHAT}", json={"model": "tiny"} | request, timeout=60)
    assert int(time.time()) > begun
    assert len({chunk["created"] for chunk in read_events(response.text)}) == 1


@pytest.mark.parametrize("stop", ["robot", ["zzz", "robot", "sea"]])
def test_stop_ends_the_answer_before_itself(stack: LocalStack, stop: Any) -> None:
    full = chat(stack, messages=STORY)["message"]["content"]
    assert "robot" in full
    cut = chat(stack, messages=STORY, stop=stop)
    assert cut["message"]["content"] == full.split("robot")[0]
    assert cut["finish_reason"] == "stop"


@pytest.mark.parametrize(
    "limits", [{"max_tokens": 5}, {"max_completion_tokens": 5}, {"max_completion_tokens": 1}]
)
def test_limits_are_exact(stack: LocalStack, limits: dict[str, int]) -> None:
    answer = ask(stack, CHAT, messages=STORY, **limits)
    assert answer["usage"]["completion_tokens"] == next(iter(limits.values()))
    assert answer["choices"][0]["finish_reason"] == "length"


def test_the_newer_limit_wins_over_the_older(stack: LocalStack) -> None:
    answer = ask(stack, CHAT, messages=STORY, max_tokens=9, max_completion_tokens=4)
    assert answer["usage"]["completion_tokens"] == 4


def test_text_completions_end_after_16_tokens_and_chats_with_the_model(stack: LocalStack) -> None:
    assert ask(stack, TEXT, prompt=STORY_PROMPT)["usage"]["completion_tokens"] == 16
    story = ask(stack, CHAT, messages=STORY)
    assert story["usage"]["completion_tokens"] > 50
    assert story["choices"][0]["finish_reason"] == "stop"


def test_n_choices_count_their_prompt_once(stack: LocalStack) -> None:
    one = ask(stack, CHAT, messages=CAPITAL)["usage"]
    three = ask(stack, CHAT, messages=CAPITAL, n=3)
    assert len(three["choices"]) == 3
    assert three["usage"]["prompt_tokens"] == one["prompt_tokens"]
    assert three["usage"]["completion_tokens"] == 3 * one["completion_tokens"]
    hello, story = (ask(stack, TEXT, prompt=p)["usage"] for p in (HELLO_PROMPT, STORY_PROMPT))
    both = ask(stack, TEXT, prompt=[HELLO_PROMPT, STORY_PROMPT], n=2)
    assert both["usage"]["prompt_tokens"] == hello["prompt_tokens"] + story["prompt_tokens"]


def test_several_prompts_keep_their_order(stack: LocalStack) -> None:
    hello, story = (ask(stack, TEXT, prompt=p) for p in (HELLO_PROMPT, STORY_PROMPT))
    both = ask(stack, TEXT, prompt=[HELLO_PROMPT, STORY_PROMPT], n=2)
    texts = [choice["text"] for choice in both["choices"]]
    assert texts == [hello["choices"][0]["text"]] * 2 + [story["choices"][0]["text"]] * 2


def test_n_choices_may_differ(stack: LocalStack) -> None:
    answer = ask(stack, CHAT, messages=STORY, n=4, temperature=2, seed=1, max_tokens=20)
    assert len({choice["message"]["content"] for choice in answer["choices"]}) > 1


def test_a_seed_repeats_an_answer_and_others_vary_it(stack: LocalStack) -> None:
    def answer(seed: int) -> str:
        text: str = ask(stack, TEXT, prompt="The", temperature=1, seed=seed, cache_prompt=False)[
            "choices"
        ][0]["text"]
        return text

    answers = {seed: answer(seed) for seed in range(6)}
    assert {seed: answer(seed) for seed in answers} == answers
    assert len(set(answers.values())) > 1


def test_penalties_weigh_on_what_was_said(stack: LocalStack) -> None:
    plain = chat(stack, messages=STORY)["message"]["content"]
    varied = chat(stack, messages=STORY, frequency_penalty=2)["message"]["content"]
    assert varied != plain
    repeating = ask(stack, TEXT, prompt="The", frequency_penalty=-2, max_tokens=60)
    text = repeating["choices"][0]["text"]
    present = ask(stack, TEXT, prompt="The", presence_penalty=2, max_tokens=60)
    assert len(set(text.split())) < len(set(present["choices"][0]["text"].split()))


def test_logit_bias_forbids_and_forces_tokens(stack: LocalStack, engine: EngineProbe) -> None:
    before = chat(stack, messages=CAPITAL, logprobs=True, top_logprobs=2)
    first = before["logprobs"]["content"][0]["token"]
    forbidden = engine.tokens(first)
    assert len(forbidden) == 1
    without = chat(stack, messages=CAPITAL, logit_bias={str(forbidden[0]): -100})
    assert not without["message"]["content"].startswith(first)
    forced = engine.tokens("Hello")[:1]
    only = chat(stack, messages=CAPITAL, logit_bias={str(forced[0]): 100}, max_tokens=2)
    assert only["message"]["content"] == "HelloHello"


@pytest.mark.parametrize("top", [0, 1, 20])
def test_log_probabilities_of_a_chat(stack: LocalStack, top: int) -> None:
    choice = chat(stack, messages=CAPITAL, logprobs=True, top_logprobs=top)
    tokens = choice["logprobs"]["content"]
    text = choice["message"]["content"]
    assert b"".join(bytes(token["bytes"]) for token in tokens).decode() == text
    for token in tokens:
        alternatives = token["top_logprobs"]
        assert len(alternatives) == top
        values = [alternative["logprob"] for alternative in alternatives]
        assert values == sorted(values, reverse=True)
        assert all(value <= 0 for value in [*values, token["logprob"]])
        if top:  # at temperature 0 the likeliest is taken
            assert alternatives[0]["token"] == token["token"]
            assert alternatives[0]["logprob"] == pytest.approx(token["logprob"], abs=1e-4)
    assert (
        "logprobs" not in chat(stack, messages=CAPITAL)
        or not (chat(stack, messages=CAPITAL)["logprobs"])
    )


@pytest.mark.parametrize("top", [0, 1, 5])
def test_log_probabilities_of_a_text(stack: LocalStack, top: int) -> None:
    choice = ask(stack, TEXT, prompt=HELLO_PROMPT, logprobs=top)["choices"][0]
    logprobs = choice["logprobs"]
    assert set(logprobs) == {"tokens", "token_logprobs", "top_logprobs", "text_offset"}
    text = choice["text"]
    assert "".join(logprobs["tokens"]) == text
    begin = logprobs["text_offset"][0]
    for token, offset in zip(logprobs["tokens"], logprobs["text_offset"], strict=True):
        assert text[offset - begin :].startswith(token)
    for alternatives in logprobs["top_logprobs"]:
        assert len(alternatives) == top
    assert all(value <= 0 for value in logprobs["token_logprobs"])
    assert ask(stack, TEXT, prompt=HELLO_PROMPT)["choices"][0]["logprobs"] is None


@pytest.mark.parametrize(
    "question", ["What is the capital of France?", "What is the colour of the sky? Answer in JSON."]
)
def test_json_object_is_an_object(stack: LocalStack, question: str) -> None:
    choice = chat(
        stack, messages=user(question), response_format={"type": "json_object"}, max_tokens=200
    )
    assert choice["finish_reason"] == "stop"
    assert isinstance(json.loads(choice["message"]["content"]), dict)


@pytest.mark.parametrize("temperature", [0, 1])
@pytest.mark.parametrize("question", ["What is the capital of France?", "Hello!"])
def test_json_schema_is_kept(stack: LocalStack, question: str, temperature: float) -> None:
    choice = chat(
        stack, messages=user(question), response_format=PLACE_FORMAT, temperature=temperature
    )
    assert choice["finish_reason"] == "stop"
    jsonschema.validate(json.loads(choice["message"]["content"]), PLACE)


def test_parsed_answers_of_the_official_client(client: openai.OpenAI) -> None:
    answer = method(client, CHAT).create(
        model="tiny", messages=CAPITAL, response_format=PLACE_FORMAT
    )
    assert set(json.loads(answer.choices[0].message.content)) == {"name", "size"}


def called(choice: Json) -> list[str]:
    """The names of the functions called; the arguments of each keep its schema."""
    calls = choice["message"].get("tool_calls") or []
    assert len({call["id"] for call in calls}) == len(calls)
    for call in calls:
        arguments = json.loads(call["function"]["arguments"])
        jsonschema.validate(arguments, GET_WEATHER["function"]["parameters"])
    return [call["function"]["name"] for call in calls]


def test_tool_choice_none_calls_nothing(stack: LocalStack) -> None:
    choice = chat(stack, messages=WEATHER, tools=[GET_WEATHER], tool_choice="none")
    assert called(choice) == []
    assert choice["finish_reason"] == "stop"
    assert choice["message"]["content"]
    assert "tool_call" not in choice["message"]["content"], "not even as text"


@pytest.mark.parametrize("more", [{}, {"tool_choice": "auto"}])
def test_tool_choice_auto_leaves_it_to_the_model(stack: LocalStack, more: Json) -> None:
    choice = chat(stack, messages=WEATHER, tools=[GET_WEATHER], **more)
    assert called(choice) == ["get_weather"]
    assert choice["finish_reason"] == "tool_calls"
    assert called(chat(stack, messages=user("Hello!"), tools=[GET_WEATHER], **more)) == []


ONE_OF_THEM: list[Any] = [
    "required",
    {"type": "function", "function": {"name": "get_weather"}},
    {"type": "function", "function": {"name": "get_time"}},
]


@pytest.mark.parametrize("choice", ONE_OF_THEM)
def test_a_demanded_tool_is_called(stack: LocalStack, choice: Any) -> None:
    tools = [GET_WEATHER, GET_TIME]
    answer = chat(stack, messages=WEATHER, tools=tools, tool_choice=choice)
    wanted = "get_weather" if choice == "required" else choice["function"]["name"]
    assert called(answer) == [wanted]
    assert answer["finish_reason"] in ("tool_calls", "stop")


@pytest.mark.parametrize("choice", ONE_OF_THEM)
def test_a_demanded_tool_binds_when_nothing_asks_for_it(stack: LocalStack, choice: Any) -> None:
    """The engine forbids the end before a call; so small a model may talk on until its limit."""
    tools = [GET_WEATHER, GET_TIME]
    answer = chat(stack, messages=user("Hello!"), tools=tools, tool_choice=choice, max_tokens=200)
    assert called(answer) or answer["finish_reason"] == "length"


@pytest.mark.parametrize("is_parallel", [True, False])
def test_parallel_tool_calls_false_is_one_call_at_most(
    stack: LocalStack, is_parallel: bool
) -> None:
    choice = chat(
        stack,
        messages=WEATHER,
        tools=[GET_WEATHER, GET_TIME],
        parallel_tool_calls=is_parallel,
    )
    names = called(choice)
    assert names == ["get_weather"] if not is_parallel else "get_weather" in names


def test_results_of_tools_are_read(stack: LocalStack) -> None:
    call = chat(stack, messages=WEATHER, tools=[GET_WEATHER])["message"]
    result = {
        "role": "tool",
        "tool_call_id": call["tool_calls"][0]["id"],
        "content": '{"temperature": 21, "sky": "sunny"}',
    }
    answer = chat(stack, messages=[*WEATHER, call, result], tools=[GET_WEATHER])
    assert "21" in answer["message"]["content"]


def test_engines_own_fields_reach_it(stack: LocalStack) -> None:
    grammar = 'root ::= "yes" | "no"'
    assert chat(stack, messages=CAPITAL, grammar=grammar)["message"]["content"] in ("yes", "no")
    text = ask(stack, TEXT, prompt="The", grammar=grammar)["choices"][0]["text"]
    assert text in ("yes", "no")
    hot = {"prompt": "The", "temperature": 2, "seed": 5, "cache_prompt": False}
    greedy = ask(stack, TEXT, prompt="The", cache_prompt=False)["choices"][0]["text"]
    assert ask(stack, TEXT, **hot)["choices"][0]["text"] != greedy
    assert ask(stack, TEXT, **hot, top_k=1)["choices"][0]["text"] == greedy
    assert ask(stack, TEXT, **hot, min_p=1)["choices"][0]["text"] == greedy
    penalty = {"repeat_penalty": 1.8, "repeat_last_n": 64}
    assert ask(stack, TEXT, prompt="The", **penalty)["choices"][0]["text"] != greedy


def test_the_clients_stream_helper_takes_several_choices(client: openai.OpenAI) -> None:
    """It wants the first events of the choices in the order of their index."""
    messages: Any = CAPITAL
    for _ in range(5):
        with client.chat.completions.stream(model="tiny", messages=messages, n=3) as stream:
            for _event in stream:
                pass
            answer = stream.get_final_completion()
        assert [choice.index for choice in answer.choices] == [0, 1, 2]
        assert len({choice.message.content for choice in answer.choices}) == 1


@pytest.mark.parametrize(("field", "value"), [("prompt", ["a"] * 5), ("n", 5)])
def test_more_answers_than_slots_are_refused(stack: LocalStack, field: str, value: Any) -> None:
    body = {"model": "tiny", "prompt": "a", "max_tokens": 1} | {field: value}
    response = httpx.post(f"{stack.url}{TEXT}", json=body, timeout=30)
    assert response.status_code == 400
    assert response.json()["error"]["param"] == field
