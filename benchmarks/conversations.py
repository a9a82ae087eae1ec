"""Conversations that grow turn by turn, and what of them an engine could have kept. Pure."""

import random
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

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

WHOLE_SHARE = 0.95
"""Of its history, what an engine must have had for it to count as whole; one token it never has."""

HEADER = (
    "| | repeatable prompt tokens | from the cache | share | lowest round | histories found whole "
    "| busiest engine / mean | first token, median ms |\n"
    "|---|---:|---:|---:|---:|---:|---:|---:|"
)


@dataclass
class Conversation:
    """One conversation: what was said so far, and how many tokens of it an engine has seen."""

    number: int
    messages: list[dict[str, str]] = field(default_factory=list)
    asked: int = 0
    seen_tokens: int = 0

    def __post_init__(self) -> None:
        subject = SUBJECTS[self.number % len(SUBJECTS)]
        system = f"Conversation {self.number} is about {subject}."
        self.messages.append({"role": "system", "content": system})

    def ask(self) -> list[dict[str, str]]:
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
class Turn:
    """What one answer told. In tokens; `cached` is what the engine had of the prompt."""

    prompt: int
    repeatable: int
    cached: int
    first_token_seconds: float

    @property
    def repeated(self) -> int:
        """Of the repeatable tokens, those from the cache: not what all conversations share."""
        return min(self.cached, self.repeatable)

    @property
    def is_whole(self) -> bool:
        """Whether the engine had the whole conversation, and not only an older part of it."""
        return self.repeated >= WHOLE_SHARE * self.repeatable


@dataclass(frozen=True)
class Round:
    """One way of routing, once: every turn, and how many requests each engine got."""

    turns: Sequence[Turn]
    requests: Sequence[int]

    @property
    def repeatable(self) -> int:
        return sum(turn.repeatable for turn in self.turns)

    @property
    def repeated(self) -> int:
        return sum(turn.repeated for turn in self.turns)

    @property
    def share(self) -> float:
        """Of the tokens that could have come from a cache, those that did."""
        return self.repeated / self.repeatable if self.repeatable else 0.0

    @property
    def unevenness(self) -> float:
        """The requests of the busiest engine, by the mean."""
        return max(self.requests) * len(self.requests) / sum(self.requests)


def disagreement(turns: Sequence[Turn], cached: int, computed: int) -> str | None:
    """What is wrong when the engines' counters, of prompt tokens from the cache and not, tell
    something else than their answers did; None when they agree.
    """
    said = sum(turn.cached for turn in turns), sum(turn.prompt - turn.cached for turn in turns)
    if said == (cached, computed):
        return None
    return (
        f"the engines counted {cached} prompt tokens from their caches and {computed} others, "
        f"their answers told of {said[0]} and {said[1]}"
    )


def found_by_chance(engines: int, turns: int) -> float:
    """The share that turns find which go to any engine, if engines forget nothing.

    A turn finds the conversation as far as its engine has seen it, and each turn adds as much. Two
    turns at least.
    """
    missed = 1 - 1 / engines
    found = sum(1 - missed**ago for turn in range(1, turns) for ago in range(1, turn + 1))
    return found / sum(range(turns))


def table(found: Mapping[str, Sequence[Round]]) -> str:
    """A Markdown table: the rounds of each way of routing, added up; the rest are medians."""
    return "\n".join([HEADER, *(_line(name, rounds) for name, rounds in found.items())])


def _line(name: str, rounds: Sequence[Round]) -> str:
    repeatable = sum(each.repeatable for each in rounds)
    repeated = sum(each.repeated for each in rounds)
    turns = [turn for each in rounds for turn in each.turns]
    later = [turn.is_whole for turn in turns if turn.repeatable]
    return (
        f"| {name} | {repeatable:,} | {repeated:,} | {repeated / repeatable:.0%} | "
        f"{min(each.share for each in rounds):.0%} | {sum(later) / len(later):.0%} | "
        f"{statistics.median(each.unevenness for each in rounds):.2f} | "
        f"{statistics.median(turn.first_token_seconds for turn in turns) * 1e3:.0f} |"
    )
