"""Gateways with apps, for tests: real PostgreSQL, real keys, the fake engine behind."""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx

from api_server.schemas.apps import Policy
from api_server.services.access.managing import Issued, ManagedApps
from api_server.stores.apps import AppStore
from api_server.stores.postgres import Postgres
from tests.fake_engine import running_engine
from tests.integration.conftest import running_gateway

ADMIN = "the-operator-alone-knows"
CHAT = {"model": "fake", "messages": [{"role": "user", "content": "hi"}]}


@dataclass
class Guarded:
    """A gateway that asks for keys."""

    url: str
    http: httpx.AsyncClient

    async def chat(self, secret: str | None, **body: Any) -> httpx.Response:
        headers = {"authorization": f"Bearer {secret}"} if secret is not None else {}
        return await self.http.post("/v1/chat/completions", json=CHAT | body, headers=headers)

    async def admin(self, method: str, path: str, **options: Any) -> httpx.Response:
        headers = {"authorization": f"Bearer {ADMIN}"}
        return await self.http.request(method, f"/admin/apps{path}", headers=headers, **options)


@asynccontextmanager
async def guarded_gateway(
    folder: Path, postgres_url: str, variables: Mapping[str, str] | None = None, **sections: Any
) -> AsyncIterator[Guarded]:
    """With authentication on, as in production."""
    settings = {
        "ENVIRONMENT": "production",
        "AUTH": "on",
        "POSTGRES_URL": postgres_url,
        "ADMIN_API_KEY": ADMIN,
        **(variables or {}),
    }
    async with (
        running_engine() as engine,
        running_gateway(folder, engine, variables=settings, **sections) as (_, url),
        httpx.AsyncClient(base_url=url, timeout=10) as http,
    ):
        yield Guarded(url, http)


@asynccontextmanager
async def managed_apps(postgres_url: str) -> AsyncIterator[ManagedApps]:
    postgres = Postgres(postgres_url)
    try:
        yield ManagedApps(AppStore(postgres), by="test")
    finally:
        await postgres.aclose()


async def make_app(postgres_url: str, name: str = "shop", **policy: Any) -> Issued:
    async with managed_apps(postgres_url) as apps:
        return await apps.create(name, Policy(**policy))


async def has_status(guarded: Guarded, key: str | None, status: int) -> bool:
    return (await guarded.chat(key)).status_code == status


async def until(claim: Callable[[], Awaitable[bool]], seconds: float) -> None:
    """Wait until a claim holds."""
    async with asyncio.timeout(seconds):
        while not await claim():
            await asyncio.sleep(0.02)
