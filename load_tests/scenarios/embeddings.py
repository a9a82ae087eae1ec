"""Texts to make vectors of."""

import json

from load_tests.scenarios.ask import Ask, World

NAME = "embeddings"
PROMPT = 64


def ask(world: World, number: int) -> Ask:
    text = f"{world.first_line(NAME, number)} {world.text(PROMPT, 1, NAME, number)}"
    body = {"model": world.embedding_model, "input": text}
    return Ask(NAME, "plain", "/v1/embeddings", json.dumps(body).encode(), "vector")
