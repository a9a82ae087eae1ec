"""Asks a gateway what the load tests must know of it: models, tokens a word, context, version."""

import json
import math
import re
import time
from collections.abc import Collection
from dataclasses import dataclass, field
from random import Random
from typing import Any

from load_tests.answers import NOT_OF_THE_FORMAT, error_kind, plain
from load_tests.client import Client, Response, TimeOuts, TransferError
from load_tests.scenarios import SCENARIOS
from load_tests.scenarios.ask import CHAT
from load_tests.scenarios.words import words

SAMPLE_WORDS = 100
MANY_TOKENS = 4096
"""The longest scenario wants less."""

CHATS = frozenset(SCENARIOS) - {"embeddings", "jobs"}
LONG_SCENARIOS = frozenset({"long", "retrieval", "chat"})

_CONTEXT = re.compile(r"(?:context holds|context length is) (\d+) tokens")


class ProbeError(Exception):
    """The gateway cannot be reached, or not be used; says what to do."""


@dataclass(frozen=True, slots=True)
class Known:
    """What was found. `left_out`: scenarios that this gateway cannot do, with the reason.

    `probes`: requests to models that were needed to find out. `needs_usage`: it is a gateway of
    this stack, whose answers say what they used; of another server tokens are counted where not.
    """

    model: str = ""
    embedding_model: str = ""
    tokens_per_word: float = 1.3
    context_tokens: int = 2048
    takes_ignore_eos: bool = False
    gateway_version: str | None = None
    engine_version: str | None = None
    needs_usage: bool = True
    left_out: dict[str, str] = field(default_factory=dict)
    probes: int = 0


