"""What the bodies of the jobs API look like. Fields that we do not know are ignored."""

from typing import Annotated

import msgspec

from api_server.schemas.apps import Priority

Text = Annotated[str, msgspec.Meta(min_length=1)]
TypeName = Annotated[str, msgspec.Meta(pattern=r"^[A-Za-z0-9][A-Za-z0-9_.-]{0,63}(?!\n)$")]
Key = Annotated[str, msgspec.Meta(pattern=r"^[\x21-\x7e]{1,200}(?!\n)$")]
MOST_ITEMS = 1000


class AiRequest(msgspec.Struct):
    """`POST /ai_request`. The app may be named by a header instead of `app_code`."""

    request_type: TypeName
    request: Text
    app_code: str | None = None
    priority: Priority | None = None
    idempotency_key: Key | None = None


class Item(msgspec.Struct):
    """One of a batch."""

    request_type: TypeName
    request: Text
    priority: Priority | None = None


class AiBatch(msgspec.Struct):
    """`POST /ai_request/batch`: accepted as a whole or not at all."""

    requests: Annotated[list[Item], msgspec.Meta(min_length=1, max_length=MOST_ITEMS)]
    app_code: str | None = None
    idempotency_key: Key | None = None
