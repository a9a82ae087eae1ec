"""Says what is wrong with a setting, and which right one is near."""

import difflib
from pathlib import Path
from typing import Any

from api_server.errors import ConfigurationError


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


def read_text(path: Path, remedy: str = "") -> str:
    """The text of a file. Raises `ConfigurationError` with the remedy behind it."""
    try:
        return path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as exc:
        why = exc.strerror if isinstance(exc, OSError) else "it is not UTF-8 text"
        raise ConfigurationError(f"{path}: cannot be read ({why}).{remedy}") from exc
