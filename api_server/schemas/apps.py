"""Apps: who may use the stack, for what and how much. Shapes of files, of `/admin/apps`, of tables.

An app has credentials (keys, an app code) and a `Policy`. A `Caller` is an app, perhaps with one of
its users, as a request is told of it.
"""

import re
from dataclasses import dataclass
from typing import Annotated, Literal

from pydantic import AfterValidator, BaseModel, ConfigDict, Field

Priority = Literal["interactive", "default", "batch"]

_RATE = re.compile(r"([1-9][0-9]{0,8})/(second|minute|hour|day)")
SECONDS = {"second": 1, "minute": 60, "hour": 3600, "day": 86400}


class Strict(BaseModel):
    """An unknown key is an error, and nothing changes later."""

    model_config = ConfigDict(extra="forbid", frozen=True)


@dataclass(frozen=True, slots=True)
class RateLimit:
    """So many requests in any `seconds` seconds."""

    requests: int
    seconds: int


def parse_rate(text: str) -> RateLimit:
    """`100/hour`, `10/minute`, `5/second`, `1000/day`. Raises `ValueError` for anything else."""
    match = _RATE.fullmatch(text)
    if match is None:
        raise ValueError(f"{text[:40]!r} is no rate such as 100/hour (second, minute, hour, day)")
    return RateLimit(int(match[1]), SECONDS[match[2]])


def _is_rate(text: str) -> str:
    parse_rate(text)
    return text


def _can_be_kept(text: str) -> str:
    if "\0" in text or (not text.isascii() and any("\ud800" <= each <= "\udfff" for each in text)):
        raise ValueError("holds a character that cannot be kept: a NUL, or half of a pair")
    return text


Rate = Annotated[str, AfterValidator(_is_rate)]
Text = Annotated[str, AfterValidator(_can_be_kept)]
AppName = Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9 ._-]{0,63}$")]
TypeName = Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9_.-]{0,63}$")]


class Limits(Strict):
    """How much at once and over time; what is not set is not limited.

    `rate_limits` are requests in any window of that length, `tokens_per_minute` counts prompt and
    answer, `concurrent_requests` is how many may be under way at the same time.
    """

    rate_limits: list[Rate] = Field([], max_length=4)
    tokens_per_minute: int | None = Field(None, ge=1, le=10**12)
    concurrent_requests: int | None = Field(None, ge=1, le=10**6)


class RequestType(Strict):
    """How a job of this type is put to a model.

    `prompt` is the message for the model, in which `{request}` stands for what the client sent.
    """

    model: Text | None = Field(None, description="Else the app's default, else the first one.")
    system: Text | None = Field(None, max_length=100_000)
    prompt: Text = Field("{request}", max_length=100_000)
    temperature: float = Field(0.7, ge=0, le=2)
    max_tokens: int = Field(1000, ge=1)


class Policy(Limits):
    """What an app may do. `models` None: all of them; `limits_by_model` come on top of its own.

    `weight` is its share when apps compete, within the shares of the classes of `priority`. With
    `cache` on, every deterministic request may be answered from the cache, without asking for it.
    """

    models: list[Text] | None = None
    limits_by_model: dict[Text, Limits] = {}
    max_tokens: int | None = Field(None, ge=1, description="The longest answer it may ask for.")
    priority: Priority = "default"
    weight: float = Field(1.0, ge=0.01, le=100)
    request_types: dict[TypeName, RequestType] = {}
    store_content: bool = False
    cache: bool = False


@dataclass(frozen=True, slots=True)
class App:
    """An app as requests meet it. `id` never changes and is never given to another."""

    id: str
    name: str
    policy: Policy


@dataclass(frozen=True, slots=True)
class Caller:
    """Who sends a request: an app, and the end user it speaks for, where it says so.

    `was_counted` is for a job, whose request was counted when it was accepted.
    """

    app: App
    user: str | None = None
    was_counted: bool = False


CALLER = "llm_serving_stack.caller"
"""Where the ASGI scope of a request has its `Caller`."""

ANYONE = Caller(App("app_anyone", "anyone", Policy()))
"""The caller of every request where authentication is off."""
