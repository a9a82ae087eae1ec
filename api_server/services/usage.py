"""Adds up what one request used. Pure.

Engines report usage for each choice, with the prompt counted each time; OpenAI counts a prompt once
however many choices (`n`) were made from it.
"""

from typing import Any

from api_server.inference.estimating import Fields, estimate, may_exceed

Json = dict[str, Any]

LONGEST_GUESSED_BYTES = 256 * 1024
"""Longer prompts are not read for a guess, so that it takes a few milliseconds at most."""

BYTES_OF_A_TOKEN = 4


def has_content(choice: Json) -> bool:
    """Whether a choice of a chunk brings a part of an answer: text, thoughts, a call."""
    if choice.get("text"):
        return True
    delta = choice.get("delta") or {}
    return any(value for key, value in delta.items() if key != "role")


class UsageTally:
    """Feed it each usage object of one answer. `choices_per_prompt` is the request's `n`."""

    def __init__(self, choices_per_prompt: int) -> None:
        self._n = max(1, choices_per_prompt)
        self._reports = 0
        self._prompt = 0
        self._completion = 0
        self._cached = 0

    def add(self, usage: Json) -> None:
        """Take in one report; numbers that an engine leaves out count as 0."""
        self._reports += 1
        self._prompt += usage.get("prompt_tokens") or 0
        self._completion += usage.get("completion_tokens") or 0
        self._cached += (usage.get("prompt_tokens_details") or {}).get("cached_tokens") or 0

    @property
    def prompt_tokens(self) -> int:
        return round(self._prompt / min(self._n, max(1, self._reports)))

    @property
    def completion_tokens(self) -> int:
        return self._completion

    @property
    def cached_tokens(self) -> int:
        return round(self._cached / min(self._n, max(1, self._reports)))

    def total(self) -> Json | None:
        """OpenAI's usage object, None when the engine reported nothing."""
        if not self._reports:
            return None
        return {
            "prompt_tokens": self.prompt_tokens,
            "completion_tokens": self._completion,
            "total_tokens": self.prompt_tokens + self._completion,
            "prompt_tokens_details": {"cached_tokens": self.cached_tokens},
        }


def guessed_prompt_tokens(fields: Fields, prompts: int = 1) -> int:
    """How many tokens a chat's or a text's prompts may have, where the engine did not say."""
    if may_exceed(fields, LONGEST_GUESSED_BYTES):
        given = bytes(fields["messages" if "messages" in fields else "prompt"])
        return len(given) // BYTES_OF_A_TOKEN
    return estimate(fields).tokens * prompts
