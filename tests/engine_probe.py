"""Asks the engine behind a `make local` directly, past its gateway: what it is really at."""

import re
from functools import cached_property
from typing import Any

import httpx

from tests.local_stack import LocalStack


class EngineProbe:
    """The engine of one model of a running stack. Use as a context manager."""

    def __init__(self, stack: LocalStack, model_id: str = "tiny") -> None:
        entry = next(entry for entry in stack.listed_models() if entry["id"] == model_id)
        self.url: str = entry["replicas"][0]
        self._key = stack.engine_key()

    @cached_property
    def client(self) -> httpx.Client:
        headers = {"authorization": f"Bearer {self._key}"}
        return httpx.Client(base_url=self.url, headers=headers, timeout=10)

    def __enter__(self) -> "EngineProbe":
        return self

    def __exit__(self, *_: object) -> None:
        self.client.close()

    def slots(self) -> list[dict[str, Any]]:
        """The state of each slot, as the engine tells it."""
        slots: list[dict[str, Any]] = self.client.get("/slots").raise_for_status().json()
        return slots

    def busy_slots(self) -> int:
        return sum(bool(slot["is_processing"]) for slot in self.slots())

    def metric(self, name: str) -> float:
        """The value of a gauge or counter such as `requests_deferred`."""
        text = self.client.get("/metrics").raise_for_status().text
        match = re.search(rf"^llamacpp:{name} (\S+)$", text, re.MULTILINE)
        assert match, f"{name} is no metric of the engine"
        return float(match[1])

    def tokens(self, text: str) -> list[int]:
        """The ids of a text's tokens in the model's vocabulary."""
        answer = self.client.post("/tokenize", json={"content": text}).raise_for_status()
        ids: list[int] = answer.json()["tokens"]
        return ids
