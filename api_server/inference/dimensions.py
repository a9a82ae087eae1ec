"""How many requests an engine does at once, and how long one may be: what it tells of itself, and
whether that is what somebody planned. Pure.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from api_server.inference.engines import Engine

PADDING_TOKENS = 256
"""llama-server rounds a slot's context up to a multiple of this."""


@dataclass(frozen=True)
class Dimensions:
    """Slots, and the context in tokens that each of them has. None: not said."""

    slots: int | None = None
    context_tokens: int | None = None


def told_by(engine: Engine, name: str, answer: Mapping[str, Any]) -> Dimensions:
    """What an engine says under its `dimensions_path`; `name` is what it calls the model."""
    if engine.dimensions_path == "/props":
        settings = answer.get("default_generation_settings")
        context = settings.get("n_ctx") if isinstance(settings, dict) else None
        return Dimensions(_number(answer.get("total_slots")), _number(context))
    listed = answer.get("data")
    entries = (
        [each for each in listed if isinstance(each, dict)] if isinstance(listed, list) else []
    )
    own = [each for each in entries if each.get("id") == name] or entries
    return Dimensions(None, _number(own[0].get("max_model_len")) if own else None)


def fault_of(engine: Engine, name: str, found: Dimensions, expected: Dimensions) -> str | None:
    """What is wrong with a replica called `name`, in a sentence; None where nothing is."""
    if engine.dimensions_path == "/props" and None in (found.slots, found.context_tokens):
        return (
            f"{name} does not tell its slots and their context under /props, as {engine.name} "
            "does. Correct ENGINE, ENGINE_URLS or ENGINE_API_KEY."
        )
    if _is_right(found.slots, expected.slots, 0) and _is_right(
        found.context_tokens, expected.context_tokens, PADDING_TOKENS - 1
    ):
        return None
    return (
        f"{name} runs {_text(found)}, not the {_planned(expected)}. Start it with those, or "
        "correct these."
    )


def _is_right(found: int | None, expected: int | None, most_beyond: int) -> bool:
    return found is None or expected is None or 0 <= found - expected <= most_beyond


def _text(found: Dimensions) -> str:
    if found.slots is None:
        return f"a context of {found.context_tokens} tokens"
    slots = f"{found.slots} slot{'' if found.slots == 1 else 's'}"
    return f"{slots} of {found.context_tokens} tokens"


def _planned(expected: Dimensions) -> str:
    if expected.slots is None:
        return f"{expected.context_tokens} tokens of ENGINE_CONTEXT_TOKENS"
    if expected.context_tokens is None:
        return f"{expected.slots} of ENGINE_SLOTS"
    return (
        f"{expected.slots} of {expected.context_tokens} tokens that ENGINE_SLOTS and "
        "ENGINE_CONTEXT_TOKENS say"
    )


def _number(value: object) -> int | None:
    return value if isinstance(value, int) and not isinstance(value, bool) else None
