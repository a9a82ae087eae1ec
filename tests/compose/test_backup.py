"""Backup, everything wiped, restore: what was stored is back, and the old keys work."""

import asyncio
import hashlib
import json
import shutil
from dataclasses import dataclass
from pathlib import Path

import httpx
import pytest

from tests.compose.apps import make_app
from tests.compose.conftest import Stack
from tests.compose.load import ask, body, running_load
from tests.compose.project import Project
from tests.compose.watching import eventually, rows

pytestmark = pytest.mark.timeout(400)

CONTENT = "what was in the file\n" * 1000
WRITE_OBJECT = """
import io, os
from minio import Minio
client = Minio("minio:9000", os.environ["S3_ACCESS_KEY"], os.environ["S3_SECRET_KEY"], secure=False)
data = CONTENT.encode()
client.put_object("stack-files", "of/the/test", io.BytesIO(data), len(data))
"""
READ_OBJECT = """
import os
from minio import Minio
client = Minio("minio:9000", os.environ["S3_ACCESS_KEY"], os.environ["S3_SECRET_KEY"], secure=False)
print(client.get_object("stack-files", "of/the/test").read().decode(), end="")
"""
ASK_QDRANT = """
import os, urllib.request
request = urllib.request.Request(
    os.environ["QDRANT_URL"] + PATH, method=METHOD, data=BODY,
    headers={"api-key": os.environ["QDRANT_API_KEY"], "content-type": "application/json"},
)
print(urllib.request.urlopen(request, timeout=10).read().decode())
"""


@dataclass(frozen=True)
class Stored:
    """What was there before: an app's key, its job, how often it is in the ledger."""

    key: str
    job: str
    usage: int


def with_values(program: str, **values: object) -> str:
    """The program with constants in front."""
    return "\n".join([*(f"{name} = {value!r}" for name, value in values.items()), program])


def collections(project: Project) -> set[str]:
    asked = with_values(ASK_QDRANT, PATH="/collections", METHOD="GET", BODY=None)
    found = json.loads(project.python(asked))["result"]["collections"]
    return {each["name"] for each in found}


def chat(stack: Stack, key: str) -> int:
    """Its status."""
    headers = {"authorization": f"Bearer {key}"}
    with httpx.Client(base_url=stack.url, headers=headers, timeout=30) as http:
        return http.post("/v1/chat/completions", json=body("hi", stream=False)).status_code


def usage_of(project: Project, app: str) -> int:
    return int(rows(project, f"select count(*) from usage where app = '{app}'")[0])


def store_something(stack: Stack) -> Stored:
    """An app that chats and sends a job, an object, a collection."""
    project = stack.project
    types = {"explain": {"prompt": "{request}", "model": "tiny", "max_tokens": 16}}
    app = make_app(project, "keeper", request_types=types)
    assert [chat(stack, app["key"]) for _ in range(5)] == [200] * 5
    job = {"app_code": app["app_code"], "request_type": "explain", "request": "What is it?"}
    with httpx.Client(base_url=stack.url, timeout=10) as http:
        path = f"/get_request/{http.post('/ai_request', json=job).json()['request_id']}"
        eventually(lambda: http.get(path).json()["status"] == "completed", 30, "the job is done")
    project.python(with_values(WRITE_OBJECT, CONTENT=CONTENT))
    made = json.dumps({"vectors": {"size": 4, "distance": "Dot"}}).encode()
    project.python(with_values(ASK_QDRANT, PATH="/collections/kept", METHOD="PUT", BODY=made))
    eventually(lambda: usage_of(project, "keeper") >= 6, 10, "the ledger has it")
    return Stored(app["key"], path, usage_of(project, "keeper"))


async def backup_under_load(stack: Stack) -> Path:
    """While clients chat, who see nothing of it."""
    async with running_load(stack.url, stack.key) as load:
        await asyncio.to_thread(stack.project.must, "make", "backup", "TO=backups/whole")
    assert load.failed == []
    assert load.seen
    return stack.project.folder / "backups/whole"


def test_what_a_wipe_took_a_restore_brings_back(stack: Stack) -> None:
    project = stack.project
    stored = store_something(stack)
    folder = asyncio.run(backup_under_load(stack))
    assert [path for path in folder.iterdir() if path.stat().st_mode & 0o077] == []

    refused = project.run("make", "clean", "VOLUMES=yes")
    assert refused.code != 0, "nothing is lost without CONFIRM=yes"
    assert project.is_healthy("postgres")
    project.must("make", "clean", "VOLUMES=yes", "CONFIRM=yes")
    assert project.containers(stopped=True) == []
    project.start()
    assert chat(stack, stored.key) == 401, "the wipe took its key"
    assert "kept" not in collections(project)

    project.must("make", "restore", "FROM=backups/whole", "CONFIRM=yes", seconds=400)
    assert chat(stack, stored.key) == 200
    assert chat(stack, stack.key) == 200, "and .env has a key that works"
    assert usage_of(project, "keeper") >= stored.usage
    answer = httpx.get(stack.url + stored.job, timeout=10).json()
    assert answer["status"] == "completed"
    assert project.python(READ_OBJECT) == CONTENT
    assert "kept" in collections(project)


def test_a_backup_that_was_changed_is_not_restored(stack: Stack) -> None:
    dump = stack.project.folder / "backups/whole/database.dump"
    whole = dump.read_bytes()
    dump.write_bytes(whole[:-1] + bytes([whole[-1] ^ 1]))
    refused = stack.project.run("make", "restore", "FROM=backups/whole", "CONFIRM=yes")
    dump.write_bytes(whole)
    assert refused.code != 0
    assert "nothing was changed" in refused.output
    assert asyncio.run(one_chat(stack)) == 200


def test_an_archive_that_ends_too_soon_is_not_restored(stack: Stack) -> None:
    """With a sum that is right: it was written like this."""
    whole = stack.project.folder / "backups/whole"
    short = stack.project.folder / "backups/short"
    shutil.copytree(whole, short)
    content = (whole / "objects.tar").read_bytes()
    (short / "objects.tar").write_bytes(content[:1200])
    sums = [hashlib.sha256((short / "objects.tar").read_bytes() if n else content) for n in (0, 1)]
    manifest = (short / "MANIFEST").read_text()
    (short / "MANIFEST").write_text(manifest.replace(sums[0].hexdigest(), sums[1].hexdigest()))
    before = set(stack.project.containers())
    refused = stack.project.run("make", "restore", "FROM=backups/short", "CONFIRM=yes")
    assert refused.code != 0
    assert "is no archive that can be read to its end" in refused.output
    assert set(stack.project.containers()) == before
    assert asyncio.run(one_chat(stack)) == 200


async def one_chat(stack: Stack) -> int:
    headers = {"authorization": f"Bearer {stack.key}"}
    async with httpx.AsyncClient(base_url=stack.url, headers=headers, timeout=30) as client:
        return (await ask(client, body("Still there?", stream=True))).status
