"""What a conversation asks for, and which model answers it."""

import json

import pytest

from api_server.errors import InvalidRequestError, NotAllowedError
from api_server.inference.catalogue import Catalogue, Model
from api_server.inference.engines import LLAMA_SERVER
from api_server.schemas.apps import App, Caller, Policy
from api_server.schemas.conversations import Wanted
from api_server.services.conversations.reading import choose_model, read_process

CATALOGUE = Catalogue([Model(name, LLAMA_SERVER, ("http://127.0.0.1:1",)) for name in ("m", "n")])


def caller(*models: str) -> Caller:
    return Caller(App("a", "a", Policy(models=list(models) or None)))


def test_the_last_message_is_the_one_to_answer() -> None:
    messages = [{"role": "user", "content": text} for text in ("one", "two")]
    assert read_process(json.dumps({"messages": messages}).encode()).content == "two"


def test_no_model_is_chosen_that_the_app_may_not_ask() -> None:
    wanted = Wanted(content="hi", location="local")
    assert choose_model(CATALOGUE, caller(), wanted) == "m"
    assert choose_model(CATALOGUE, caller("n"), wanted) == "n"
    with pytest.raises(InvalidRequestError, match="No local model"):
        choose_model(CATALOGUE, caller("other"), wanted)
    with pytest.raises(NotAllowedError):
        choose_model(CATALOGUE, caller("n"), Wanted(content="hi", location="local", model="m"))
