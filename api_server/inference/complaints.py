"""What MAX says of a request that it refuses, and what that means for a client. Pure.

Its errors have neither codes nor the name of a parameter, only sentences.
"""

import re

from api_server.errors import ContextLengthError, InvalidRequestError

_TOO_LONG = re.compile(r"Prompt is too long: (\d+) tokens exceeds .* length of (\d+) tokens")
_OUT_OF_BOUNDS = re.compile(r"`(\w+)` must be in \[(\d+), (\d+)\]")
_BAD_FIELD = re.compile(r"\d+ validation errors? for Create\w+Request\n(\w+)[^\n]*\n  (Extra)?")
_NO_INPUT = re.compile(r"\b(image|video)_url content type not supported")
_BEGINNINGS = {
    "response_format requires": (
        "response_format",
        "response_format: the model's engine was not started with structured output; leave it out.",
    ),
    "Log probabilities are not supported": (
        "logprobs",
        "logprobs: the model's engine was not started for log probabilities; leave it out.",
    ),
    "tool_call arguments must be valid JSON": (
        "messages",
        "messages: the arguments of a tool call in an earlier answer are not JSON.",
    ),
    "Invalid tool function name": (
        "tools",
        "tools: the name of a function may have letters, digits, _ and - only.",
    ),
}


def complaint_of_max(message: str) -> InvalidRequestError | None:
    """The error for a client; None for a sentence that is not known here."""
    if too_long := _TOO_LONG.match(message):
        return ContextLengthError(int(too_long[1]), int(too_long[2]))
    if bounds := _OUT_OF_BOUNDS.match(message):
        name, low, high = bounds.groups()
        return InvalidRequestError(
            f"{name}: the model's engine allows {low} to {high}.", param=name
        )
    if bad := _BAD_FIELD.match(message):
        name = bad[1]
        reason = "does not know it; leave it out" if bad[2] else "refused its value"
        return InvalidRequestError(f"{name}: the model's engine {reason}.", param=name)
    if missing := _NO_INPUT.search(message):
        return InvalidRequestError(
            f"This model takes no {missing[1]} input; send text only.", param="messages"
        )
    for beginning, (param, sentence) in _BEGINNINGS.items():
        if message.startswith(beginning):
            return InvalidRequestError(sentence, param=param)
    return None
