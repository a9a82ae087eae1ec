"""Our own limits on what goes into a model and what comes out of it."""

import json
from typing import Any, Literal, cast

import pytest

from api_server.errors import ApiError, ContextLengthError, ResourceNotAvailableError
from api_server.inference.catalogue import Model
from api_server.inference.engines import LLAMA_SERVER, OPENAI, OPENAI_COMPATIBLE, Engine
from api_server.inference.estimating import estimate, may_exceed
from api_server.inference.wire import Call
from api_server.observability.metrics import Metrics
from api_server.observability.numbers import Numbers
from api_server.observability.record import RequestRecord
from api_server.services.admission import Gate
from api_server.services.fairness import NOBODY
from api_server.services.lane import Lane, Place
from api_server.services.limits import keep_within_limits
from api_server.services.requests import Generation, parse_chat, parse_text
from api_server.services.upstream import generation_body

SYSTEM = {"role": "system", "content": "Be brief."}
QUESTION = {"role": "user", "content": "And now?"}


class CountingWire:
    """Counts a token for each word of a chat, like an engine; or fails; or cannot."""

    def __init__(self, error: ApiError | None = None, *, can_count: bool = True) -> None:
        self.error = error
        self.can_count = can_count
        self.counted: list[int] = []

    async def count_tokens(self, call: Call) -> int | None:
        if self.error is not None:
            raise self.error
        if not self.can_count:
            return None
        messages = json.loads(call.body)["messages"]
        self.counted.append(sum(len(str(message["content"]).split()) for message in messages))
        return self.counted[-1]


def lane_of(
    wire: CountingWire,
    most: int | None = 100,
    overflow: Literal["error", "drop_oldest"] = "drop_oldest",
    most_out: int | None = None,
) -> Lane:
    model = Model(
        id="m",
        engine=LLAMA_SERVER,
        max_input_tokens=most,
        max_output_tokens=most_out,
        context_overflow=overflow,
    )
    return Lane(model, cast("Any", wire), Gate(1, 0), Metrics(["m"], Numbers()))


def chat(*messages: dict[str, str], **fields: Any) -> Generation:
    return parse_chat(json.dumps({"model": "m", "messages": messages} | fields).encode())


def talk(rounds: int, words: int = 20) -> list[dict[str, str]]:
    roles = ("user", "assistant")
    return [{"role": roles[n % 2], "content": f"{n} " + "word " * words} for n in range(rounds)]


def text(prompt: Any) -> Generation:
    return parse_text(json.dumps({"model": "m", "prompt": prompt}).encode())


async def keep(generation: Generation, lane: Lane) -> RequestRecord:
    record = RequestRecord("id", "POST", generation.kind.value)
    await keep_within_limits(generation, lane, Place(1, 0.0, 0.0, NOBODY, record), record)
    return record


def messages_of(generation: Generation) -> list[dict[str, str]]:
    found: list[dict[str, str]] = json.loads(bytes(generation.fields["messages"]))
    return found


@pytest.mark.parametrize("most", [None, 10_000])
async def test_what_cannot_be_too_long_is_not_counted(most: int | None) -> None:
    wire = CountingWire()
    await keep(chat(SYSTEM, *talk(20), QUESTION), lane_of(wire, most))
    assert wire.counted == []


async def test_a_long_chat_that_fits_by_the_engines_count_stays_whole() -> None:
    wire = CountingWire()
    generation = chat(SYSTEM, *talk(4), QUESTION)
    assert may_exceed(generation.fields, 100)
    record = await keep(generation, lane_of(wire))
    assert wire.counted == [4 * 21 + 4]
    assert (len(messages_of(generation)), record.dropped_messages) == (6, 0)


@pytest.mark.parametrize("can_count", [True, False])
async def test_the_oldest_messages_go_until_the_rest_fits(can_count: bool) -> None:
    wire = CountingWire(can_count=can_count)
    long = talk(50)
    generation = chat(SYSTEM, *long, QUESTION)
    record = await keep(generation, lane_of(wire, 300))
    dropped = record.dropped_messages
    assert messages_of(generation) == [SYSTEM, *long[dropped:], QUESTION]
    if can_count:
        assert 200 < wire.counted[-1] <= 300, "no more than must be"
    else:
        assert 200 < estimate(generation.fields).tokens <= 300


