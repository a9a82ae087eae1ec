"""Conversations that grow turn by turn, and what of them an engine could have kept. Pure."""

import random
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

SUBJECTS = (
    *("rivers", "bridges", "gardens", "violins", "lighthouses", "bakeries", "mountains"),
    *("sailing ships", "libraries", "beehives", "railways", "castles", "telescopes", "puppets"),
    *("glaciers", "vineyards", "clocks", "orchards", "harbours", "windmills"),
)
QUESTIONS = (
    *("What is the capital of France?", "What is the opposite of hot?", "What colour is grass?"),
    *("What is the capital of Japan?", "What is the opposite of big?", "Who are you?"),
    *("What is the capital of Italy?", "What is the opposite of fast?", "What colour is snow?"),
)


@dataclass
class Conversation:
    """One conversation: what was said so far, and how many tokens of it an engine has seen."""

    number: int
    turns: int
    messages: list[dict[str, Any]] = field(default_factory=list)
    asked: int = 0
    seen_tokens: int = 0

    def __post_init__(self) -> None:
        subject = SUBJECTS[self.number % len(SUBJECTS)]
        system = f"Conversation {self.number} is about {subject}."
        self.messages.append({"role": "system", "content": system})

    def ask(self) -> list[dict[str, Any]]:
        """The messages of the next turn."""
        subject = SUBJECTS[(self.number + self.asked) % len(SUBJECTS)]
        found = " ".join(f"Note {n} says something about {subject}." for n in range(1, 9))
        question = QUESTIONS[(self.number + self.asked) % len(QUESTIONS)]
        self.messages.append({"role": "user", "content": f"{found} {question}"})
        self.asked += 1
        return self.messages

    def answered(self, text: str, prompt_tokens: int, answer_tokens: int) -> int:
        """Take in an answer; returns how many tokens of its prompt had been seen before."""
        repeatable = min(self.seen_tokens, prompt_tokens)
        self.messages.append({"role": "assistant", "content": text})
        self.seen_tokens = prompt_tokens + answer_tokens
        return repeatable


def order_of_turns(conversations: int, turns: int, seed: int) -> list[int]:
    """Whose turn it is, again and again, until each conversation had all its turns: by chance."""
    order = [number for number in range(conversations) for _ in range(turns)]
    random.Random(seed).shuffle(order)  # noqa: S311 - no secret
    return order


@dataclass(frozen=True)
class Found:
    """What one way of routing came to. In tokens; `prompts` are those of each engine."""

    name: str
    repeatable: int
    cached: int
    prompts: Sequence[int]
    first_token_seconds: float

    @property
    def share(self) -> float:
        """Of the tokens that could have come from a cache, those that did."""
        return self.cached / self.repeatable if self.repeatable else 0.0

    @property
    def unevenness(self) -> float:
        """The prompt tokens of the busiest engine, by the mean."""
        return max(self.prompts) * len(self.prompts) / sum(self.prompts)


def table(found: Sequence[Found]) -> str:
    """A Markdown table."""
    return "\n".join(_lines(found))


def _lines(found: Sequence[Found]) -> Iterator[str]:
    yield (
        "| | repeatable prompt tokens | from the cache | share | busiest engine / mean | "
        "first token, median ms |"
    )
    yield "|---|---:|---:|---:|---:|---:|"
    for each in found:
        yield (
            f"| {each.name} | {each.repeatable:,} | {each.cached:,} | {each.share:.0%} | "
            f"{each.unevenness:.2f} | {each.first_token_seconds * 1e3:.0f} |"
        )
