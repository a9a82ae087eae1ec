"""Clients of OpenAI's for tests of what is kept, each answer validated against the reference."""

import re
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Any

import asyncpg
import jwt
import openai

from api_server.services.access.managing import Issued
from tests.access import Guarded, make_app, until
from tests.wire import assert_valid

SECRET = "a-secret-that-is-long-enough-for-it"

_ANSWERS = (
    (r"POST /v1/assistants(/[^/]+)?", "AssistantObject"),
    (r"GET /v1/assistants", "ListAssistantsResponse"),
    (r"GET /v1/assistants/[^/]+", "AssistantObject"),
    (r"DELETE /v1/assistants/[^/]+", "DeleteAssistantResponse"),
    (r"POST /v1/threads(/[^/]+)?", "ThreadObject"),
    (r"GET /v1/threads/[^/]+", "ThreadObject"),
    (r"DELETE /v1/threads/[^/]+", "DeleteThreadResponse"),
    (r"POST /v1/threads/[^/]+/messages(/[^/]+)?", "MessageObject"),
    (r"GET /v1/threads/[^/]+/messages", "ListMessagesResponse"),
    (r"GET /v1/threads/[^/]+/messages/[^/]+", "MessageObject"),
    (r"DELETE /v1/threads/[^/]+/messages/[^/]+", "DeleteMessageResponse"),
)


def answer_schema(method: str, path: str) -> str:
    """The name of what the reference says that this is answered with."""
    names = [name for pattern, name in _ANSWERS if re.fullmatch(pattern, f"{method} {path}")]
    assert len(names) == 1, f"{method} {path} has no schema here"
    return names[0]


async def _validate(response: Any) -> None:
    await response.aread()
    request = response.request
    is_error = response.is_error
    schema = "ErrorResponse" if is_error else answer_schema(request.method, request.url.path)
    assert_valid(schema, response.json())


@dataclass(frozen=True)
class Kept:
    """A client, its HTTP connection, and the app it speaks for."""

    client: openai.AsyncOpenAI
    http: Any
    app: Issued

    @property
    def assistants(self) -> Any:
        return self.client.beta.assistants

    @property
    def threads(self) -> Any:
        return self.client.beta.threads

    async def refusal(self, method: str, path: str, content: Any = None) -> tuple[int, str]:
        """The status and the sentence of a request that must fail."""
        if isinstance(content, bytes):
            answer = await self.http.request(method, path, content=content)
        else:
            answer = await self.http.request(method, path, json=content)
        assert answer.status_code >= 400, answer.text
        return answer.status_code, answer.json()["error"]["message"]


@asynccontextmanager
async def client_of(
    guarded: Guarded, postgres_url: str, name: str = "shop", **policy: Any
) -> AsyncIterator[Kept]:
    """For a new app, which the gateway knows by now."""
    app = await make_app(postgres_url, name, **policy)
    headers = {"authorization": f"Bearer {app.key}"}

    async def is_known() -> bool:
        return (await guarded.http.get("/v1/models", headers=headers)).status_code == 200

    await until(is_known, 5)
    async with _client(guarded, app.key or "", app) as client:
        yield client


@asynccontextmanager
async def user_of(guarded: Guarded, app: Issued, user: str) -> AsyncIterator[Kept]:
    """An end user of an app, with a token."""
    claims = {"sub": user, "app": app.app.name, "exp": int(time.time()) + 300}
    async with _client(guarded, jwt.encode(claims, SECRET, "HS256"), app) as client:
        yield client


@asynccontextmanager
async def _client(guarded: Guarded, key: str, app: Issued) -> AsyncIterator[Kept]:
    async with openai.DefaultAsyncHttpxClient(
        base_url=guarded.url,
        headers={"authorization": f"Bearer {key}"},
        event_hooks={"response": [_validate]},
        timeout=10,
    ) as http:
        yield Kept(
            openai.AsyncOpenAI(
                base_url=f"{guarded.url}/v1", api_key=key, max_retries=0, http_client=http
            ),
            http,
            app,
        )


async def command(postgres_url: str, sql: str, *values: Any) -> list[Any]:
    """Ask PostgreSQL itself."""
    connection = await asyncpg.connect(postgres_url)
    try:
        return await connection.fetch(sql, *values)
    finally:
        await connection.close()


async def begin_run(postgres_url: str, app_id: str, thread_id: str, run_id: str = "run_1") -> None:
    """An active run, as whoever creates one would leave it."""
    await command(
        postgres_url,
        "insert into runs (id, thread_id, app_id, assistant_id, body, job_id) "
        "values ($1, $2, $3, 'asst_1', '{}', 'job_1')",
        *(run_id, thread_id, app_id),
    )
