"""Files when something goes away: the gateway (kill -9), the object store (killed, stopped)."""

import asyncio
import os
import random
import re
import time
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
import yaml

from api_server.errors import DependencyDownError, ObjectKeptError
from api_server.local.process import free_port
from api_server.services.files.bucket import Bucket
from api_server.services.files.sweep import Sweep
from api_server.stores.files import FileStore
from api_server.stores.objects import Objects
from api_server.stores.postgres import Postgres
from api_server.stores.uploads import UploadStore
from tests.access import CHAT, make_app
from tests.fake_engine import running_engine
from tests.file_gateway import (
    BUCKET,
    FILES,
    FileGateway,
    file_gateway,
    objects_in,
    rows_of,
    until_equal,
)
from tests.job_programs import Program
from tests.s3 import S3Server, running_s3
from tests.wire import assert_valid

MIB = 1024 * 1024
LARGE_MIB = int(os.environ.get("LARGE_UPLOAD_MIB", "300"))
"""Of the upload whose memory is measured."""

FORM = {"content-type": "multipart/form-data; boundary=b"}
HEAD = b'--b\r\ncontent-disposition: form-data; name="file"; filename="a.bin"\r\n\r\n'
TAIL = b'\r\n--b\r\ncontent-disposition: form-data; name="purpose"\r\n\r\nuser_data\r\n--b--\r\n'


@pytest.fixture
def own_s3() -> Iterator[S3Server]:
    with running_s3() as server:
        yield server


async def upload(http: httpx.AsyncClient, megabytes: int) -> httpx.Response:
    chunk = os.urandom(MIB)

    async def content() -> AsyncIterator[bytes]:
        yield HEAD
        for _ in range(megabytes):
            yield chunk
        yield TAIL

    return await http.post("/v1/files", content=content(), headers=FORM)


class Served:
    """A gateway as a process, and a client of it."""

    def __init__(self, program: Program, http: httpx.AsyncClient) -> None:
        self.program = program
        self.http = http

    async def start(self) -> None:
        await self.program.start()
        async with asyncio.timeout(30):
            while True:
                try:
                    if (await self.http.get("/health/live")).status_code == 200:
                        return
                except httpx.HTTPError:
                    await asyncio.sleep(0.05)

    def resident_mib(self) -> float:
        status = Path(f"/proc/{self.program.pid}/status").read_text()
        found = re.search(r"VmRSS:\s+(\d+) kB", status)
        assert found is not None
        return int(found[1]) / 1024


@pytest.fixture
async def served(tmp_path: Path, postgres_url: str, own_s3: S3Server) -> AsyncIterator[Served]:
    app = await make_app(postgres_url)
    port = free_port()
    async with running_engine() as engine:
        section = FILES | {"max_file_bytes": 4096 * MIB, "loose_seconds": 5, "stall_seconds": 20}
        model = {"id": "fake", "replicas": [f"http://127.0.0.1:{engine.port}"]}
        (tmp_path / "stack.yaml").write_text(yaml.safe_dump({"files": section, "models": [model]}))
        variables = {
            "STACK_CONFIG": str(tmp_path / "stack.yaml"),
            "DATA_DIR": str(tmp_path / "data"),
            "PORT": str(port),
            "AUTH": "on",
            "POSTGRES_URL": postgres_url,
            **own_s3.variables,
        }
        program = Program("serve", variables, tmp_path / "log")
        headers = {"authorization": f"Bearer {app.key}"}
        url = f"http://127.0.0.1:{port}"
        async with httpx.AsyncClient(base_url=url, headers=headers, timeout=120) as http:
            try:
                yield Served(program, http)
            finally:
                await program.kill()


async def test_memory_of_a_large_upload_and_its_download(served: Served) -> None:
    await served.start()
    assert (await upload(served.http, 1)).status_code == 200
    peaks = [before := served.resident_mib()]

    async def watch() -> None:
        while True:
            peaks.append(served.resident_mib())
            await asyncio.sleep(0.02)

    watching = asyncio.create_task(watch())
    began = time.monotonic()
    answer = await upload(served.http, LARGE_MIB)
    seconds = time.monotonic() - began
    assert answer.status_code == 200, answer.text
    assert answer.json()["bytes"] == LARGE_MIB * MIB
    uploading, count = max(peaks), 0
    path = f"/v1/files/{answer.json()['id']}/content"
    async with served.http.stream("GET", path) as content:
        async for chunk in content.aiter_raw():
            count += len(chunk)
    watching.cancel()
    print(
        f"resident: {before:.0f} MiB before, at most {uploading:.0f} in an upload of {LARGE_MIB} "
        f"MiB ({seconds:.1f} s), {max(peaks):.0f} in its download"
    )
    assert count == LARGE_MIB * MIB
    assert max(peaks) < 100
    assert max(peaks) - before < 20


async def test_kill_9_at_any_moment_leaves_bucket_and_rows_equal(
    served: Served, postgres_url: str, own_s3: S3Server
) -> None:
    chance = random.Random(7)
    kept: set[str] = set()
    for _ in range(6):
        await served.start()
        uploads = [asyncio.create_task(upload(served.http, 20)) for _ in range(3)]
        if kept:
            gone = min(kept)
            uploads.append(asyncio.create_task(served.http.delete(f"/v1/files/{gone}")))
        await asyncio.sleep(chance.uniform(0.05, 1.5))
        await served.program.kill()
        ended = await asyncio.gather(*uploads, return_exceptions=True)
        for answer in ended:
            if isinstance(answer, httpx.Response) and answer.status_code == 200:
                told = answer.json()
                (kept.discard if told.get("deleted") else kept.add)(told["id"])
    await served.start()
    await until_equal(postgres_url, own_s3, 30)
    rows = await rows_of(postgres_url, "select id from files")
    assert kept - {row["id"] for row in rows} <= {min(kept, default="")}  # its delete was not heard
    [sums] = await rows_of(
        postgres_url,
        "select (select coalesce(sum(bytes), 0) from files) as files, "
        "(select coalesce(sum(bytes), 0) from app_files) as counted",
    )
    assert sums["files"] == sums["counted"]
    for row in rows:
        content = await served.http.get(f"/v1/files/{row['id']}/content")
        assert len(content.content) == 20 * MIB


