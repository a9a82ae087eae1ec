"""The contract of all handlers, kept by both libraries."""

import pytest

from tests.extras.conftest import Served
from tests.handler_contract import HandlerContract, Subject

ENDLESS = {"prompt": "Hello", "params": {"max_new_tokens": 2000}}
TOO_LONG = {"prompt": "hello there " * 3000}
PICTURE = {"messages": [{"role": "user", "content": [{"type": "image_url", "image_url": {}}]}]}


class TestLibraries(HandlerContract):
    @pytest.fixture
    def subject(self, served: Served) -> Subject:
        async def running() -> int:
            return served.running

        return Subject(
            handler=served.handler,
            loaded=served.loaded,
            question={
                "messages": [{"role": "user", "content": "What is the capital of France?"}],
            },
            answer="The capital of France is Paris.",
            endless=ENDLESS,
            running=running,
            impossible=(TOO_LONG, PICTURE),
            has_beams=served.loaded.config.engine.name == "transformers",
        )
