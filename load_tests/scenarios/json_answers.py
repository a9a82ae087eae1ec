"""Answers that must follow a schema; small, so that they end by themselves."""

from load_tests.scenarios.ask import CHAT, Ask, World

NAME = "json"
ANSWER = 64
SCHEMA = {
    "type": "object",
    "properties": {
        "colour": {"enum": ["red", "green", "blue"]},
        "is_large": {"type": "boolean"},
    },
    "required": ["colour", "is_large"],
    "additionalProperties": False,
}


def ask(world: World, number: int) -> Ask:
    beginning, is_warm = world.beginning(number)
    text = world.text(48, ANSWER, NAME, beginning)
    content = f"{world.first_line(NAME, beginning)} {text}. Which colour is it?"
    body = world.chat(
        [{"role": "user", "content": content}],
        ANSWER,
        is_free=False,
        response_format={
            "type": "json_schema",
            "json_schema": {"name": "thing", "strict": True, "schema": SCHEMA},
        },
    )
    return Ask(NAME, "plain", CHAT, body, "json", is_warm)
