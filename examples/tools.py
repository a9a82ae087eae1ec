"""Let the model call your functions: it says which one and with what, you run it and tell it.

make local                       # in one terminal
pip install openai               # in another
export OPENAI_API_KEY="$(cat .local/development.key)"
python examples/tools.py
"""

import json
import os
from collections.abc import Callable

from openai import OpenAI
from openai.types.chat import ChatCompletionMessageParam, ChatCompletionToolParam


def add(a: float, b: float) -> float:
    """Add two numbers."""
    return a + b


def get_weather(city: str) -> dict[str, object]:
    """Get the weather for a city (made up here; ask a weather service instead)."""
    return {"condition": "sunny" if len(city) % 2 else "cloudy", "temperature": 14 + len(city)}


FUNCTIONS: dict[str, Callable[..., object]] = {"add": add, "get_weather": get_weather}
TOOLS: list[ChatCompletionToolParam] = [
    {
        "type": "function",
        "function": {
            "name": "add",
            "description": "Add two numbers",
            "parameters": {
                "type": "object",
                "properties": {"a": {"type": "number"}, "b": {"type": "number"}},
                "required": ["a", "b"],
            },
        },
    },
    {
        "type": "function",
        "function": {
            "name": "get_weather",
            "description": "Get the weather for a city",
            "parameters": {
                "type": "object",
                "properties": {"city": {"type": "string"}},
                "required": ["city"],
            },
        },
    },
]
MOST_ROUNDS = 5

client = OpenAI(
    base_url=os.environ.get("OPENAI_BASE_URL", "http://127.0.0.1:8000/v1"),
    api_key=os.environ.get("OPENAI_API_KEY", "none"),
)
model = client.models.list().data[0].id


def run(name: str, arguments: str) -> str:
    """Call a function as the model asks. What goes wrong is told to the model."""
    try:
        result = FUNCTIONS[name](**json.loads(arguments))
    except (KeyError, TypeError, ValueError) as exc:
        result = {"error": f"{type(exc).__name__}: {exc}"}
    print(f"  [{name}({arguments}) -> {json.dumps(result)}]")
    return json.dumps(result)


def ask(question: str) -> str:
    """One question to its answer, with as many calls as the model wants."""
    messages: list[ChatCompletionMessageParam] = [{"role": "user", "content": question}]
    for _ in range(MOST_ROUNDS):
        answer = client.chat.completions.create(model=model, messages=messages, tools=TOOLS)
        message = answer.choices[0].message
        if not message.tool_calls:
            return message.content or ""
        messages.append(
            {
                "role": "assistant",
                "content": message.content,
                "tool_calls": [
                    {
                        "id": call.id,
                        "type": "function",
                        "function": {
                            "name": call.function.name,
                            "arguments": call.function.arguments,
                        },
                    }
                    for call in message.tool_calls
                    if call.type == "function"
                ],
            }
        )
        for call in message.tool_calls:
            if call.type == "function":
                result = run(call.function.name, call.function.arguments)
                messages.append({"role": "tool", "tool_call_id": call.id, "content": result})
    return "(the model called functions without an end)"


for question in ("What is 17 plus 25?", "What is the weather in Paris?", "Hello!"):
    print(question)
    print(ask(question))
