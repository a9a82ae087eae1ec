"""Calls functions, one after the other, as it is told on its standard input.

A line in is `{"name", "call", "arguments"}`: `call` is `package.module:function`, `arguments` the
JSON that the model wrote. A line out is `{"output", "failed"}`; `output` is text for the model.
Without `arguments` the line out is `{"tool"}`, which describes the function, null where it cannot.
What functions print goes to standard error. Ends when its input does, whatever a function does
then: who started it is gone.
"""

import asyncio
import importlib
import json
import os
import queue
import sys
import threading
from collections.abc import Callable
from typing import Any, TextIO

from api_server.inference.conversations.functions import FunctionTools
from api_server.inference.schemas import ToolCall

FOR_EVER = 10.0**9
"""Who started us ends calls that take too long, and us with them."""


class _Callers:
    """The functions that were called so far, ready to be called again."""

    def __init__(self) -> None:
        self._tools: dict[tuple[str, str], FunctionTools] = {}

    async def answer(self, name: str, place: str, arguments: str | None) -> dict[str, Any]:
        """What came of it. A function that cannot be found has failed like any other."""
        try:
            if (name, place) not in self._tools:
                functions = {name: _found(place)}
                self._tools[name, place] = FunctionTools(functions, call_seconds=FOR_EVER)
            tools = self._tools[name, place]
            if arguments is None:
                return {"tool": tools.tools[0]}
            output, has_failed = await tools.attempt(
                ToolCall(id="", name=name, arguments=arguments)
            )
        except (Exception, SystemExit) as exc:  # noqa: BLE001 - the edge to code that is not ours
            sys.stderr.write(f"{place}: {type(exc).__name__}: {exc}\n")
            words = "Error: this function is not set up correctly."
            return {"tool": None, "output": words, "failed": True}
        return {"output": output, "failed": has_failed}


def _found(place: str) -> Callable[..., Any]:
    module, _, name = place.partition(":")
    function: Callable[..., Any] = getattr(importlib.import_module(module), name)
    return function


def _read(lines: "queue.Queue[str]", source: TextIO) -> None:
    for line in source:
        lines.put(line)
    os._exit(0)


def main() -> None:
    """Until the input ends."""
    answers = os.fdopen(os.dup(1), "w", encoding="utf-8")
    os.dup2(2, 1)
    sys.path.insert(0, str(os.getcwd()))  # noqa: PTH109 - as `python -m` does for a script
    lines: queue.Queue[str] = queue.Queue()
    threading.Thread(target=_read, args=(lines, sys.stdin), daemon=True).start()
    callers = _Callers()
    while True:
        told = json.loads(lines.get())
        answer = asyncio.run(callers.answer(told["name"], told["call"], told.get("arguments")))
        answers.write(json.dumps(answer) + "\n")
        answers.flush()


if __name__ == "__main__":
    main()
