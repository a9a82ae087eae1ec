"""Kinds of values that settings have: numbers with bounds, names, addresses, keys."""

import re
from collections.abc import Callable
from typing import Annotated, Any
from urllib.parse import urlsplit

from pydantic import AfterValidator, BaseModel, BeforeValidator, ConfigDict, Field, SecretStr

from api_server.inference import addresses
from api_server.inference.engines import ENGINES
from api_server.settings.explaining import suggestion

MIN_KEY_LENGTH = 16
MIN_SIGNING_LENGTH = 32
MOST_REPLICAS = 256
ENGINE_CHOICES = {
    "llama-cpp": "llama-server",
    "max": "max-serve",
    "external": "openai-compatible",
}
"""What ENGINE calls rows of the engine table by other names. The first is a row of its own too, of
models in the gateway's process: those have no URLs.
"""

KEY_NAME = re.compile(r"^[A-Z][A-Z0-9_]{0,95}_(KEY|TOKEN)$")


class Strict(BaseModel):
    """A section of settings: an unknown key is an error, and nothing changes later.

    Errors leave it to us which values they show (`explaining.reason`), in tracebacks too.
    """

    model_config = ConfigDict(extra="forbid", frozen=True, hide_input_in_errors=True)


def _are_defaults(fields: dict[str, bool | int | float | str]) -> dict[str, Any]:
    """Fields that change what the gateway itself does with a request are a client's to send."""
    wrong = sorted(
        {"model", "stream", "n", "logprobs", "top_logprobs", "tool_choice"} & set(fields)
    )
    if wrong:
        raise ValueError(f"{wrong[0]} cannot have a default here")
    return fields


def _is_base_url(url: str) -> str:
    if fault := addresses.fault_of(url):
        raise ValueError(fault)
    return url


def _are_different(urls: list[str]) -> list[str]:
    plain = [addresses.normalised(url) for url in urls]
    doubled = [url for number, url in enumerate(plain) if url in plain[:number]]
    if doubled:
        raise ValueError(f"{doubled[0]} stands twice")
    return urls


def _is_known_engine(name: str) -> str:
    if name not in ENGINES:
        raise ValueError(f"is no engine.{suggestion(name, list(ENGINES))}")
    return name


def _is_engine_choice(name: str) -> str:
    known = [*ENGINE_CHOICES, *(row.name for row in ENGINES.values() if not row.is_in_process)]
    if name not in known:
        raise ValueError(f"is no engine with URLs.{suggestion(name, known)}")
    return name


def _split(text: object) -> object:
    """The parts of a list in one variable."""
    if not isinstance(text, str):
        return text
    return [part.strip() for part in text.split(",") if part.strip()]


def _can_be_sent(key: SecretStr) -> SecretStr:
    """A bearer token goes into a header."""
    if not re.fullmatch(r"[\x21-\x7e]+", key.get_secret_value()):
        raise ValueError("must be printable ASCII without spaces")
    return key


def _cannot_be_guessed(key: SecretStr) -> SecretStr:
    if len(key.get_secret_value()) < MIN_KEY_LENGTH:
        raise ValueError(
            f"must have {MIN_KEY_LENGTH} characters at least; `openssl rand -hex 24` makes one"
        )
    return key


def _is_long_enough_to_sign(key: SecretStr) -> SecretStr:
    if len(key.get_secret_value()) < MIN_SIGNING_LENGTH:
        raise ValueError(
            f"must have {MIN_SIGNING_LENGTH} characters at least (RFC 7518); "
            "`openssl rand -hex 32` makes one"
        )
    return key


def _has_scheme(*schemes: str) -> Callable[[SecretStr], SecretStr]:
    """An address that may hold a password, so that it is never shown."""

    def check(url: SecretStr) -> SecretStr:
        parts = urlsplit(url.get_secret_value())
        if parts.scheme not in schemes:
            raise ValueError(f"must begin with {' or '.join(f'{each}://' for each in schemes)}")
        return url

    return check


Positive = Annotated[float, Field(gt=0, le=86400, allow_inf_nan=False)]
Tokens = Annotated[int, Field(ge=1)]
ModelId = Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9._:/-]{0,127}$")]
RequestFields = Annotated[dict[str, bool | int | float | str], AfterValidator(_are_defaults)]
BaseUrl = Annotated[str, AfterValidator(_is_base_url)]
BaseUrls = Annotated[list[BaseUrl], AfterValidator(_are_different)]
UrlList = Annotated[
    BaseUrls, Field(min_length=1, max_length=MOST_REPLICAS), BeforeValidator(_split)
]
EngineChoice = Annotated[str, AfterValidator(_is_engine_choice)]
EngineName = Annotated[
    str, Field(json_schema_extra={"enum": list(ENGINES)}), AfterValidator(_is_known_engine)
]
KeyName = Annotated[str, Field(pattern=KEY_NAME.pattern)]
ImportPath = Annotated[str, Field(pattern=r"^[A-Za-z_][\w.]*:[A-Za-z_]\w*$")]
Key = Annotated[SecretStr, AfterValidator(_can_be_sent)]
OwnKey = Annotated[Key, AfterValidator(_cannot_be_guessed)]
PostgresUrl = Annotated[SecretStr, AfterValidator(_has_scheme("postgresql", "postgres"))]
RedisUrl = Annotated[SecretStr, AfterValidator(_has_scheme("redis", "rediss", "unix"))]
SigningKey = Annotated[Key, AfterValidator(_is_long_enough_to_sign)]
HttpUrl = Annotated[str, Field(pattern=r"^https?://[^\s]+$")]
Origin = Annotated[str, Field(pattern=r"^(\*|https?://[A-Za-z0-9.-]+(:[0-9]{1,5})?)$")]
