"""One request as a scenario wants it sent, and what scenarios know of where it goes."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from random import Random
from typing import Any, Literal

from load_tests.scenarios.words import words

CHAT = "/v1/chat/completions"

Way = Literal["stream", "plain", "job"]
Expected = Literal["text", "json", "tool_call", "vector"]
Cache = Literal["cold", "warm"]

WARM_BEGINNINGS = 4
PROMPT_SHARE = 0.8
"""Of a context: what a prompt and its answer may need, for words differ in tokens."""


@dataclass(frozen=True, slots=True)
class Ask:
    """`body` is JSON. `leave_after`: the client leaves after so many events with text."""

    scenario: str
    way: Way
    path: str
    body: bytes
    expected: Expected = "text"
    is_warm: bool = False
    leave_after: int | None = None


@dataclass(frozen=True, slots=True)
class World:
    """What requests depend on; the same world and number make the same request.

    `salt` keeps what is cold in this run cold in the next one with the same seed. `scale` is a
    factor for all lengths, in tokens; those that would not fit into a context are shortened.
    """

    model: str
    embedding_model: str = ""
    seed: int = 1
    salt: str = "0"
    tokens_per_word: float = 1.3
    context_tokens: int = 2048
    scale: float = 1.0
    cache: Cache = "cold"
    takes_ignore_eos: bool = False

    def random(self, *what: object) -> Random:
        """Chance that is the same for the same things in this world."""
        return Random("/".join(map(str, (self.seed, *what))))  # noqa: S311

    def tokens(self, wanted: int) -> int:
        """A length of an answer."""
        return max(1, min(round(wanted * self.scale), self.context_tokens // 4))

    def room(self, answer: int) -> float:
        """Tokens that a prompt may have beside an answer."""
        return PROMPT_SHARE * self.context_tokens - self.tokens(answer)

    def text(self, wanted: int, answer: int, *what: object) -> str:
        """Words of about so many tokens, if an answer of `answer` tokens fits beside them."""
        count = min(wanted * self.scale, self.room(answer)) / self.tokens_per_word
        return words(self.random("text", *what), max(3, int(count)))

    def beginning(self, number: int) -> tuple[int, bool]:
        """Which beginning a prompt has, and whether an earlier one of the run had it too."""
        if self.cache == "cold":
            return number, False
        return number % WARM_BEGINNINGS, number >= WARM_BEGINNINGS

    def first_line(self, scenario: str, beginning: int) -> str:
        """What makes a prompt one that no cache knows."""
        return f"{self.salt} {beginning} {scenario}."

    def chat(
        self,
        messages: Sequence[Mapping[str, Any]],
        answer: int,
        *,
        is_free: bool = True,
        **more: Any,
    ) -> bytes:
        """The body of a chat; `is_free`: nothing shapes the answer, so its length can be set."""
        body = {"model": self.model, "messages": messages, "max_tokens": self.tokens(answer)}
        if is_free and self.takes_ignore_eos:
            body["ignore_eos"] = True
        if more.get("stream"):
            more["stream_options"] = {"include_usage": True}
        return json.dumps(body | more).encode()


def one_question(
    world: World, scenario: str, number: int, *, prompt: int, answer: int, **more: Any
) -> Ask:
    """A streamed chat of one message: a beginning that may be warm, and a question of its own."""
    beginning, is_warm = world.beginning(number)
    text = world.text(prompt, answer, scenario, beginning)
    question = words(world.random("question", scenario, number), 4)
    content = f"{world.first_line(scenario, beginning)} {text}. Now say: {question}"
    body = world.chat([{"role": "user", "content": content}], answer, stream=True)
    return Ask(scenario, "stream", CHAT, body, is_warm=is_warm, **more)