class Probe:
    """Questions to one gateway, before a run."""

    def __init__(self, host: str, key: str | None, seconds: float = 60) -> None:
        """Raises `ValueError` for what is no URL."""
        self._host = host
        self._has_key = key is not None
        self._probes = 0
        self._client = Client(host, key, time.monotonic, TimeOuts(seconds, seconds))

    def ask(
        self, wanted: Collection[str], model: str | None = None, context: int | None = None
    ) -> Known:
        """What the scenarios `wanted` need. Raises `ProbeError`."""
        try:
            return self._ask(wanted, model, context)
        except TransferError as exc:
            raise ProbeError(
                f"{self._host} gives no answer ({exc}). Start the stack, or name another --host."
            ) from exc
        except NOT_OF_THE_FORMAT as exc:
            raise ProbeError(
                f"that is no gateway of this stack: its answers are of another form "
                f"({type(exc).__name__}). Name another --host."
            ) from exc
        finally:
            self._client.close()

    def _ask(self, wanted: Collection[str], model: str | None, context: int | None) -> Known:
        health = self._health()
        served = self._models()
        left_out = {}
        if "jobs" in wanted and health.get("jobs") is None:
            left_out["jobs"] = "the gateway has no jobs: they need PostgreSQL"
        embedding_model = self._embedding_model(served) if "embeddings" in wanted else ""
        if "embeddings" in wanted and not embedding_model:
            left_out["embeddings"] = "no model of the gateway makes vectors"
        version = _name(health.get("version"))
        if not CHATS & set(wanted):
            return Known(
                embedding_model=embedding_model,
                gateway_version=version,
                needs_usage=version is not None,
                left_out=left_out,
                probes=self._probes,
            )
        served.sort(key=lambda name: name == embedding_model)
        chat, first, was_forced = self._first_that_chats([model] if model else served)
        choice, per_word = first["choices"][0], Known().tokens_per_word
        is_whole = choice.get("finish_reason") == "length"
        if version is not None or first.get("usage"):
            usage = first["usage"]
            is_whole = is_whole and usage["completion_tokens"] == 2
            per_word = max(0.5, int(usage["prompt_tokens"]) / SAMPLE_WORDS)
        if context is None:
            context = MANY_TOKENS
            if LONG_SCENARIOS & set(wanted):
                context = self._context(chat, per_word)
        return Known(
            model=chat,
            embedding_model=embedding_model,
            tokens_per_word=round(per_word, 2),
            context_tokens=context,
            takes_ignore_eos=was_forced and is_whole,
            gateway_version=version,
            needs_usage=version is not None,
            engine_version=_name(first.get("system_fingerprint")),
            left_out=left_out,
            probes=self._probes,
        )

    def _health(self) -> dict[str, Any]:
        """Nothing, of a server that says it in another way."""
        try:
            content = json.loads(self._client.fetch("GET", "/health").body)
        except (ValueError, RecursionError):
            return {}
        return content if isinstance(content, dict) else {}

    def _models(self) -> list[str]:
        answer = self._client.fetch("GET", "/v1/models")
        if answer.status == 401:
            if self._has_key:
                raise ProbeError("the gateway does not take this key: set another OPENAI_API_KEY.")
            raise ProbeError("the gateway asks for a key: set OPENAI_API_KEY.")
        named = [_name(entry["id"]) for entry in _content(answer).get("data", ())]
        served = [name for name in named if name]
        if not served:
            kind = error_kind(answer.status, answer.body)
            raise ProbeError(f"{self._host} serves no model ({kind}).")
        return served

    def _embedding_model(self, served: list[str]) -> str:
        for name in served:
            body = json.dumps({"model": name, "input": "one"}).encode()
            if self._post("/v1/embeddings", body).status == 200:
                return name
        return ""

    def _first_that_chats(self, names: list[str]) -> tuple[str, dict[str, Any], bool]:
        """Its name, its answer to `SAMPLE_WORDS` words, and whether it took `ignore_eos`."""
        said = []
        for name in names:
            for more in ({"ignore_eos": True}, {}):
                answer = self._chat(name, SAMPLE_WORDS, 2, **more)
                if answer.status == 200:
                    return name, _content(answer), bool(more)
                said.append(f"{plain(name)}: {error_kind(answer.status, answer.body)}")
        raise ProbeError(f"no model answers a chat ({'; '.join(said)}).")

    def _context(self, model: str, per_word: float) -> int:
        """Of one request; no more than the scenarios can use."""
        answer = self._chat(model, int(MANY_TOKENS / per_word), 1)
        if answer.status == 200:
            return MANY_TOKENS
        found = _CONTEXT.search(answer.body.decode(errors="replace"))
        if found is None:
            kind = error_kind(answer.status, answer.body)
            raise ProbeError(
                f"the context of {plain(model)} is unknown ({kind}): name it by --context."
            )
        return min(MANY_TOKENS, int(found[1]))

    def _chat(self, model: str, count: int, answer: int, **more: Any) -> Response:
        content = words(Random(count), count)  # noqa: S311
        messages = [{"role": "user", "content": content}]
        body = {"model": model, "messages": messages, "max_tokens": answer} | more
        return self._post(CHAT, json.dumps(body).encode())

    def _post(self, path: str, body: bytes) -> Response:
        self._probes += 1
        return self._client.fetch("POST", path, body)


def _content(answer: Response) -> dict[str, Any]:
    try:
        content = json.loads(answer.body)
    except (ValueError, RecursionError):
        content = None
    if not isinstance(content, dict):
        raise ProbeError(f"that is no gateway of this stack (status {answer.status}).")
    return content


def _name(value: object) -> str | None:
    """Raises `ValueError` for what cannot be written into a file."""
    if value is None:
        return None
    str(value).encode()
    return str(value)


def scenarios_of(text: str) -> dict[str, float]:
    """Names with weights: "short,medium=2", or "all". Raises `ValueError`."""
    if text == "all":
        return dict.fromkeys(SCENARIOS, 1.0)
    found = {}
    for part in text.split(","):
        name, _, weight = part.strip().partition("=")
        if name not in SCENARIOS:
            raise ValueError(f"unknown scenario {name!r}; known: {', '.join(SCENARIOS)}, all")
        found[name] = float(weight or 1)
        if not math.isfinite(found[name]):
            raise ValueError(f"the weight of {name} must be a number above 0")
    return found
