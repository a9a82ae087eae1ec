"""What the raw ASGI endpoint knows of a client."""

from typing import Any, cast

import pytest

from api_server.routes.token_path import CONNECTION, AsgiClient


@pytest.mark.parametrize(
    ("count", "is_retry"), [(None, None), (b"", False), (b"0", False), (b"1", True)]
)
def test_a_second_try_is_known_by_what_the_official_clients_say(
    count: bytes | None, is_retry: bool | None
) -> None:
    headers = [(b"host", b"x")]
    if count is not None:
        headers.append((b"x-stainless-retry-count", count))
    scope = {"headers": headers, "extensions": {CONNECTION: None}}
    assert AsgiClient(scope, cast("Any", None), 1.0).is_retry is is_retry
