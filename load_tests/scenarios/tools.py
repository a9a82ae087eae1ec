"""Answers that are calls of a function."""

from load_tests.scenarios.ask import CHAT, Ask, World

NAME = "tools"
ANSWER = 64
TOOL = {
    "type": "function",
    "function": {
        "name": "get_weather",
        "description": "The weather in a city now.",
        "parameters": {
            "type": "object",
            "properties": {"city": {"type": "string", "enum": ["Paris", "Rome", "Oslo"]}},
            "required": ["city"],
            "additionalProperties": False,
        },
    },
}


def ask(world: World, number: int) -> Ask:
    beginning, is_warm = world.beginning(number)
    text = world.text(24, ANSWER, NAME, beginning)
    content = f"{world.first_line(NAME, beginning)} {text}. What is the weather in Paris?"
    messages = [{"role": "user", "content": content}]
    told = {"tools": [TOOL], "tool_choice": "required"}
    body = world.chat(messages, ANSWER, is_free=False, stream=True, **told)
    return Ask(NAME, "stream", CHAT, body, "tool_call", is_warm)
