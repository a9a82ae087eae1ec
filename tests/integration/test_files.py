"""`/v1/files` with the official client, real PostgreSQL and a real server that speaks S3."""

import asyncio
import hashlib
import os
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any

import httpx
import openai
import pytest

from tests.file_gateway import FileGateway, file_gateway
from tests.integration.conftest import raw_connection
from tests.s3 import S3Server, running_s3
from tests.wire import assert_valid

MIB = 1024 * 1024


@pytest.fixture(scope="module")
def s3() -> Iterator[S3Server]:
    with running_s3() as server:
        yield server


@pytest.fixture
async def files(tmp_path: Path, postgres_url: str, s3: S3Server) -> AsyncIterator[FileGateway]:
    async with file_gateway(tmp_path, postgres_url, s3) as gateway:
        yield gateway
        await gateway.emptied()


def form(content: bytes = b"hello", name: str = "a.txt", **fields: str) -> dict[str, Any]:
    return {"files": {"file": (name, content)}, "data": {"purpose": "assistants"} | fields}


async def refused(gateway: FileGateway, status: int, **request: Any) -> dict[str, Any]:
    answer = await gateway.http.post("/v1/files", **request)
    assert answer.status_code == status, answer.text
    assert_valid("ErrorResponse", answer.json())
    error: dict[str, Any] = answer.json()["error"]
    return error


async def test_the_life_of_a_file_with_the_official_client(files: FileGateway) -> None:
    content = os.urandom(3 * MIB)
    made = await files.client.files.create(file=("notes.pdf", content), purpose="assistants")
    assert_valid("OpenAIFile", made.to_dict())
    assert (made.bytes, made.filename, made.purpose) == (len(content), "notes.pdf", "assistants")
    assert made.id.startswith("file-")
    waited = await files.client.files.wait_for_processing(made.id, poll_interval=0.01)
    assert waited.status == "processed"
    assert (await files.client.files.content(made.id)).content == content
    listed = await files.client.files.list()
    assert [each.id for each in listed.data] == [made.id]
    assert_valid("ListFilesResponse", listed.to_dict())
    gone = await files.client.files.delete(made.id)
    assert_valid("DeleteFileResponse", gone.to_dict())
    with pytest.raises(openai.NotFoundError):
        await files.client.files.retrieve(made.id)
    with pytest.raises(openai.NotFoundError):
        await files.client.files.content(made.id)
    with pytest.raises(openai.NotFoundError):
        await files.client.files.delete(made.id)
    await files.swept()
    assert not files.objects()


async def test_a_file_of_many_pieces_is_whole_and_its_hash_is_kept(files: FileGateway) -> None:
    content = os.urandom(20 * MIB + 17)
    made = await files.client.files.create(file=content, purpose="user_data")
    assert 5 <= len(files.objects()) <= 11
    assert (await files.client.files.content(made.id)).content == content
    [row] = await files.rows("select digest from files")
    assert row["digest"] == hashlib.sha256(content).digest()


async def test_fields_may_come_behind_the_file(files: FileGateway) -> None:
    parts: Any = [
        ("file", ("later.jsonl", b"{}\n")),
        ("purpose", (None, "batch")),
        ("expires_after[seconds]", (None, "3600")),
        ("expires_after[anchor]", (None, "created_at")),
    ]
    answer = await files.http.post("/v1/files", files=parts)
    assert answer.status_code == 200, answer.text
    told = answer.json()
    assert_valid("OpenAIFile", told)
    assert (told["purpose"], told["expires_at"] - told["created_at"]) == ("batch", 3600)


async def test_batches_expire_by_themselves(files: FileGateway) -> None:
    made = await files.client.files.create(file=("b.jsonl", b"{}"), purpose="batch")
    assert made.expires_at == made.created_at + 30 * 86_400
    other = await files.client.files.create(
        file=("b.jsonl", b"{}"),
        purpose="batch",
        expires_after={"anchor": "created_at", "seconds": 7200},
    )
    assert other.expires_at == other.created_at + 7200


async def test_an_expired_file_is_gone(files: FileGateway) -> None:
    made = await files.client.files.create(file=("a.txt", b"x"), purpose="user_data")
    await files.rows("update files set expires_at = now() - interval '1 second'")
    with pytest.raises(openai.NotFoundError):
        await files.client.files.retrieve(made.id)
    assert (await files.client.files.list()).data == []
    await files.emptied()
    assert await files.rows("select from files") == []


