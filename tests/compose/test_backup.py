"""Backup, everything wiped, restore: what was stored is back, and the old keys work."""

import asyncio
import hashlib
import shutil
from dataclasses import dataclass
from pathlib import Path

import httpx
import openai
import pytest

from tests.compose.apps import make_app
from tests.compose.conftest import Stack
from tests.compose.load import ask, body, running_load
from tests.compose.project import Project
from tests.compose.watching import eventually, rows

pytestmark = [
    pytest.mark.timeout(400),
    pytest.mark.filterwarnings("ignore:.*deprecated:DeprecationWarning"),
]

CONTENT = b"what was in the file\n" * 1000
FACT = "The clock of the town hall is wound by hand each Monday morning."


@dataclass(frozen=True)
class Stored:
    """What was there before: an app's key, its job, its requests in the ledger, what it keeps."""

    key: str
    job: str
    usage: int
    file: str
    vector_store: str
    thread: str


def chat(stack: Stack, key: str) -> int:
    """Its status."""
    headers = {"authorization": f"Bearer {key}"}
    with httpx.Client(base_url=stack.url, headers=headers, timeout=30) as http:
        return http.post("/v1/chat/completions", json=body("hi", stream=False)).status_code


def usage_of(project: Project, app: str) -> int:
    return int(rows(project, f"select count(*) from usage where app = '{app}'")[0])


def client_of(stack: Stack, key: str) -> openai.OpenAI:
    return openai.OpenAI(base_url=f"{stack.url}/v1", api_key=key, max_retries=0, timeout=60)


def store_something(stack: Stack) -> Stored:
    """An app that chats, sends a job, and keeps a file, a vector store and a thread."""
    project = stack.project
    types = {"explain": {"prompt": "{request}", "model": "tiny", "max_tokens": 16}}
    app = make_app(project, "keeper", request_types=types)
    assert [chat(stack, app["key"]) for _ in range(5)] == [200] * 5
    job = {"app_code": app["app_code"], "request_type": "explain", "request": "What is it?"}
    with httpx.Client(base_url=stack.url, timeout=10) as http:
        path = f"/get_request/{http.post('/ai_request', json=job).json()['request_id']}"
        eventually(lambda: http.get(path).json()["status"] == "completed", 30, "the job is done")
    with client_of(stack, app["key"]) as client:
        file = client.files.create(file=("kept.txt", CONTENT), purpose="user_data")
        store = client.vector_stores.create(name="kept")
        add_to(client, store.id, "clock.txt", FACT)
        assistant = client.beta.assistants.create(model="tiny", temperature=0)
        thread = client.beta.threads.create(messages=[{"role": "user", "content": "hi"}])
        answer_in(client, thread.id, assistant.id)
    eventually(lambda: usage_of(project, "keeper") >= 8, 10, "the ledger has it")
    usage = usage_of(project, "keeper")
    return Stored(app["key"], path, usage, file.id, store.id, thread.id)


def add_to(client: openai.OpenAI, vector_store: str, name: str, text: str) -> None:
    """A file, taken in."""
    file = client.vector_stores.files.upload_and_poll(
        vector_store_id=vector_store, file=(name, text.encode()), poll_interval_ms=200
    )
    assert file.status == "completed", file.last_error


def answer_in(client: openai.OpenAI, thread: str, assistant: str) -> None:
    """A run, to its end."""
    run = client.beta.threads.runs.create_and_poll(
        assistant_id=assistant, thread_id=thread, poll_interval_ms=200
    )
    assert run.status == "completed", run.last_error


def kept_by(client: openai.OpenAI, stored: Stored) -> list[object]:
    """All that the app keeps, as it is answered."""
    return [
        client.files.content(stored.file).read(),
        client.vector_stores.retrieve(stored.vector_store).file_counts,
        [each.to_dict() for each in client.vector_stores.search(stored.vector_store, query=FACT)],
        [each.to_dict() for each in client.beta.threads.messages.list(stored.thread)],
        [each.to_dict() for each in client.beta.threads.runs.list(stored.thread)],
        [each.to_dict() for each in client.beta.assistants.list()],
    ]


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
    with client_of(stack, stored.key) as client:
        before = kept_by(client, stored)
    folder = asyncio.run(backup_under_load(stack))
    assert [path for path in folder.iterdir() if path.stat().st_mode & 0o077] == []

    refused = project.run("make", "clean", "VOLUMES=yes")
    assert refused.code != 0, "nothing is lost without CONFIRM=yes"
    assert project.is_healthy("postgres")
    project.must("make", "clean", "VOLUMES=yes", "CONFIRM=yes")
    assert project.containers(stopped=True) == []
    project.start()
    assert chat(stack, stored.key) == 401, "the wipe took its key"

    project.must("make", "restore", "FROM=backups/whole", "CONFIRM=yes", seconds=400)
    assert chat(stack, stored.key) == 200
    assert chat(stack, stack.key) == 200, "and .env has a key that works"
    assert usage_of(project, "keeper") >= stored.usage
    answer = httpx.get(stack.url + stored.job, timeout=10).json()
    assert answer["status"] == "completed"
    with client_of(stack, stored.key) as client:
        assert kept_by(client, stored) == before
        assert before[0] == CONTENT
        add_to(client, stored.vector_store, "bees.txt", "Bees carry pollen.")
        found = client.vector_stores.search(stored.vector_store, query="pollen").data
        assert {each.filename for each in found} == {"bees.txt", "clock.txt"}
        assistant = client.beta.assistants.list().data[0].id
        answer_in(client, stored.thread, assistant)


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
