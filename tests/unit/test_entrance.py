"""What a request is reserved, and what of it stays counted when it is over."""

import json
from dataclasses import replace
from typing import Any

import pytest

from api_server.inference.catalogue import Model
from api_server.inference.engines import LLAMA_SERVER
from api_server.observability.record import Phase, RequestRecord
from api_server.services.entrance import UNSAID_ANSWER_TOKENS, Visit, tokens_of
from api_server.services.quotas.reservation import Reservation
from api_server.services.requests import Generation, parse_chat, parse_text
from api_server.services.usage import guessed_prompt_tokens

MODEL = Model(id="m", engine=LLAMA_SERVER, replicas=("http://127.0.0.1:1",))


class Kept(Reservation):
    """Remembers what it was told."""

    __slots__ = ("told",)

    def __init__(self) -> None:
        self.told: list[object] = []

    def settle(self, used_tokens: int | None) -> None:
        self.told.append(used_tokens)

    def cancel(self) -> None:
        self.told.append("cancelled")

    def release(self) -> None:
        self.told.append("released")


@pytest.mark.parametrize(
    ("phase", "cache", "tokens", "told"),
    [
        ("reading", None, (None, None), "cancelled"),
        ("queued", None, (None, None), "cancelled"),
        ("connecting", None, (None, None), None),
        ("generating", None, (7, 5), 12),
        ("generating", None, (7, None), 7),
        ("generating", "miss", (7, 5), 12),
        ("generating", "hit", (7, 5), None),
    ],
)
def test_what_stays_counted(
    phase: Phase, cache: Any, tokens: tuple[int | None, int | None], told: object
) -> None:
    record = RequestRecord("req_1", "POST", "/v1/chat/completions")
    record.phase, record.cache = phase, cache
    record.prompt_tokens, record.completion_tokens = tokens
    reservation = Kept()
    Visit(reservation).end(record)
    assert reservation.told == [told, "released"]


def test_an_answer_that_broke_off_untold_keeps_all_that_was_reserved() -> None:
    record = RequestRecord("req_1", "POST", "/v1/chat/completions")
    record.phase = "generating"
    reservation = Kept()
    Visit(reservation).end(record)
    assert reservation.told == ["released"]


def chat(**fields: Any) -> Generation:
    messages = [{"role": "user", "content": "hi"}]
    return parse_chat(json.dumps({"model": "m", "messages": messages} | fields).encode())


def test_all_answers_to_all_prompts_are_reserved() -> None:
    prompt = guessed_prompt_tokens(chat().fields)
    assert tokens_of(chat(max_tokens=10), MODEL) == prompt + 10
    assert tokens_of(chat(max_tokens=10, n=3), MODEL) == prompt + 30
    assert tokens_of(chat(), MODEL) == prompt + UNSAID_ANSWER_TOKENS
    assert tokens_of(chat(), replace(MODEL, max_output_tokens=50)) == prompt + 50
    body = {"model": "m", "prompt": ["a", "b"], "max_tokens": 10, "n": 2}
    texts = parse_text(json.dumps(body).encode())
    assert tokens_of(texts, MODEL) == guessed_prompt_tokens(texts.fields, 2) + 40
