"""Reads what a conversation asks for, and chooses its model. Pure."""

from typing import Any, get_args

import msgspec

from api_server.errors import InvalidRequestError
from api_server.inference.catalogue import Catalogue, Model
from api_server.inference.conversations.factory import Location
from api_server.schemas.apps import Caller
from api_server.schemas.conversations import ProcessBody, Wanted
from api_server.services.access.permissions import allows_model, check_model
from api_server.services.access.tokens import MOST_USER_CHARACTERS
from api_server.services.reading import check_storable, read_json

DEFAULT_LOCATION = "local"
_BODY = msgspec.json.Decoder(ProcessBody)


def read_process(body: bytes) -> Wanted:
    """Raises `InvalidRequestError` with the guide's words."""
    asked = read_json(body, _BODY)
    content = _content(asked.messages)
    location = asked.location or asked.inference_type or DEFAULT_LOCATION
    if location not in get_args(Location):
        raise InvalidRequestError(
            f"Unsupported inference type: {location[:100]}", param="inferenceType"
        )
    user = asked.user if asked.user not in (None, "") else asked.user_id
    return Wanted(
        content=check_storable(content, "messages[0].content"),
        location=location,
        user=None if user in (None, "") else _user(str(user)),
        thread_id=asked.thread or asked.thread_id or None,
        assistant_id=asked.assistant or asked.assistant_id or None,
        model=asked.model or None,
    )


def choose_model(catalogue: Catalogue, caller: Caller, wanted: Wanted) -> str:
    """The model that is named, else the caller's first of that location.

    Raises `ModelNotFoundError`, `NotAllowedError`, `InvalidRequestError`.
    """
    if wanted.model is not None:
        check_model(caller, wanted.model)
        model = catalogue.find(wanted.model)
        if not _fits(model, wanted.location):
            raise InvalidRequestError(
                f"The model {model.id!r} is no {wanted.location} model for text; leave model out, "
                "or choose the inferenceType that it has.",
                param="model",
            )
        return model.id
    for model in catalogue:
        if _fits(model, wanted.location) and allows_model(caller, model.id):
            return model.id
    raise InvalidRequestError(
        f"No {wanted.location} model is served here; choose another inferenceType.",
        param="inferenceType",
    )


def _fits(model: Model, location: str) -> bool:
    return model.location == location and model.serves == "text"


def _user(name: str) -> str:
    """As in the token of an end user."""
    if len(name) > MOST_USER_CHARACTERS or not name.isprintable():
        raise InvalidRequestError(
            f"userId: must be a text of at most {MOST_USER_CHARACTERS} characters that can be "
            "printed.",
            param="userId",
        )
    return name


def _content(messages: Any) -> str:
    """The text of the last message: a client may send the conversation so far, and we have it."""
    if not isinstance(messages, list) or not messages:
        raise InvalidRequestError("Invalid or missing 'messages' in request", param="messages")
    message = messages[-1]
    content = message.get("content") if isinstance(message, dict) else None
    if not isinstance(content, str) or not content.strip():
        raise InvalidRequestError("Message content is missing", param="messages")
    return content
