"""Buckets, in a real server that speaks S3."""

import asyncio
import contextlib
import secrets
import socket
from collections.abc import AsyncIterator

import pytest

from api_server.errors import DependencyDownError, ObjectKeptError, SetupError, StoreAwayError
from api_server.stores.objects import Objects
from tests.qdrant import QdrantServer
from tests.s3 import S3Server, running_s3


@pytest.fixture
def bucket() -> str:
    return f"test-{secrets.token_hex(6)}"


@pytest.fixture
async def objects(s3_server: S3Server) -> AsyncIterator[Objects]:
    opened = Objects(s3_server.url, s3_server.access_key, s3_server.secret_key)
    yield opened
    await opened.aclose()


async def test_a_bucket_is_made_once(s3_server: S3Server, objects: Objects, bucket: str) -> None:
    assert await objects.ensure_bucket(bucket) is True
    assert (s3_server.folder / bucket).is_dir()
    assert await objects.ensure_bucket(bucket) is False


async def test_ten_at_once_all_succeed(objects: Objects, bucket: str) -> None:
    made = await asyncio.gather(*(objects.ensure_bucket(bucket) for _ in range(10)))
    assert any(made)
    assert await objects.ensure_bucket(bucket) is False


@pytest.mark.parametrize("wrong", ["access_key", "secret_key"])
async def test_wrong_keys_are_refused_with_a_sentence(
    wrong: str, s3_server: S3Server, bucket: str
) -> None:
    keys = {"access_key": s3_server.access_key, "secret_key": s3_server.secret_key}
    objects = Objects(s3_server.url, **(keys | {wrong: "somebody-elses"}))
    with pytest.raises(SetupError, match="refuses S3_ACCESS_KEY with S3_SECRET_KEY") as caught:
        await objects.ensure_bucket(bucket)
    assert not isinstance(caught.value, StoreAwayError)
    assert not (s3_server.folder / bucket).exists()
    await objects.aclose()


async def test_a_server_that_goes_away_and_comes_back(bucket: str) -> None:
    with running_s3() as server:
        objects = Objects(server.url, server.access_key, server.secret_key)
        await objects.ensure_bucket(bucket)
        server.kill()
        with pytest.raises(StoreAwayError, match="does not answer at S3_URL"):
            await objects.ensure_bucket(bucket)
        server.start()
        server.wait()
        assert await objects.ensure_bucket(bucket) is False
        await objects.aclose()


@pytest.mark.parametrize(("fault", "put_seconds", "get_seconds"), [("down", 1, 1), ("hangs", 4, 3)])
async def test_an_outage_is_told_soon_also_while_nobody_knows_of_it(
    fault: str, put_seconds: float, get_seconds: float, bucket: str
) -> None:
    with running_s3() as server:
        objects = Objects(server.url, server.access_key, server.secret_key)
        await objects.put(bucket, "there", b"x")
        (server.kill if fault == "down" else server.pause)()
        async with asyncio.timeout(put_seconds):
            with pytest.raises(DependencyDownError):
                await objects.put(bucket, "new", bytes(2 * 1024 * 1024))
        async with asyncio.timeout(get_seconds):
            with pytest.raises(DependencyDownError):
                await objects.get(bucket, "there", 0, 1)
        await objects.aclose()


async def test_a_server_that_hangs(bucket: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("api_server.stores.objects.READ_SECONDS", 0.2)
    with socket.create_server(("127.0.0.1", 0)) as silent:
        objects = Objects(f"http://127.0.0.1:{silent.getsockname()[1]}", "key", "secret")
        async with asyncio.timeout(2):
            with pytest.raises(StoreAwayError, match="ReadTimeoutError"):
                await objects.ensure_bucket(bucket)
        await objects.aclose()


@pytest.mark.parametrize("status", [500, 503])
async def test_a_server_that_is_not_ready(status: int, bucket: str) -> None:
    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        writer.write(b"HTTP/1.1 %d Not Now\r\ncontent-length: 0\r\n\r\n" % status)
        await writer.drain()
        writer.close()

    server = await asyncio.start_server(answer, "127.0.0.1", 0)
    objects = Objects(f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}", "key", "secret")
    with pytest.raises(StoreAwayError, match=f"status {status}"):
        await objects.ensure_bucket(bucket)
    await objects.aclose()
    server.close()
    await server.wait_closed()


@contextlib.asynccontextmanager
async def refusing(status: int, code: str) -> AsyncIterator[str]:
    """The address of a server that refuses everything."""
    body = f"<Error><Code>{code}</Code><Message>no</Message></Error>".encode()
    head = f"HTTP/1.1 {status} No\r\ncontent-type: application/xml\r\nconnection: close\r\n"

    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        writer.write(f"{head}content-length: {len(body)}\r\n\r\n".encode() + body)
        await writer.drain()
        writer.close()

    async with await asyncio.start_server(answer, "127.0.0.1", 0) as server:
        yield f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}"


@pytest.mark.parametrize("code", ["AccessDenied", "InvalidRequest"])
async def test_an_object_under_a_lock_is_no_outage(code: str, bucket: str) -> None:
    async with refusing(403, code) as url:
        objects = Objects(url, "key", "secret")
        for _ in range(5):
            with pytest.raises(ObjectKeptError, match=code):
                await objects.remove(bucket, "locked")
        assert objects.dependency.is_up
        await objects.aclose()


async def test_keys_that_are_refused_are_an_outage(bucket: str) -> None:
    async with refusing(403, "SignatureDoesNotMatch") as url:
        objects = Objects(url, "key", "secret")
        for _ in range(3):
            with pytest.raises(DependencyDownError):
                await objects.remove(bucket, "any")
        assert not objects.dependency.is_up
        await objects.aclose()


async def test_a_server_that_is_none_of_s3(qdrant_server: QdrantServer, bucket: str) -> None:
    objects = Objects(qdrant_server.url, "key", "secret")
    with pytest.raises(SetupError, match=r"does not do as an object store should|refuses"):
        await objects.ensure_bucket(bucket)
    await objects.aclose()


def test_an_address_with_a_path_is_refused() -> None:
    with pytest.raises(SetupError, match=r"S3_URL.*as http://minio:9000"):
        Objects("http://127.0.0.1:9000/bucket", "key", "secret")
