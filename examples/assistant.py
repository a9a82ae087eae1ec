"""An assistant that calls your functions: the run waits, you answer, and it goes on.

make local                       # in one terminal
pip install openai               # in another
export OPENAI_API_KEY="$(cat .local/development.key)"
python examples/assistant.py
"""

import json
import os
import warnings
from collections.abc import Callable

from openai import AssistantEventHandler, OpenAI
from openai.lib.streaming import AssistantStreamManager
from openai.types.beta import FunctionToolParam
from openai.types.beta.threads import RequiredActionFunctionToolCall, Run
from openai.types.beta.threads.run_submit_tool_outputs_params import ToolOutput

warnings.simplefilter("ignore", DeprecationWarning)  # OpenAI ended its own; this one goes on


def add(a: float, b: float) -> float:
    """Add two numbers."""
    return a + b


def get_weather(city: str) -> dict[str, object]:
    """Get the weather for a city (made up here; ask a weather service instead)."""
    return {"condition": "sunny" if len(city) % 2 else "cloudy", "temperature": 14 + len(city)}


FUNCTIONS: dict[str, Callable[..., object]] = {"add": add, "get_weather": get_weather}
TOOLS: list[FunctionToolParam] = [
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

client = OpenAI(
    base_url=os.environ.get("OPENAI_BASE_URL", "http://127.0.0.1:8000/v1"),
    api_key=os.environ.get("OPENAI_API_KEY", "none"),
)


def call(wanted: RequiredActionFunctionToolCall) -> ToolOutput:
    """Call a function as the model asks. What goes wrong is told to the model."""
    name, arguments = wanted.function.name, wanted.function.arguments
    try:
        result = FUNCTIONS[name](**json.loads(arguments))
    except (KeyError, TypeError, ValueError) as exc:
        result = {"error": f"{type(exc).__name__}: {exc}"}
    print(f"  [{name}({arguments}) -> {json.dumps(result)}]")
    return {"tool_call_id": wanted.id, "output": json.dumps(result)}


def told(manager: AssistantStreamManager[AssistantEventHandler]) -> Run:
    """Print what a run says while it says it; how it is when it stops."""
    with manager as stream:
        for text in stream.text_deltas:
            print(text, end="", flush=True)
        run = stream.current_run
    assert run is not None, "a stream begins with its run"
    return run


assistant = client.beta.assistants.create(
    model=client.models.list().data[0].id,
    tools=TOOLS,
    temperature=0,  # 1 where nothing is said, as at OpenAI: too much for a tiny model
)
for question in ("What is 17 plus 25?", "What is the weather in Paris?", "Hello!"):
    print(question)
    thread = client.beta.threads.create(messages=[{"role": "user", "content": question}])
    run = told(client.beta.threads.runs.stream(thread_id=thread.id, assistant_id=assistant.id))
    while run.required_action is not None:  # it holds no place anywhere while it waits for this
        outputs = [call(each) for each in run.required_action.submit_tool_outputs.tool_calls]
        run = told(
            client.beta.threads.runs.submit_tool_outputs_stream(
                thread_id=thread.id, run_id=run.id, tool_outputs=outputs
            )
        )
    print(f"\n[{run.status}]")
    client.beta.threads.delete(thread.id)
client.beta.assistants.delete(assistant.id)
