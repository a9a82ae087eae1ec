"""What an app may do by its policy, and its end users less than it. Pure."""

from api_server.errors import NotAllowedError
from api_server.schemas.apps import Caller


def allows_model(caller: Caller, model_id: str) -> bool:
    """Whether the caller may ask this model."""
    models = caller.app.policy.models
    return models is None or model_id in models


def check_model(caller: Caller, model_id: str) -> None:
    """Raises `NotAllowedError` that lists what is allowed, and tells nothing of other models."""
    models = caller.app.policy.models
    if models is not None and model_id not in models:
        allowed = ", ".join(models) or "none"
        raise NotAllowedError(
            f"The app {caller.app.name!r} may not use the model {model_id[:128]!r}. Models that it "
            f"may use: {allowed}.",
            param="model",
        )


def refuse_end_users(caller: Caller, to_do: str) -> None:
    """Raises `NotAllowedError` for the token of an end user: this is for the app itself."""
    if caller.user is not None:
        raise NotAllowedError(f"An end user's token may not {to_do}; use a key of the app.")


def check_max_tokens(caller: Caller, asked: int | None) -> int | None:
    """The longest answer for this request, in tokens: what was asked, or what the policy allows.

    None where neither says anything. Raises `NotAllowedError` where more is asked than allowed.
    """
    most = caller.app.policy.max_tokens
    if most is None or asked is None:
        return asked if most is None else most
    if asked > most:
        raise NotAllowedError(
            f"The app {caller.app.name!r} may ask for answers of {most} tokens at most, and this "
            f"asks for {asked}.",
            param="max_tokens",
        )
    return asked