@pytest.mark.parametrize(
    ("name", "kept"),
    [
        ("../../etc/passwd", "passwd"),
        ("C:\\secret\\plan.txt", "plan.txt"),
        ("a\tb\x7f.txt", "ab.txt"),
        ("..", "file"),
        ("", "file"),
        ("Übersicht 日本.txt", "Übersicht 日本.txt"),
        ("x" * 400 + ".txt", "x" * 251 + ".txt"),
    ],
)
async def test_names_are_kept_safely(files: FileGateway, name: str, kept: str) -> None:
    head = f'--b\r\ncontent-disposition: form-data; name="file"; filename="{name}"\r\n\r\nx\r\n'
    tail = '--b\r\ncontent-disposition: form-data; name="purpose"\r\n\r\nuser_data\r\n--b--\r\n'
    answer = await files.http.post(
        "/v1/files",
        content=(head + tail).encode(),
        headers={"content-type": "multipart/form-data; boundary=b"},
    )
    assert answer.status_code == 200, answer.text
    assert answer.json()["filename"] == kept
    content = await files.http.get(f"/v1/files/{answer.json()['id']}/content")
    assert content.headers["content-disposition"].startswith("attachment; ")


async def test_what_is_no_file_is_refused_and_leaves_nothing(files: FileGateway) -> None:
    assert (await refused(files, 400, **form(b"")))["message"] == "file: is empty."
    assert (await refused(files, 400, **form(purpose="world-peace")))["param"] == "purpose"
    assert (await refused(files, 400, files={"file": ("a", b"x")}))["param"] == "purpose"
    only_fields = {"files": {"purpose": (None, "batch")}}
    assert (await refused(files, 400, **only_fields))["param"] == "file"
    assert (await refused(files, 400, **form(purpose="fine-tune")))["param"] == "file"
    odd = {"files": {"file": ("a", b"x")}, "data": {"expires_after": "3600"}}
    assert (await refused(files, 400, **odd))["param"] == "expires_after"
    twice = [("file", ("a", b"x")), ("file", ("b", b"y"))]
    assert (await refused(files, 400, files=twice))["param"] == "file"
    wrong: list[Any] = [
        {"expires_after[anchor]": "created_at", "expires_after[seconds]": "60"},
        {"expires_after[seconds]": "3600"},
        {"expires_after[anchor]": "created_at"},
        {"expires_after[anchor]": "now", "expires_after[seconds]": "3600"},
    ]
    for fields in wrong:
        assert "expires_after" in (await refused(files, 400, **form(**fields)))["param"]
    await refused(files, 400, json={"file": "x", "purpose": "assistants"})
    broken = {"content-type": "multipart/form-data; boundary=b"}
    await refused(files, 400, content=b"--b\r\nno form", headers=broken)
    cut = b'--b\r\ncontent-disposition: form-data; name="file"; filename="a"\r\n\r\nhalf of it'
    await refused(files, 400, content=cut, headers=broken)
    await refused(files, 400, content=cut, headers={"content-type": "multipart/form-data"})
    await files.swept()
    assert not files.objects()


async def test_too_large_is_413_while_it_is_read(
    tmp_path: Path, postgres_url: str, s3: S3Server
) -> None:
    sent = 0

    async def endless() -> AsyncIterator[bytes]:
        nonlocal sent
        yield b'--b\r\ncontent-disposition: form-data; name="file"; filename="a.txt"\r\n\r\n'
        while True:
            sent += MIB
            yield bytes(MIB)

    async with file_gateway(tmp_path, postgres_url, s3, max_file_bytes=10 * MIB) as files:
        error = await refused(files, 413, **form(bytes(10 * MIB + 1)))
        assert str(10 * MIB) in error["message"]
        announced = {
            "content-length": str(10**12),
            "content-type": "multipart/form-data; boundary=b",
        }
        async with raw_connection(files.url) as (reader, writer):
            lines = [f"{name}: {value}" for name, value in announced.items()]
            head = ["POST /v1/files HTTP/1.1", "host: x", f"authorization: Bearer {files.key}"]
            writer.write("\r\n".join([*head, *lines, "", ""]).encode())
            async with asyncio.timeout(2):
                assert b" 413 " in await reader.readline()
        stream = {"content-type": "multipart/form-data; boundary=b"}
        with pytest.raises(TimeoutError):  # this client reads no answer before it has sent all
            async with asyncio.timeout(2):
                await files.http.post("/v1/files", content=endless(), headers=stream)
        assert sent > 10 * MIB
        await files.swept()
        assert not files.objects()
        exact = await files.http.post("/v1/files", **form(bytes(10 * MIB)))
        assert exact.status_code == 200, exact.text
        await files.emptied()


