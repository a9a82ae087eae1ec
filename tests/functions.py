"""Functions that an operator might register, for the tests of those that run in the stack."""

import os
import sys
import time
from pathlib import Path


def get_weather(city: str) -> dict[str, object]:
    """The weather of a city."""
    print("looking out of the window")
    return {"city": city, "degrees": 21}


async def in_time(seconds: float) -> str:
    """Waits."""
    import asyncio  # noqa: PLC0415 - as an operator's own would be

    await asyncio.sleep(seconds)
    return "done"


def sleep(seconds: float) -> str:
    """Sleeps, and holds its process."""
    time.sleep(seconds)
    return "done"


def fail() -> str:
    """Raises."""
    raise ValueError("no such luck")


def die() -> str:
    """Ends its process."""
    os._exit(3)


def leave() -> str:
    """Ends as a script does."""
    sys.exit(3)


def half() -> str:
    """Answers with half of a surrogate pair."""
    return "a\ud800b"


def count(path: str) -> int:
    """Writes down that it was called."""
    with Path(path).open("a", encoding="utf-8") as file:
        file.write("called\n")
    return len(Path(path).read_text(encoding="utf-8").splitlines())
