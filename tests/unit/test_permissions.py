"""What an app may do, by its policy."""

import pytest

from api_server.errors import NotAllowedError
from api_server.schemas.apps import ANYONE, App, Caller, Policy
from api_server.services.access.permissions import allows_model, check_max_tokens, check_model


def caller(**policy: object) -> Caller:
    return Caller(App("app_1", "shop", Policy.model_validate(policy)))


def test_without_a_list_every_model_is_allowed() -> None:
    check_model(ANYONE, "any")
    assert allows_model(ANYONE, "any")


def test_another_model_is_403_that_lists_the_allowed_ones() -> None:
    bound = caller(models=["a", "b"])
    check_model(bound, "b")
    with pytest.raises(NotAllowedError, match="may use: a, b") as caught:
        check_model(bound, "c")
    assert (caught.value.status, caught.value.param) == (403, "model")
    with pytest.raises(NotAllowedError, match="may use: none"):
        check_model(caller(models=[]), "a")


@pytest.mark.parametrize(
    ("most", "asked", "expected"), [(None, None, None), (None, 9, 9), (5, None, 5), (5, 5, 5)]
)
def test_the_length_of_an_answer_is_what_was_asked_or_what_is_allowed(
    most: int | None, asked: int | None, expected: int | None
) -> None:
    assert check_max_tokens(caller(max_tokens=most), asked) == expected


def test_a_longer_answer_than_allowed_is_403() -> None:
    with pytest.raises(NotAllowedError, match="5 tokens at most, and this asks for 6"):
        check_max_tokens(caller(max_tokens=5), 6)
