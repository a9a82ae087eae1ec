"""From settings to the engine room's catalogue: its entries, and what is wrong between them. Pure,
but for the date of the stack file.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from ipaddress import ip_address
from pathlib import Path
from typing import TypeVar
from urllib.parse import urlsplit

from pydantic import BaseModel, SecretStr

from api_server.errors import ConfigurationError
from api_server.inference.catalogue import Balancing, Model, Retries, Timeouts
from api_server.inference.engines import ENGINES, OPENAI_COMPATIBLE
from api_server.settings.environment import Environment
from api_server.settings.stack import ModelConfig, Stack
from api_server.settings.started_engines import expected_of

SERVICE_SLOTS = 16
"""Requests that the external service gets at the same time; how many it can do, nobody tells."""

S = TypeVar("S", bound=BaseModel)


def catalogue_models(
    environment: Environment, stack: Stack, keys: Mapping[str, SecretStr], root: Path
) -> list[Model]:
    """All models, the external service's last. `keys` are those that the models' `api_key_env`
    name; a relative `path` lies under `root`. Raises `ConfigurationError` with a line for each
    thing that is wrong.
    """
    problems = []
    models = []
    created = _created(environment.stack_config)
    expected = expected_of(environment)
    for entry in stack.models:
        key = environment.engine_api_key if entry.location == "local" else None
        if entry.api_key_env is not None:
            key = keys.get(entry.api_key_env)
            if key is None:
                problems.append(
                    f"{entry.api_key_env} is not set, and the model {entry.id!r} needs it as its "
                    "engine's key (api_key_env): set it in the environment or in .env."
                )
        try:
            _over(stack.breaker, entry.breaker).check_pauses()
        except ValueError as exc:
            problems.append(f"The breaker of the model {entry.id!r}, over the common one: {exc}.")
        model = replace(_model(entry, stack, key, root), created=created)
        models.append(replace(model, expected=expected.get(entry.id)))
    service = external_service(environment, stack)
    if service is not None:
        if any(model.id == service.id for model in models):
            problems.append(
                f"AI_SERVICE_MODEL: {environment.stack_config} has a model {service.id!r} too. "
                "Rename or remove that one, or unset AI_SERVICE_URL."
            )
        models.append(service)
    problems += _broken_fallbacks(models)
    if problems:
        raise ConfigurationError("\n".join(problems))
    return models


def external_service(environment: Environment, stack: Stack) -> Model | None:
    """The model behind `AI_SERVICE_URL`, None where that is not set."""
    if environment.ai_service_url is None:
        return None
    seconds = environment.ai_service_timeout
    return Model(
        id=environment.ai_service_model,
        engine=OPENAI_COMPATIBLE,
        location="cloud",
        replicas=(environment.ai_service_url,),
        api_key=_plain(environment.ai_service_api_key),
        slots=SERVICE_SLOTS,
        max_input_tokens=environment.ai_service_max_input_tokens,
        max_output_tokens=environment.ai_service_max_output_tokens,
        context_overflow="drop_oldest",
        timeouts=Timeouts(
            **(
                stack.timeouts.model_dump()
                | {"first_token_seconds": seconds, "total_seconds": seconds}
            )
        ),
        retries=Retries(**stack.retries.model_dump()),
        balancing=_balancing(stack, None),
    )


def warnings(models: Sequence[Model], environment: Environment) -> Iterator[str]:
    """What is allowed and yet unwise: prompts and keys that strangers could read."""
    own_key = _plain(environment.engine_api_key)
    for model in models:
        for url in model.replicas:
            parts = urlsplit(url)
            host = parts.hostname or ""
            if model.location == "cloud" and parts.scheme != "https" and not _is_loopback(host):
                yield (
                    f"{model.id!r} is reached at {url} without encryption: use https, or a network "
                    "that only you can read."
                )
            is_sent = own_key is not None and model.location == "local" and model.api_key == own_key
            is_named = url in (environment.engine_urls or ())  # the key is for just these
            if is_sent and not is_named and not _is_at_home(host):
                yield (
                    f"{model.id!r} is reached at {url} with your ENGINE_API_KEY. If that is not a "
                    "machine of yours, say location: cloud in its entry, and name its own key."
                )


def _is_loopback(host: str) -> bool:
    return host == "localhost" or (_is_address(host) and ip_address(host).is_loopback)


def _is_at_home(host: str) -> bool:
    """Whether a host is, by its address or name, in a network of one's own."""
    if _is_address(host):
        return ip_address(host).is_private
    return "." not in host or host.endswith((".local", ".internal", ".lan", ".home.arpa"))


def _is_address(host: str) -> bool:
    try:
        ip_address(host)
    except ValueError:
        return False
    return True


def _model(entry: ModelConfig, stack: Stack, key: SecretStr | None, root: Path) -> Model:
    return Model(
        id=entry.id,
        engine=ENGINES[entry.engine],
        replicas=tuple(entry.replicas),
        name_at_engine=entry.name_at_engine,
        api_key=None if entry.is_in_process else _plain(key),
        path=root / entry.path.expanduser() if entry.path else None,
        context_tokens=entry.context_tokens,
        load=entry.load,
        idle_seconds=entry.idle_seconds,
        handler=entry.handler,
        options=entry.options,
        location=entry.location,
        serves=entry.serves,
        slots=entry.own_slots,
        max_input_tokens=entry.max_input_tokens,
        max_output_tokens=entry.max_output_tokens,
        context_overflow=entry.context_overflow,
        fallbacks=tuple(entry.fallbacks),
        timeouts=Timeouts(**_over(stack.timeouts, entry.timeouts).model_dump()),
        retries=Retries(**_over(stack.retries, entry.retries).model_dump()),
        balancing=_balancing(stack, entry),
        defaults=entry.defaults,
    )


def _balancing(stack: Stack, entry: ModelConfig | None) -> Balancing:
    health = _over(stack.health, entry.health if entry else None)
    return Balancing(
        **_over(stack.balancing, entry.balancing if entry else None).model_dump(),
        **_over(stack.breaker, entry.breaker if entry else None).model_dump(),
        health_interval_seconds=health.interval_seconds,
    )


def _over(common: S, own: S | None) -> S:
    """A section with what a model's entry says instead."""
    return common.model_copy(update=own.model_dump(exclude_unset=True)) if own else common


def _broken_fallbacks(models: Sequence[Model]) -> Iterator[str]:
    by_id = {model.id: model for model in models}
    for model in models:
        for name in model.fallbacks:
            other = by_id.get(name)
            if other is None:
                known = ", ".join(id_ for id_ in by_id if id_ != model.id) or "none"
                yield (
                    f"The model {model.id!r} has the fallback {name!r}, which does not exist. "
                    f"Other models here: {known}."
                )
            elif other.serves != model.serves:
                yield (
                    f"The model {model.id!r} serves {model.serves}, and its fallback {name!r} "
                    f"serves {other.serves}: name one that serves {model.serves}."
                )


def _plain(key: SecretStr | None) -> str | None:
    return key.get_secret_value() if key else None


def _created(path: Path) -> int:
    return int(path.stat().st_mtime) if path.exists() else 0