async def test_without_leave_to_drop_it_is_refused_with_both_numbers() -> None:
    with pytest.raises(ContextLengthError, match="holds 100 tokens, and your input has 424") as e:
        await keep(chat(SYSTEM, *talk(20), QUESTION), lane_of(CountingWire(), overflow="error"))
    assert e.value.param == "messages"
    assert "estimate" not in e.value.message


async def test_an_estimate_says_that_it_is_one() -> None:
    wire = CountingWire(can_count=False)
    with pytest.raises(ContextLengthError, match=r"input has \d+, by estimate"):
        await keep(chat(SYSTEM, *talk(40), QUESTION), lane_of(wire, overflow="error"))


async def test_what_may_not_go_is_refused_when_it_is_too_long() -> None:
    question = {"role": "user", "content": "word " * 200}
    wire = CountingWire()
    with pytest.raises(ContextLengthError, match="input has 202"):
        await keep(chat(SYSTEM, *talk(20), question), lane_of(wire))


async def test_an_engine_that_is_away_is_replaced_by_an_estimate() -> None:
    """Whoever asks it for the answer waits for it, and tells the client if it stays away."""
    wire = CountingWire(ResourceNotAvailableError("away"))
    generation = chat(SYSTEM, *talk(50), QUESTION)
    assert (await keep(generation, lane_of(wire, 300))).dropped_messages > 0


@pytest.mark.parametrize("prompt", ["word " * 200, ["a", "word " * 200], list(range(120))])
async def test_a_prompt_that_is_too_long_is_refused(prompt: Any) -> None:
    with pytest.raises(ContextLengthError, match="holds 100 tokens") as caught:
        await keep(text(prompt), lane_of(CountingWire()))
    assert caught.value.param == "prompt"
    assert ("estimate" in caught.value.message) is not isinstance(prompt[0], int)


async def test_many_prompts_are_each_as_long_as_they_are() -> None:
    await keep(text(["word " * 10] * 20), lane_of(CountingWire()))


@pytest.mark.parametrize(("asked", "expected"), [(None, 50), (20, 20), (99, 50)])
async def test_no_more_room_is_kept_for_an_answer_than_it_can_have(
    asked: int | None, expected: int
) -> None:
    generation = chat(QUESTION, max_tokens=asked)
    await keep(generation, lane_of(CountingWire(), most_out=50))
    assert generation.max_tokens == expected


def limits_sent(generation: Generation, engine: Engine, **defaults: Any) -> dict[str, Any]:
    model = Model(id="m", engine=engine, max_output_tokens=50, defaults=defaults)
    body = json.loads(generation_body(generation, model, as_stream=False))
    return {name: body[name] for name in ("max_tokens", "max_completion_tokens") if name in body}


@pytest.mark.parametrize(
    ("engine", "asked", "expected"),
    [
        (OPENAI, {}, {"max_completion_tokens": 50}),
        (OPENAI, {"max_tokens": 20}, {"max_tokens": 20}),
        (OPENAI, {"max_tokens": 99}, {"max_tokens": 50}),
        (OPENAI, {"max_completion_tokens": 99}, {"max_completion_tokens": 50}),
        (OPENAI_COMPATIBLE, {}, {"max_tokens": 50}),
        (OPENAI_COMPATIBLE, {"max_completion_tokens": 99}, {"max_tokens": 50}),
        (LLAMA_SERVER, {}, {"max_tokens": 50}),
        (LLAMA_SERVER, {"max_completion_tokens": 20}, {"max_tokens": 20}),
    ],
)
def test_answers_are_capped_under_the_name_that_the_engine_knows(
    engine: Engine, asked: dict[str, int], expected: dict[str, int]
) -> None:
    assert limits_sent(chat(QUESTION, **asked), engine) == expected


def test_defaults_are_capped_too_and_texts_have_their_own() -> None:
    assert limits_sent(chat(QUESTION), OPENAI, max_tokens=99) == {"max_tokens": 50}
    assert limits_sent(text("x"), OPENAI) == {"max_tokens": 16}


def test_a_model_goes_by_its_own_name_at_its_engine() -> None:
    model = Model(id="m", engine=OPENAI, name_at_engine="vendor/M")
    assert json.loads(generation_body(text("x"), model, as_stream=False))["model"] == "vendor/M"