@pytest.fixture
async def files(tmp_path: Path, postgres_url: str, own_s3: S3Server) -> AsyncIterator[FileGateway]:
    async with file_gateway(tmp_path, postgres_url, own_s3, stall_seconds=10) as gateway:
        yield gateway


async def chat_seconds(files: FileGateway) -> float:
    began = time.monotonic()
    answer = await files.http.post("/v1/chat/completions", json=CHAT)
    assert answer.status_code == 200, answer.text
    return time.monotonic() - began


async def is_back(files: FileGateway, file_id: str) -> bool:
    return (await files.http.get(f"/v1/files/{file_id}/content")).content == b"hello"


@pytest.mark.parametrize("fault", ["down", "hanging"])
async def test_without_the_object_store_files_are_503_and_chats_know_nothing_of_it(
    files: FileGateway, fault: str
) -> None:
    small: Any = {"files": {"file": ("a.txt", b"hello")}, "data": {"purpose": "user_data"}}
    made = (await files.http.post("/v1/files", **small)).json()["id"]
    assert (await files.http.get("/health/ready")).json()["dependencies"]["objects"] == "up"
    (files.s3.kill if fault == "down" else files.s3.pause)()
    slowest, chats = 0.0, [await chat_seconds(files)]
    for _ in range(3):
        began = time.monotonic()
        asked = (
            *(files.http.post("/v1/files", **small) for _ in range(12)),
            *(files.http.get(f"/v1/files/{made}/content") for _ in range(12)),
        )
        answering = asyncio.gather(*asked)
        while not answering.done():
            chats.append(await chat_seconds(files))
            await asyncio.sleep(0.02)
        for answer in await answering:
            assert answer.status_code == 503, answer.text
            assert_valid("ErrorResponse", answer.json())
            assert int(answer.headers["retry-after"]) >= 1
            assert answer.json()["error"]["code"] == "dependency_down"
        slowest = max(slowest, time.monotonic() - began)
    print(f"{fault}: the slowest 503 after {slowest:.2f} s, the slowest chat {max(chats):.2f} s")
    assert slowest < (2 if fault == "down" else 6)
    assert max(chats) < 2
    assert (await files.http.get(f"/v1/files/{made}")).status_code == 200  # needs no content
    ready = await files.http.get("/health/ready")
    assert (ready.status_code, ready.json()["dependencies"]["objects"]) == (200, "down")
    if fault == "down":
        files.s3.start()
        files.s3.wait()
    else:
        files.s3.resume()
    async with asyncio.timeout(15):
        while not await is_back(files, made):
            await asyncio.sleep(0.1)
    assert (await files.http.post("/v1/files", **small)).status_code == 200
    await files.emptied()


class Stubborn(Objects):
    """The real one, that does not remove some."""

    def __init__(self, s3: S3Server, *errors: Exception) -> None:
        super().__init__(s3.url, s3.access_key, s3.secret_key)
        self.errors = errors
        self.tried: list[str] = []

    async def remove(self, bucket: str, name: str) -> None:
        self.tried.append(name)
        kept = int(name.removeprefix("object-"))
        if kept < len(self.errors):
            raise self.errors[kept]
        await super().remove(bucket, name)


async def test_objects_that_cannot_be_removed_keep_no_others(
    postgres_url: str, own_s3: S3Server, caplog: pytest.LogCaptureFixture
) -> None:
    """Though they are first, and as many as are removed at once."""
    postgres = Postgres(postgres_url)
    objects = Stubborn(own_s3, *[ObjectKeptError("locked"), DependencyDownError("objects")] * 2)
    store, names = FileStore(postgres), [f"object-{n}" for n in range(10)]
    sweep = Sweep(
        *(store, UploadStore(postgres), Bucket(objects, BUCKET)),
        sweep_seconds=0.5,
        loose_seconds=60,
        is_up=lambda: objects.dependency.is_up,
    )
    try:
        for name in names:
            await store.loose.announce("a", name)
            await objects.put(BUCKET, name, b"x")
        await store.loose.doom(names)
        assert await sweep.sweep() == 6
        assert objects_in(own_s3) == set(names[:4])
        assert await sweep.sweep() == 0
        assert objects.tried.count("object-0") == 1, "not at once again"
        complaints = [each for each in caplog.records if "cannot be removed" in each.message]
        assert len(complaints) == 1
        objects.errors = ()
        await asyncio.sleep(0.6)
        assert await sweep.sweep() == 4
        assert objects_in(own_s3) == set()
        assert await rows_of(postgres_url, "select from loose_objects") == []
    finally:
        await objects.aclose()
        await postgres.aclose()


async def test_files_without_an_object_store_say_what_to_set(
    tmp_path: Path, postgres_url: str
) -> None:
    async with file_gateway(tmp_path, postgres_url, None) as files:
        for method, path in (("GET", "/v1/files"), ("POST", "/v1/files"), ("POST", "/v1/uploads")):
            answer = await files.http.request(method, path)
            assert answer.status_code == 503
            assert "S3_URL" in answer.json()["error"]["message"]
            assert answer.headers["retry-after"]
