"""Reads JSON bodies into their shapes. Pure."""

import re
from typing import TypeVar

import msgspec

from api_server.errors import InvalidRequestError

T = TypeVar("T")

_PATH = re.compile(r"^(?P<what>.*?) - at (?:`key` in )?`\$\.?(?P<path>.*)`$", re.DOTALL)


def read_json(body: bytes, decoder: msgspec.json.Decoder[T]) -> T:
    """Raises `InvalidRequestError` that names the field."""
    try:
        if not body.isascii():
            body.decode()
        return decoder.decode(body)
    except msgspec.ValidationError as exc:
        raise _explained(str(exc)) from exc
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as exc:
        raise InvalidRequestError("The body is not valid JSON.") from exc


def check_storable(text: str, param: str) -> str:
    """Text that PostgreSQL can keep: without NUL, without half of a surrogate pair."""
    if "\0" in text or (not text.isascii() and any("\ud800" <= each <= "\udfff" for each in text)):
        raise InvalidRequestError(f"{param}: holds a character that cannot be kept.", param=param)
    return text


def _explained(reason: str) -> InvalidRequestError:
    match = _PATH.match(reason)
    what = (match["what"] if match else reason).replace("`", "'")
    path = match["path"] if match else ""
    missing = re.match(r"Object missing required field '(\w+)'", what)
    if missing:
        path = f"{path}.{missing[1]}".lstrip(".")
        return InvalidRequestError(f"{path} is required.", param=path)
    unknown = re.match(r"Object contains unknown field '(.*)'$", what, re.DOTALL)
    if unknown:
        path = f"{path}.{unknown[1][:100]}".lstrip(".")
        return InvalidRequestError(f"Unknown parameter: {path!r}.", param=path)
    if not path:
        return InvalidRequestError("The body must be a JSON object.")
    return InvalidRequestError(f"{path}: {what[:1].lower()}{what[1:]}.", param=path)
