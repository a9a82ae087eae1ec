"""A stand-in for the terminal, shared by the tests of everything that talks to one."""

import asyncio
from collections.abc import Callable


class Said:
    """A `Say` that remembers and can be waited for."""

    def __init__(self) -> None:
        self.lines: list[str] = []
        self.progressed: list[str] = []

    def line(self, text: str) -> None:
        self.lines.append(text)

    def progress(self, text: str) -> None:
        self.progressed.append(text)

    async def until(self, matches: Callable[["Said"], bool]) -> None:
        async with asyncio.timeout(20):
            while not matches(self):
                await asyncio.sleep(0.01)

    def percentages(self) -> list[int]:
        texts = [text.split() for text in self.progressed]
        return [int(words[2]) for words in texts if words[0] == "building"]