async def test_the_quota_of_an_app_holds_in_a_race(
    tmp_path: Path, postgres_url: str, s3: S3Server
) -> None:
    async with file_gateway(tmp_path, postgres_url, s3, app_bytes=1000) as files:
        answers = await asyncio.gather(
            *(files.http.post("/v1/files", **form(bytes(150))) for _ in range(20))
        )
        kept = [each.json()["id"] for each in answers if each.status_code == 200]
        assert len(kept) == 6
        codes = {each.json()["error"]["code"] for each in answers if each.status_code == 400}
        assert codes == {"storage_full"}
        [row] = await files.rows("select bytes, (select sum(bytes) from files) from app_files")
        assert tuple(row) == (900, 900)
        async with files.as_app(await files.another_app()) as http:
            assert (await http.post("/v1/files", **form(bytes(900)))).status_code == 200
        for file_id in kept:
            assert (await files.http.delete(f"/v1/files/{file_id}")).status_code == 200
        assert (await files.http.post("/v1/files", **form(bytes(1000)))).status_code == 200
        assert (await files.http.post("/v1/files", **form(bytes(1)))).status_code == 400
        await files.emptied()


async def test_a_stalled_upload_is_ended_and_one_that_is_left_leaves_nothing(
    files: FileGateway,
) -> None:
    head = (
        f"POST /v1/files HTTP/1.1\r\nhost: x\r\nauthorization: Bearer {files.key}\r\n"
        f"content-type: multipart/form-data; boundary=b\r\ncontent-length: {30 * MIB}\r\n\r\n"
        '--b\r\ncontent-disposition: form-data; name="file"; filename="a"\r\n\r\n'
    ).encode()
    async with raw_connection(files.url) as (reader, writer):
        writer.write(head + bytes(9 * MIB))
        async with asyncio.timeout(10):
            assert b" 408 " in await reader.readline()
    async with raw_connection(files.url) as (_, writer):
        writer.write(head + bytes(17 * MIB))
        await writer.drain()
        async with asyncio.timeout(10):
            while not files.objects():
                await asyncio.sleep(0.01)
    async with asyncio.timeout(10):
        while files.objects():
            await asyncio.sleep(0.02)
    await files.swept()


async def test_lists_have_pages_and_purposes(files: FileGateway) -> None:
    made = []
    for number in range(5):
        purpose: Any = "assistants" if number % 2 else "user_data"
        file = await files.client.files.create(file=(f"{number}.txt", b"x"), purpose=purpose)
        made.append(file.id)
    assert [each.id async for each in files.client.files.list(limit=2)] == made[::-1]
    assert [each.id async for each in files.client.files.list(limit=2, order="asc")] == made
    some = await files.client.files.list(purpose="assistants")
    assert [each.id for each in some.data] == [made[3], made[1]]
    page = (await files.http.get("/v1/files?limit=2")).json()
    assert_valid("ListFilesResponse", page)
    assert (page["first_id"], page["last_id"], page["has_more"]) == (made[4], made[3], True)
    for wrong in ("limit=0", "limit=10001", "order=up", "after=file-none"):
        answer = await files.http.get(f"/v1/files?{wrong}")
        assert answer.status_code == 400, wrong
        assert_valid("ErrorResponse", answer.json())


