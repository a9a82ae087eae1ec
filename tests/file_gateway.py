"""A gateway that keeps files: real PostgreSQL, a real server that speaks S3, apps with keys."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import asyncpg
import httpx
import openai

from tests.access import guarded_gateway, make_app, until
from tests.s3 import S3Server

BUCKET = "stack-files"


@dataclass
class FileGateway:
    """One app's clients, and what is in the stores."""

    url: str
    key: str
    http: httpx.AsyncClient
    client: openai.AsyncOpenAI
    _s3: S3Server | None
    postgres_url: str

    def as_app(self, key: str | None) -> httpx.AsyncClient:
        return httpx.AsyncClient(
            base_url=self.url, headers={"authorization": f"Bearer {key}"}, timeout=20
        )

    async def another_app(self) -> str:
        """The key of one that the gateway knows already."""
        made = await make_app(self.postgres_url, "other")
        key = made.key or ""

        async def is_known() -> bool:
            async with self.as_app(key) as http:
                return (await http.get("/v1/models")).status_code == 200

        await until(is_known, 10)
        return key

    @property
    def s3(self) -> S3Server:
        assert self._s3 is not None
        return self._s3

    def objects(self) -> set[str]:
        """Names of what lies in the bucket."""
        return objects_in(self.s3)

    async def rows(self, query: str) -> list[Any]:
        return await rows_of(self.postgres_url, query)

    async def tied(self) -> set[str]:
        """Names of objects that belong to something, or are to be removed."""
        return await tied_objects(self.postgres_url)

    async def swept(self) -> None:
        """Wait until the bucket holds what belongs to files and uploads, and nothing else."""
        await until_equal(self.postgres_url, self.s3)

    async def emptied(self) -> None:
        """Delete all files, end all uploads, and wait until nothing of them is left."""
        await self.rows("update files set expires_at = now()")
        await self.rows("update uploads set expires_at = now()")
        async with asyncio.timeout(10):
            while await self.rows("select from app_files where bytes <> 0"):
                await asyncio.sleep(0.05)
        await until_equal(self.postgres_url, self.s3, is_empty=True)


def objects_in(s3: S3Server) -> set[str]:
    folder = s3.folder / BUCKET
    return {each.name for each in folder.iterdir()} if folder.exists() else set()


async def rows_of(postgres_url: str, query: str) -> list[Any]:
    connection = await asyncpg.connect(postgres_url)
    try:
        return await connection.fetch(query)
    finally:
        await connection.close()


async def tied_objects(postgres_url: str) -> set[str]:
    query = "select object from file_parts union all select unnest(objects) from upload_parts"
    return {row["object"] for row in await rows_of(postgres_url, query)}


async def until_equal(
    postgres_url: str, s3: S3Server, seconds: float = 20, *, is_empty: bool = False
) -> None:
    try:
        async with asyncio.timeout(seconds):
            while True:
                loose = await rows_of(postgres_url, "select object from loose_objects")
                tied = await tied_objects(postgres_url)
                if not loose and objects_in(s3) == tied and not (is_empty and tied):
                    return
                await asyncio.sleep(0.05)
    except TimeoutError:
        loose = await rows_of(postgres_url, "select * from loose_objects")
        raise AssertionError(
            f"in the bucket: {objects_in(s3)}, loose: {loose}, "
            f"in use: {await tied_objects(postgres_url)}"
        ) from None


FILES = {
    "sweep_seconds": 0.1,
    "loose_seconds": 8,
    "stall_seconds": 1,
    "max_file_bytes": 64 * 1024 * 1024,
}


@asynccontextmanager
async def file_gateway(
    folder: Path, postgres_url: str, s3: S3Server | None, **files: Any
) -> AsyncIterator[FileGateway]:
    """With these settings of `files`; `s3` None: it is told of no object store."""
    app = await make_app(postgres_url)
    key = app.key or ""
    if s3 is not None:
        for name in objects_in(s3):  # of a test that failed
            (s3.folder / BUCKET / name).unlink()
    async with guarded_gateway(
        folder, postgres_url, s3.variables if s3 else {}, files=FILES | files
    ) as guarded:
        headers = {"authorization": f"Bearer {key}"}
        async with (
            httpx.AsyncClient(base_url=guarded.url, headers=headers, timeout=20) as http,
            openai.AsyncOpenAI(base_url=f"{guarded.url}/v1", api_key=key, max_retries=0) as client,
        ):
            yield FileGateway(guarded.url, key, http, client, s3, postgres_url)
