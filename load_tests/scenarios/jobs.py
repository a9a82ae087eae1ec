"""Requests that are accepted now and done later; the gateway's own limit is the answer's length."""

import json

from load_tests.scenarios.ask import Ask, World

NAME = "jobs"
PROMPT = 32


def ask(world: World, number: int) -> Ask:
    text = f"{world.first_line(NAME, number)} {world.text(PROMPT, PROMPT, NAME, number)}"
    body = {"request_type": "explain_concept", "request": text}
    return Ask(NAME, "job", "/ai_request", json.dumps(body).encode())
