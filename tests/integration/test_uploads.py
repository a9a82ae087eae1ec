"""`/v1/uploads`: files in parts, with the official client; two of everything at once."""

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
from tests.s3 import S3Server, running_s3
from tests.wire import assert_valid

MIB = 1024 * 1024


@pytest.fixture(scope="module")
def s3() -> Iterator[S3Server]:
    with running_s3() as server:
        yield server


@pytest.fixture
async def files(tmp_path: Path, postgres_url: str, s3: S3Server) -> AsyncIterator[FileGateway]:
    async with file_gateway(tmp_path, postgres_url, s3, app_bytes=100 * MIB) as gateway:
        yield gateway
        await gateway.emptied()


async def begun(files: FileGateway, size: int, **told: Any) -> str:
    body = {"filename": "a.txt", "purpose": "assistants", "bytes": size, "mime_type": "text/plain"}
    answer = await files.http.post("/v1/uploads", json=body | told)
    assert answer.status_code == 200, answer.text
    assert_valid("Upload", answer.json())
    id_: str = answer.json()["id"]
    return id_


async def part(files: FileGateway, upload_id: str, content: bytes) -> httpx.Response:
    parts = {"data": ("blob", content)}
    return await files.http.post(f"/v1/uploads/{upload_id}/parts", files=parts)


async def part_id(files: FileGateway, upload_id: str, content: bytes) -> str:
    answer = await part(files, upload_id, content)
    assert answer.status_code == 200, answer.text
    assert_valid("UploadPart", answer.json())
    id_: str = answer.json()["id"]
    return id_


async def complete(files: FileGateway, upload_id: str, *ids: str, **more: Any) -> httpx.Response:
    body = {"part_ids": list(ids)} | more
    return await files.http.post(f"/v1/uploads/{upload_id}/complete", json=body)


async def test_the_official_clients_chunked_upload(files: FileGateway, tmp_path: Path) -> None:
    content = os.urandom(21 * MIB + 5)
    path = tmp_path / "large.txt"
    path.write_bytes(content)
    upload = await files.client.uploads.upload_file_chunked(
        file=path,
        mime_type="text/plain",
        purpose="assistants",
        part_size=10 * MIB,
        md5=hashlib.md5(content).hexdigest(),
    )
    assert_valid("Upload", upload.to_dict())
    assert upload.status == "completed"
    assert upload.file is not None
    assert (upload.file.bytes, upload.file.filename) == (len(content), "large.txt")
    assert (await files.client.files.content(upload.file.id)).content == content
    assert await files.rows("select from upload_parts") == []


async def test_parts_are_put_in_the_order_of_the_completion(files: FileGateway) -> None:
    upload_id = await begun(files, 6)
    first, second, unused = await asyncio.gather(
        *(part_id(files, upload_id, each) for each in (b"def", b"abc", b"xyz"))
    )
    wrong = await complete(files, upload_id, second, first, md5="0" * 32)
    assert wrong.status_code == 400
    assert wrong.json()["error"]["param"] == "md5"
    done = await complete(files, upload_id, second, first, md5=hashlib.md5(b"abcdef").hexdigest())
    assert done.status_code == 200, done.text
    assert_valid("Upload", done.json())
    file_id = done.json()["file"]["id"]
    assert (await files.client.files.content(file_id)).content == b"abcdef"
    await files.swept()
    assert len(files.objects()) == 2
    again = await complete(files, upload_id, second, first)
    assert again.json() == done.json()
    other = await complete(files, upload_id, first, second)
    assert other.status_code == 400
    assert unused not in other.text
    late = await part(files, upload_id, b"more")
    assert late.status_code == 400
    assert "completed" in late.json()["error"]["message"]
    assert (await files.http.post(f"/v1/uploads/{upload_id}/cancel")).status_code == 400


