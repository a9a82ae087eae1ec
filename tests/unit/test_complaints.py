"""MAX's sentences, word for word as it said them, become errors that name the parameter."""

import json

import pytest

from api_server.errors import ContextLengthError, InvalidRequestError
from api_server.inference.handlers.faults import translate_error

VALIDATION = (
    "{count} for {model}\n{field}\n  {reason} [type={type}, input_value=3, input_type=int]\n"
    "    For further information visit https://errors.pydantic.dev/2.14/v/{type}"
)


def translated(message: str) -> InvalidRequestError:
    body = {"code": "400", "message": message, "param": "", "type": "invalid_request_error"}
    error = translate_error(400, json.dumps({"error": body}).encode())
    assert isinstance(error, InvalidRequestError)
    return error


def test_a_prompt_that_is_too_long() -> None:
    error = translated(
        "Prompt is too long: 811 tokens exceeds the configured maximum context length of 512 "
        "tokens. Please shorten your prompt."
    )
    assert isinstance(error, ContextLengthError)
    assert (error.prompt_tokens, error.context_tokens) == (811, 512)


@pytest.mark.parametrize(
    ("message", "param", "fragment"),
    [
        (
            (
                "response_format requires --enable-structured-output. Restart the server with "
                "--enable-structured-output to allow schema-constrained responses."
            ),
            "response_format",
            "structured output",
        ),
        (
            (
                "Log probabilities are not supported with the overlap scheduler. Start the server "
                "with --no-enable-overlap-scheduler to use logprobs, or "
                "--allow-unsupported-logprobs to silently ignore the field."
            ),
            "logprobs",
            "leave it out",
        ),
        ("`top_logprobs` must be in [0, 7], was 20.", "top_logprobs", "0 to 7"),
        (
            VALIDATION.format(
                count="1 validation error",
                model="CreateChatCompletionRequest",
                field="grammar",
                reason="Extra inputs are not permitted",
                type="extra_forbidden",
            ),
            "grammar",
            "does not know it",
        ),
        (
            VALIDATION.format(
                count="6 validation errors",
                model="CreateCompletionRequest",
                field="response_format.ResponseFormatText.type",
                reason="Input should be 'text'",
                type="literal_error",
            ),
            "response_format",
            "refused its value",
        ),
        (
            (
                "1 validation error for TextGenerationRequestMessage\ncontent\n  Value error, "
                "image_url content type not supported in internal format. Images must be provided "
                "as bytes in TextGenerationRequest.images [type=value_error, input_value=[]]"
            ),
            "messages",
            "no image input",
        ),
        (
            "tool_call arguments must be valid JSON; got invalid JSON for tool call 'c'.",
            "messages",
            "not JSON",
        ),
        (
            "Invalid tool function name: 'a b'. Function names must match ^[a-zA-Z0-9_-]+$.",
            "tools",
            "letters",
        ),
        ("Value error.", None, "refused a value"),
    ],
)
def test_a_sentence_names_the_parameter(message: str, param: str | None, fragment: str) -> None:
    error = translated(message)
    assert error.param == param
    assert fragment in error.message
