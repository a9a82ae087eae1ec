"""The API through the front: the official client, a job, a client that leaves."""

import contextlib

import httpx
import openai
import pytest

from tests.compose.apps import make_app
from tests.compose.conftest import Stack
from tests.compose.load import body
from tests.compose.watching import Engine, eventually

pytestmark = pytest.mark.timeout(180)

LEAVING = 20
QUESTION = "What is the capital of France?"


def test_a_chat(client: openai.OpenAI) -> None:
    answer = client.chat.completions.create(
        model="tiny", messages=[{"role": "user", "content": QUESTION}], temperature=0
    )
    assert "Paris" in (answer.choices[0].message.content or "")
    assert answer.usage is not None
    assert answer.usage.completion_tokens > 0


def test_a_stream_says_the_same(client: openai.OpenAI) -> None:
    stream = client.chat.completions.create(
        model="tiny",
        messages=[{"role": "user", "content": QUESTION}],
        temperature=0,
        stream=True,
        stream_options={"include_usage": True},
    )
    events = list(stream)
    text = "".join(event.choices[0].delta.content or "" for event in events if event.choices)
    assert "Paris" in text
    assert events[-1].usage is not None


def test_embeddings(client: openai.OpenAI) -> None:
    answer = client.embeddings.create(model="all-minilm-l6-v2", input=["a cat", "a dog", "a bill"])
    cat, dog, bill = (each.embedding for each in answer.data)

    def likeness(one: list[float], other: list[float]) -> float:
        return sum(a * b for a, b in zip(one, other, strict=True))

    assert len(cat) == 384
    assert likeness(cat, dog) > likeness(cat, bill)


def test_the_models_are_those_that_serve(client: openai.OpenAI) -> None:
    assert {model.id for model in client.models.list()} >= {"tiny", "all-minilm-l6-v2"}


def test_without_a_key_nobody_is_served(stack: Stack) -> None:
    chat = body("hi", stream=False)
    answer = httpx.post(f"{stack.url}/v1/chat/completions", json=chat, timeout=10)
    assert answer.status_code == 401


def test_a_job_is_accepted_and_done(stack: Stack) -> None:
    types = {"explain": {"prompt": "{request}", "model": "tiny", "max_tokens": 16}}
    app = make_app(stack.project, "jobs", request_types=types)
    job = {"app_code": app["app_code"], "request_type": "explain", "request": QUESTION}
    with httpx.Client(base_url=stack.url, timeout=10) as http:
        accepted = http.post("/ai_request", json=job)
        assert accepted.status_code == 200, accepted.text
        path = f"/get_request/{accepted.json()['request_id']}"
        eventually(lambda: http.get(path).json()["status"] == "completed", 30, "the job is done")
        assert http.get(path).json()["response"]["model_used"] == "tiny"


def test_clients_that_leave_through_the_front_free_their_slots(stack: Stack) -> None:
    headers = {"authorization": f"Bearer {stack.key}"}
    endless = body("Tell me of it.", stream=True, max_tokens=450, ignore_eos=True)
    with Engine(stack.project) as engine:
        eventually(lambda: engine.busy_slots() == 0, 10, "the engine is idle")
        with contextlib.ExitStack() as clients:
            http = clients.enter_context(httpx.Client(base_url=stack.url, headers=headers))
            for _ in range(LEAVING):
                answer = http.stream("POST", "/v1/chat/completions", json=endless)
                assert clients.enter_context(answer).status_code == 200
            assert engine.busy_slots() > LEAVING / 2
        seconds = eventually(lambda: engine.busy_slots() == 0, 5, "the slots are free")
    assert seconds < 1