async def test_what_does_not_add_up_is_refused(files: FileGateway) -> None:
    upload_id = await begun(files, 4)
    one = await part_id(files, upload_id, b"ab")
    for ids in ([one], [one, one], ["part_none"], [one, "a\0b"]):
        answer = await complete(files, upload_id, *ids)
        assert answer.status_code == 400, ids
        assert_valid("ErrorResponse", answer.json())
        assert answer.json()["error"]["param"] == "part_ids"
    assert (await complete(files, upload_id)).status_code == 400
    assert (await part(files, upload_id, b"")).status_code == 400
    good = {"filename": "a", "purpose": "assistants", "bytes": 1, "mime_type": "text/plain"}
    for field, value in (
        ("bytes", 0),
        ("bytes", 65 * MIB),
        ("bytes", "many"),
        ("purpose", "none"),
        ("filename", 7),
        ("filename", ""),
        ("mime_typ", "text/plain"),
        ("expires_after", {"anchor": "created_at", "seconds": 1}),
        ("expires_after", {"anchor": "then", "seconds": 3600}),
    ):
        answer = await files.http.post("/v1/uploads", json=good | {field: value})
        assert answer.status_code == (413 if value == 65 * MIB else 400), field
        assert_valid("ErrorResponse", answer.json())
    answer = await files.http.post("/v1/uploads", json=good | {"purpose": "batch"})
    assert (answer.status_code, answer.json()["error"]["param"]) == (400, "filename")


async def test_a_part_has_64_mib_and_an_upload_not_much_more_than_it_was_begun_for(
    files: FileGateway,
) -> None:
    upload_id = await begun(files, 1)
    assert (await part(files, upload_id, bytes(64 * MIB + 1))).status_code == 413
    await part_id(files, upload_id, bytes(64 * MIB))
    answer = await part(files, upload_id, bytes(3))
    assert (answer.status_code, answer.json()["error"]["code"]) == (400, "storage_full")


async def test_uploads_count_from_their_beginning(files: FileGateway) -> None:
    upload_id = await begun(files, 60 * MIB)
    body = {"filename": "b", "purpose": "assistants", "bytes": 60 * MIB, "mime_type": "a/b"}
    assert (await files.http.post("/v1/uploads", json=body)).status_code == 400
    cancelled = await files.http.post(f"/v1/uploads/{upload_id}/cancel")
    assert cancelled.json()["status"] == "cancelled"
    assert_valid("Upload", cancelled.json())
    assert (await files.http.post(f"/v1/uploads/{upload_id}/cancel")).status_code == 200
    assert (await files.http.post("/v1/uploads", json=body)).status_code == 200


async def test_completions_that_race_make_one_file(files: FileGateway) -> None:
    for _ in range(5):
        upload_id = await begun(files, 3)
        id_ = await part_id(files, upload_id, b"abc")
        answers = await asyncio.gather(
            *(complete(files, upload_id, id_) for _ in range(6)),
            files.http.post(f"/v1/uploads/{upload_id}/cancel"),
            part(files, upload_id, b"late"),
        )
        done = [each for each in answers[:6] if each.status_code == 200]
        is_cancelled = answers[6].status_code == 200
        assert len(done) == (0 if is_cancelled else 6)
        assert len({each.json()["file"]["id"] for each in done}) == len(done[:1])
        rows = await files.rows(f"select status, file_id from uploads where id = '{upload_id}'")
        assert rows[0]["status"] == ("cancelled" if is_cancelled else "completed")
        found = await files.rows(f"select from files where id = '{rows[0]['file_id']}'")
        assert len(found) == (0 if is_cancelled else 1)
        await files.swept()


async def test_an_upload_ends_after_its_hour(files: FileGateway) -> None:
    upload_id = await begun(files, 3)
    id_ = await part_id(files, upload_id, b"abc")
    await files.rows(
        f"update uploads set expires_at = now() - interval '1 second' where id = '{upload_id}'"
    )
    for answer in (
        await complete(files, upload_id, id_),
        await part(files, upload_id, b"x"),
        await files.http.post(f"/v1/uploads/{upload_id}/cancel"),
    ):
        assert answer.status_code == 400
        assert "expired" in answer.json()["error"]["message"]
    await files.emptied()


