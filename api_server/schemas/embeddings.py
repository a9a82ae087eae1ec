"""What an embeddings request must look like before an engine sees it."""

from typing import Annotated, Any, Literal

import msgspec
from msgspec import Meta

MAX_INPUTS = 2048
"""OpenAI's bound on the inputs of one request."""


class EmbeddingsRequest(msgspec.Struct):
    """Body of `POST /v1/embeddings`; `input` is text, a list of texts, tokens, or lists of them."""

    model: Annotated[str, Meta(min_length=1)]
    input: str | list[Any]
    encoding_format: Literal["float", "base64"] | None = None
    dimensions: Annotated[int, Meta(ge=1)] | None = None
    user: str | None = None
