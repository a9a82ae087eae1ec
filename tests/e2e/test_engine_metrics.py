"""What rules and panels ask of llama-server is what it tells."""

import re

import openai

from tests.engine_probe import EngineProbe
from tests.local_stack import LocalStack
from tests.real_metrics import OF_LLAMA_CPP


def test_the_engine_has_every_metric_that_is_asked_for(
    stack: LocalStack, client: openai.OpenAI
) -> None:
    client.chat.completions.create(model="tiny", messages=[{"role": "user", "content": "hi"}])
    with EngineProbe(stack) as probe:
        text = probe.client.get("/metrics").raise_for_status().text
    told = set(re.findall(r"^(llamacpp:\w+) ", text, re.MULTILINE))
    assert told >= OF_LLAMA_CPP