async def test_apps_do_not_see_each_others_uploads(files: FileGateway) -> None:
    upload_id = await begun(files, 3)
    id_ = await part_id(files, upload_id, b"abc")
    other = await files.another_app()
    async with files.as_app(other) as http:
        for path, options in (
            ("parts", {"files": {"data": ("b", b"abc")}}),
            ("complete", {"json": {"part_ids": [id_]}}),
            ("cancel", {}),
        ):
            answer = await http.post(f"/v1/uploads/{upload_id}/{path}", **options)
            assert answer.status_code == 404, path
            assert_valid("ErrorResponse", answer.json())
        mine = {"filename": "b", "purpose": "assistants", "bytes": 3, "mime_type": "a/b"}
        own = (await http.post("/v1/uploads", json=mine)).json()["id"]
        stolen = await http.post(f"/v1/uploads/{own}/complete", json={"part_ids": [id_]})
        assert stolen.status_code == 400
    assert (await complete(files, upload_id, id_)).status_code == 200


async def test_the_file_of_an_upload_lives_as_it_was_told(files: FileGateway) -> None:
    upload = await files.client.uploads.create(
        filename="b.jsonl",
        purpose="batch",
        bytes=2,
        mime_type="text/jsonl",
        expires_after={"anchor": "created_at", "seconds": 3600},
    )
    made = await files.client.uploads.parts.create(upload.id, data=b"{}")
    done = await files.client.uploads.complete(upload.id, part_ids=[made.id])
    assert done.file is not None
    assert done.file.expires_at == done.file.created_at + 3600


BATCH = {"filename": "b.jsonl", "purpose": "batch", "bytes": 2, "mime_type": "text/jsonl"}


async def test_a_batch_file_of_an_upload_lives_30_days_from_its_completion(
    files: FileGateway,
) -> None:
    upload = (await files.http.post("/v1/uploads", json=BATCH)).json()["id"]
    id_ = await part_id(files, upload, b"{}")
    await files.rows("update uploads set created_at = now() - interval '50 minutes'")
    file = (await complete(files, upload, id_)).json()["file"]
    assert file["expires_at"] == file["created_at"] + 30 * 86_400
    (row,) = await files.rows("select extract(epoch from expires_at - now()) as seconds from files")
    assert 30 * 86_400 - 60 < row["seconds"] <= 30 * 86_400


async def test_an_upload_for_a_batch_that_expired_makes_no_file_and_counts_no_more(
    files: FileGateway,
) -> None:
    asked = BATCH | {"expires_after": {"anchor": "created_at", "seconds": 3600}}
    upload = (await files.http.post("/v1/uploads", json=asked)).json()["id"]
    id_ = await part_id(files, upload, b"{}")
    await files.rows("update uploads set expires_at = now()")
    answer = await complete(files, upload, id_)
    assert (answer.status_code, "expired" in answer.text) == (400, True)
    await files.swept()
    await files.emptied()  # what it was begun for is given back
    assert await files.rows("select from files") == []


@pytest.mark.parametrize(
    ("wish", "status"),
    [
        ({"anchor": "created_at", "seconds": 3599}, 400),
        ({"anchor": "created_at", "seconds": 3600}, 200),
        ({"anchor": "created_at", "seconds": 2_592_000}, 200),
        ({"anchor": "created_at", "seconds": 2_592_001}, 400),
        ({"anchor": "last_active_at", "seconds": 3600}, 400),
        ({"seconds": 3600}, 400),
        ({"anchor": "created_at"}, 400),
    ],
)
async def test_lifetimes_at_their_edges(
    files: FileGateway, wish: dict[str, Any], status: int
) -> None:
    """The same of files and of uploads."""
    fields = {f"expires_after[{name}]": str(value) for name, value in wish.items()}
    form: dict[str, Any] = {
        "files": {"file": ("b.jsonl", b"{}")},
        "data": {"purpose": "batch"} | fields,
    }
    made: httpx.Response = await files.http.post("/v1/files", **form)
    begun = await files.http.post("/v1/uploads", json=BATCH | {"expires_after": wish})
    assert (made.status_code, begun.status_code) == (status, status), (made.text, begun.text)
    if status == 200:
        assert made.json()["expires_at"] == made.json()["created_at"] + wish["seconds"]
    else:
        assert made.json()["error"]["param"].startswith("expires_after")
    await files.emptied()
    with pytest.raises(openai.NotFoundError):
        await files.client.uploads.cancel("upload_none")
