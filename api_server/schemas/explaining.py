"""Says what is wrong with a key or a value, and which right one is near. Pure."""

import difflib
import re
from collections.abc import Sequence
from typing import Any, get_args

from pydantic import BaseModel


def suggestion(key: str, known: list[str]) -> str:
    """A sentence that names the nearest known key, or all of them."""
    near = difflib.get_close_matches(key, known, n=1)
    return f" Did you mean '{near[0]}'?" if near else f" Known here: {', '.join(known)}."


def reason(error: Any, *, is_secret: bool = False) -> str:
    """What pydantic says is wrong, and with which value; never the value of a secret.

    A text with an @ or a ? may be a URL with a password or a key in it.
    """
    value = error["input"]
    is_secret = is_secret or (isinstance(value, str) and not {"@", "?"}.isdisjoint(value))
    shown = "" if is_secret or isinstance(value, dict | list) else f", not {value!r}"
    sentence = str(error["msg"]).removeprefix("Value error, ").removesuffix(".")
    return sentence[:1].lower() + sentence[1:] + shown + "."


def explain(error: Any, model: type[BaseModel], *, hidden: int | None = None) -> str:
    """One of pydantic's errors in a sentence: place, reason, nearest key.

    `hidden` is the part of the place that is a secret itself and only hinted at.
    """
    location: tuple[int | str, ...] = error["loc"]
    known = keys_at(model, location[:-1])
    shown = [
        f"{str(part)[:3]}..." if number == hidden else str(part)[:64]
        for number, part in enumerate(location)
        if part != "[key]"
    ]
    path = re.sub(r"\.(\d+)", r"[\1]", ".".join(shown)) or "it"
    if error["type"] == "extra_forbidden":
        return f"unknown key '{path}'.{suggestion(str(location[-1])[:64], known)}"
    is_secret = hidden is not None and len(location) <= hidden + 2 and "[key]" in location
    value = error["input"]
    if isinstance(value, str) and len(value) > 200:
        error = {**error, "input": f"{value[:200]}..."}
    return f"{path}: {reason(error, is_secret=is_secret)}"


def keys_at(model: type[BaseModel], location: Sequence[int | str]) -> list[str]:
    """The keys that a model knows at a place in its document."""
    for part in location:
        field = model.model_fields.get(str(part))
        inside = _model_in(field.annotation) if field is not None else None
        model = inside or model
    return list(model.model_fields)


def _model_in(annotation: Any) -> type[BaseModel] | None:
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return annotation
    return next((found for arg in get_args(annotation) if (found := _model_in(arg))), None)
