"""Assistants, threads and runs for tests: a gateway with PostgreSQL, OpenAI's own client."""

import json
import time
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx
import openai

from tests.fake_engine import FakeEngine, running_engine
from tests.integration.conftest import running_gateway
from tests.wire import assert_valid

WEATHER: Any = {
    "type": "function",
    "function": {
        "name": "get_weather",
        "description": "How the weather is.",
        "parameters": {"type": "object", "properties": {"city": {"type": "string"}}},
    },
}
CALL = {"name": "get_weather", "arguments": '{"city": "Berlin"}'}

OBJECTS = {
    "thread.created": "ThreadObject",
    "thread.run.step.delta": "RunStepDeltaObject",
    "thread.message.delta": "MessageDeltaObject",
}


@dataclass(frozen=True)
class Told:
    """An event of a stream."""

    id: int | None
    event: str
    data: Any


@dataclass
class Home:
    """The pair under test, and clients for it."""

    engine: FakeEngine
    url: str
    http: httpx.AsyncClient
    client: openai.AsyncOpenAI
    plain: openai.OpenAI
    assistants: list[str] = field(default_factory=list)

    async def assistant(self, **fields: Any) -> str:
        told = {"model": "fake", "instructions": "Be brief."} | fields
        return str((await self.post("/v1/assistants", told))["id"])

    async def thread(self, *texts: str) -> str:
        messages = [{"role": "user", "content": text} for text in texts or ("hello",)]
        return str((await self.post("/v1/threads", {"messages": messages}))["id"])

    async def post(
        self, path: str, body: Mapping[str, Any] | None = None, status: int = 200
    ) -> Any:
        answer = await self.http.post(path, json=body or {})
        assert answer.status_code == status, answer.text
        return answer.json()

    async def get(self, path: str, status: int = 200, **params: Any) -> Any:
        answer = await self.http.get(path, params=params)
        assert answer.status_code == status, answer.text
        return answer.json()

    async def run(self, thread_id: str, assistant_id: str, status: int = 200, **body: Any) -> Any:
        told = {"assistant_id": assistant_id} | body
        made = await self.post(f"/v1/threads/{thread_id}/runs", told, status)
        if status == 200:
            assert_valid("RunObject", made)
        return made

    async def until(
        self, thread_id: str, run_id: str, *states: str, seconds: float = 8
    ) -> dict[str, Any]:
        wanted = states or ("completed", "failed", "cancelled", "expired", "incomplete")
        deadline = time.monotonic() + seconds
        while True:
            run: dict[str, Any] = await self.get(f"/v1/threads/{thread_id}/runs/{run_id}")
            assert_valid("RunObject", run)
            if run["status"] in wanted:
                return run
            assert time.monotonic() < deadline, run

    async def stream(self, path: str, body: Mapping[str, Any] | None = None) -> list[Told]:
        """A whole stream, each event valid; a GET where there is no body."""
        verb = "GET" if body is None else "POST"
        async with self.http.stream(verb, path, json=body) as answer:
            assert answer.status_code == 200, await answer.aread()
            return [event async for event in events_of(answer)]

    async def see(self, path: str, event: str, count: int = 1) -> None:
        """Read a stream until it has had so many events of this name; then leave."""
        async with self.http.stream("GET", path) as answer:
            async for told in events_of(answer):
                count -= told.event == event
                if count <= 0:
                    return
        raise AssertionError(f"the stream ended before {event}")

    async def messages(self, thread_id: str) -> list[dict[str, Any]]:
        """The oldest first."""
        listed = await self.get(f"/v1/threads/{thread_id}/messages", order="asc", limit=100)
        for message in listed["data"]:
            assert_valid("MessageObject", message)
        found: list[dict[str, Any]] = listed["data"]
        return found

    async def steps(self, thread_id: str, run_id: str) -> list[dict[str, Any]]:
        path = f"/v1/threads/{thread_id}/runs/{run_id}/steps"
        listed = await self.get(path, order="asc", limit=100)
        assert_valid("ListRunStepsResponse", listed)
        found: list[dict[str, Any]] = listed["data"]
        return found


async def events_of(answer: httpx.Response) -> AsyncIterator[Told]:
    """Each event as it comes, valid by the reference."""
    told: dict[str, str] = {}
    async for line in answer.aiter_lines():
        if line.startswith(":"):
            continue
        if line:
            name, _, value = line.partition(": ")
            told[name] = value
            continue
        if not told:
            continue
        event = told["event"]
        if event == "done":
            assert told["data"] == "[DONE]"
            yield Told(None, event, None)
        else:
            data = json.loads(told["data"])
            assert_valid("AssistantStreamEvent", {"event": event, "data": data})
            yield Told(int(told["id"]) if "id" in told else None, event, data)
        told = {}


def names(events: Sequence[Told]) -> list[str]:
    """Of events; those of deltas in a row are one."""
    found = [each.event for each in events]
    return [name for number, name in enumerate(found) if number == 0 or name != found[number - 1]]


def text_of(events: Sequence[Told]) -> str:
    """The pieces of text joined."""
    return "".join(
        part["text"].get("value", "")
        for each in events
        if each.event == "thread.message.delta"
        for part in each.data["delta"]["content"]
    )


@asynccontextmanager
async def assistants_home(
    folder: Path,
    postgres_url: str,
    variables: Mapping[str, str] | None = None,
    **sections: Any,
) -> AsyncIterator[Home]:
    told = {"POSTGRES_URL": postgres_url, "AUTH": "off", "ENVIRONMENT": "development"}
    async with (
        running_engine() as engine,
        running_gateway(folder, engine, variables=told | dict(variables or {}), **sections) as (
            _,
            url,
        ),
        httpx.AsyncClient(base_url=url, timeout=10) as http,
        openai.AsyncOpenAI(base_url=f"{url}/v1", api_key="none", max_retries=0) as client,
    ):
        with openai.OpenAI(base_url=f"{url}/v1", api_key="none", max_retries=0) as plain:
            yield Home(engine, url, http, client, plain)
