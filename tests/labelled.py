"""Callers that say in a header which app they are, for gateways in the process of a test."""

from collections.abc import Iterator
from contextlib import contextmanager

import pytest

from api_server.routes.token_path import AsgiClient
from api_server.schemas.apps import App, Caller, Policy

LABEL = "x-test-app"


@contextmanager
def labelled_callers(*, cache: bool = False) -> Iterator[None]:
    """Each label is an app of its own; with `cache` all of them want cached answers."""
    policy = Policy(cache=cache)

    def caller(client: AsgiClient) -> Caller:
        headers = dict(client._scope["headers"])
        name = headers.get(LABEL.encode(), b"anyone").decode()
        return Caller(App(f"app_{name}", name, policy))

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(AsgiClient, "caller", property(caller))
        yield
