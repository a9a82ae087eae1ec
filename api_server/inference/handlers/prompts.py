"""What every model in this process asks of a prompt: messages as text, room for an answer. Pure."""

from collections.abc import Mapping, Sequence
from typing import Any

from api_server.errors import ConfigurationError, ContextLengthError, InvalidRequestError
from api_server.inference.catalogue import Model
from api_server.inference.schemas import InferenceRequest


def plain_messages(request: InferenceRequest) -> list[dict[str, Any]]:
    """The messages as chat templates know them: content is text, developers are `system`.

    Raises `InvalidRequestError` for pictures and the like, `ConfigurationError` for tools.
    """
    if request.tools:
        raise ConfigurationError(
            "Models that run in this process are not given tools; leave them out, or use a model "
            "behind an engine."
        )
    messages = []
    for number, message in enumerate(request.messages or ()):
        plain = dict(message)
        plain["content"] = _text_of(message.get("content"), number)
        if plain.get("role") == "developer":
            plain["role"] = "system"
        messages.append(plain)
    return messages


def _text_of(content: object, number: int) -> str:
    if content is None:
        return ""
    if isinstance(content, str):
        return content
    parts = content if isinstance(content, list | tuple) else [content]
    texts = []
    for part in parts:
        text = part.get("text") if isinstance(part, Mapping) else None
        if not isinstance(text, str):
            raise InvalidRequestError(
                f"messages[{number}].content: this model reads text only.", param="messages"
            )
        texts.append(text)
    return "\n".join(texts)


def unreadable_chat(reason: object) -> InvalidRequestError:
    """A model's chat template has refused the messages."""
    return InvalidRequestError(
        f"This model's chat template cannot render these messages: {str(reason)[:300]}",
        param="messages",
    )


def not_unicode(error: UnicodeEncodeError) -> InvalidRequestError:
    """Half of a surrogate pair, which some way of reading a file leaves in a text."""
    wrong = ascii(error.object[error.start])
    return InvalidRequestError(
        f"The text of this request cannot be written in UTF-8: {wrong} is no letter by itself."
    )


def no_template() -> InvalidRequestError:
    """The model is none for chats."""
    return InvalidRequestError(
        "This model has no chat template; send a prompt to /v1/completions instead of messages.",
        param="messages",
    )


def without_doubled_start(tokens: Sequence[int], start: int | None) -> list[int]:
    """A text may begin with the token that the tokenizer puts before every text: once is enough."""
    is_doubled = len(tokens) > 1 and tokens[0] == tokens[1] == start
    return list(tokens[1:] if is_doubled else tokens)


def answer_tokens(prompt_tokens: int, wanted: int | None, context_tokens: int, model: Model) -> int:
    """How many tokens an answer may have: what is wanted, but no more than there is room for.

    Raises `ContextLengthError` when there is none for a single one, or the prompt is longer than
    the model's entry allows.
    """
    if not prompt_tokens:
        raise InvalidRequestError("The prompt is empty.", param="prompt")
    most = model.max_input_tokens
    if most is not None and prompt_tokens > most:
        raise ContextLengthError(prompt_tokens, most)
    room = context_tokens - prompt_tokens
    if room < 1:
        raise ContextLengthError(prompt_tokens, context_tokens)
    return room if wanted is None else min(wanted, room)
