"""Asks the engine behind a `make local` directly, past its gateway: what it is really at."""

import re
from functools import cached_property
from typing import Any

import httpx
import yaml

from tests.local_stack import LocalStack, processes


class EngineProbe:
    """The engine of one model of a running stack. Use as a context manager."""

    def __init__(self, stack: LocalStack, model_id: str = "tiny") -> None:
        document = yaml.safe_load((stack.data_dir / "stack.yaml").read_text())
        entry = next(entry for entry in document["models"] if entry["id"] == model_id)
        self.url: str = entry["replicas"][0]
        self._stack = stack

    @cached_property
    def key(self) -> str:
        """Made anew at each start and told to the gateway in its environment only."""
        mark = f"STACK_CONFIG={self._stack.data_dir / 'stack.yaml'}\0"
        for _, line, environment in processes():
            if "api_server serve" in line and mark in environment:
                variables = dict(
                    entry.split("=", 1) for entry in environment.split("\0") if "=" in entry
                )
                return variables["ENGINE_API_KEY"]
        raise AssertionError("the gateway of this stack does not run")

    @cached_property
    def client(self) -> httpx.Client:
        headers = {"authorization": f"Bearer {self.key}"}
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