async def test_ranges_and_tags(files: FileGateway) -> None:
    content = os.urandom(9 * MIB)
    made = await files.client.files.create(file=("b.bin", content), purpose="user_data")
    path = f"/v1/files/{made.id}/content"
    whole = await files.http.get(path)
    assert whole.headers["content-length"] == str(len(content))
    assert whole.headers["x-content-type-options"] == "nosniff"
    assert whole.headers["content-type"] == "application/octet-stream"
    etag = whole.headers["etag"]
    assert etag == f'"{hashlib.sha256(content).hexdigest()}"'

    async def ranged(asked: str, **headers: str) -> httpx.Response:
        return await files.http.get(path, headers={"range": asked, **headers})

    middle = MIB - 3, 6 * MIB + 5  # over the borders of several objects
    for asked, start, end in (
        ("bytes=0-0", 0, 1),
        (f"bytes={middle[0]}-{middle[1] - 1}", *middle),
        ("bytes=-7", len(content) - 7, len(content)),
        (f"bytes={len(content) - 1}-", len(content) - 1, len(content)),
        ("bytes=5-99999999999", 5, len(content)),
    ):
        answer = await ranged(asked)
        assert answer.status_code == 206, asked
        assert answer.content == content[start:end], asked
        assert answer.headers["content-range"] == f"bytes {start}-{end - 1}/{len(content)}"
    for asked in ("bytes=1-2,4-5", "bytes=9-3", "lines=1-2", "bytes=-"):
        assert (await ranged(asked)).status_code == 200, asked
    for asked in (f"bytes={len(content)}-", "bytes=-0"):
        answer = await ranged(asked)
        assert answer.status_code == 416, asked
        assert answer.headers["content-range"] == f"bytes */{len(content)}"
        assert_valid("ErrorResponse", answer.json())
    assert (await ranged("bytes=0-1", **{"if-range": '"other"'})).status_code == 200
    assert (await ranged("bytes=0-1", **{"if-range": etag})).status_code == 206
    unchanged = await files.http.get(path, headers={"if-none-match": f'"x", {etag}'})
    assert (unchanged.status_code, unchanged.content) == (304, b"")
    weak = await files.http.get(path, headers={"if-none-match": f"W/{etag}"})
    assert weak.status_code == 304


async def test_a_reader_that_stops_is_cut_off(files: FileGateway) -> None:
    made = await files.client.files.create(file=("b.bin", bytes(40 * MIB)), purpose="user_data")
    async with raw_connection(files.url) as (reader, writer):
        writer.write(
            f"GET /v1/files/{made.id}/content HTTP/1.1\r\nhost: x\r\n"
            f"authorization: Bearer {files.key}\r\n\r\n".encode()
        )
        assert b" 200 " in await reader.readline()
        await asyncio.sleep(2.5)  # more than stall_seconds, and nothing is read
        read = 0
        async with asyncio.timeout(5):
            with pytest.raises(ConnectionResetError):
                while chunk := await reader.read(MIB):
                    read += len(chunk)
                raise ConnectionResetError
        assert read < 30 * MIB


async def test_apps_do_not_see_each_others_files(files: FileGateway) -> None:
    made = await files.client.files.create(file=("a.txt", b"mine"), purpose="user_data")
    other = await files.another_app()
    async with files.as_app(other) as http:
        for method, path in (
            ("GET", f"/v1/files/{made.id}"),
            ("GET", f"/v1/files/{made.id}/content"),
            ("DELETE", f"/v1/files/{made.id}"),
        ):
            answer = await http.request(method, path)
            assert answer.status_code == 404, path
            assert_valid("ErrorResponse", answer.json())
        assert (await http.get("/v1/files")).json()["data"] == []
        assert (await http.get(f"/v1/files?after={made.id}")).status_code == 400
    nobody = await files.http.get("/v1/files", headers={"authorization": "Bearer sk-none"})
    assert nobody.status_code == 401
    assert (await files.client.files.content(made.id)).content == b"mine"


@pytest.mark.parametrize("file_id", ["file-none", "%00", "a%00b", "%ED%A0%80", "x" * 5000])
async def test_ids_of_nothing_are_404(files: FileGateway, file_id: str) -> None:
    for path in (f"/v1/files/{file_id}", f"/v1/files/{file_id}/content"):
        assert (await files.http.get(path)).status_code == 404
    assert (await files.http.delete(f"/v1/files/{file_id}")).status_code == 404


async def test_deleting_a_file_leaves_its_chunks_to_be_removed(files: FileGateway) -> None:
    made = await files.client.files.create(file=("a.txt", b"x"), purpose="assistants")
    [row] = await files.rows("select app_id from files")
    app = row["app_id"]
    await files.rows(f"insert into vector_stores (id, app_id) values ('vs_1', '{app}')")
    await files.rows(
        "insert into vector_store_files (vector_store_id, file_id, app_id, chunking, job_id, "
        f"generation) values ('vs_1', '{made.id}', '{app}', '{{}}', 'j', 'g')"
    )
    await files.client.files.delete(made.id)
    assert await files.rows("select from vector_store_files") == []
    [stale] = await files.rows("select app_id, vector_store_id, file_id from stale_chunks")
    assert tuple(stale) == (app, "vs_1", made.id)
