"""Reads what an operator sends about apps: names and policies. Pure; each fault is a 400."""

import json
from typing import Any, TypeVar

from pydantic import BaseModel, Field, ValidationError

from api_server.errors import InvalidRequestError
from api_server.schemas.app_codes import RESERVED_NAMES
from api_server.schemas.apps import AppName, Policy, Strict
from api_server.schemas.explaining import explain
from api_server.stores.apps import Kind

T = TypeVar("T", bound=BaseModel)

LONGEST_GRACE_SECONDS = 90 * 86400


class NewApp(Strict):
    """`POST /admin/apps`."""

    name: AppName
    policy: Policy = Policy()


class Rotation(Strict):
    """`POST /admin/apps/{app}/rotate`: what was valid before stays so for the grace."""

    kind: Kind = "key"
    grace_seconds: float = Field(0, ge=0, le=LONGEST_GRACE_SECONDS)


def read_body(raw: bytes | str, shape: type[T]) -> T:
    """A body of that shape; nothing at all is an empty one. Raises `InvalidRequestError`."""
    try:
        return shape.model_validate(_document(raw))
    except ValidationError as exc:
        raise _refused(exc, shape) from exc


def read_new_app(raw: bytes | str) -> NewApp:
    """A new app, whose name is not one that the stack keeps for itself."""
    new = read_body(raw, NewApp)
    check_name(new.name)
    return new


def check_name(name: str) -> None:
    """Raises `InvalidRequestError` for a name that no app may have."""
    try:
        NewApp(name=name)
    except ValidationError as exc:
        raise InvalidRequestError(
            f"{name[:80]!r} is no name for an app: up to 64 letters, digits, spaces, dots, dashes "
            "and underscores, beginning with a letter or a digit.",
            param="name",
        ) from exc
    if name in RESERVED_NAMES or name.startswith("app_"):
        raise InvalidRequestError(
            f"The stack keeps the name {name!r} for itself; choose another.", param="name"
        )


def patched(policy: Policy, raw: bytes | str) -> Policy:
    """A policy with some of its keys changed. `null` is as if the key had never been set."""
    document = _document(raw)
    fields = policy.model_dump(exclude_unset=True) | document
    kept = {key: value for key, value in fields.items() if value is not None}
    try:
        return Policy.model_validate(kept)
    except ValidationError as exc:
        raise _refused(exc, Policy) from exc


def _document(raw: bytes | str) -> dict[str, Any]:
    try:
        document = json.loads(raw or b"{}")
    except (ValueError, RecursionError) as exc:
        raise InvalidRequestError("The body is not valid JSON.") from exc
    if not isinstance(document, dict):
        raise InvalidRequestError("The body must be a JSON object.")
    return document


def _refused(error: ValidationError, shape: type[BaseModel]) -> InvalidRequestError:
    errors = error.errors()
    param = ".".join(str(part)[:64] for part in errors[0]["loc"]) or None
    return InvalidRequestError(" ".join(explain(each, shape) for each in errors[:5]), param=param)
