"""`import-assistants`: what OpenAI's API showed, moved in, with real PostgreSQL and S3."""

import asyncio
import json
import os
import subprocess
import sys
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any

import openai
import pytest

from tests.access import Guarded, guarded_gateway, make_app
from tests.assistants import Kept, client_of, command
from tests.local_stack import NEUTRAL, REPOSITORY
from tests.s3 import S3Server, running_s3

pytestmark = pytest.mark.filterwarnings("ignore:.*deprecated:DeprecationWarning")

STACK = "models:\n  - {id: fake, replicas: ['http://127.0.0.1:9']}\n"
ASSISTANT: dict[str, Any] = {
    "id": "asst_old",
    "object": "assistant",
    "created_at": 1_700_000_000,
    "name": "Tutor",
    "description": None,
    "model": "gpt-4o",
    "instructions": "Teach.",
    "tools": [
        {"type": "code_interpreter"},
        {
            "type": "file_search",
            "file_search": {
                "ranking_options": {"ranker": "default_2024_08_21", "score_threshold": 0.0}
            },
        },
        {"type": "function", "function": {"name": "f", "parameters": {}, "strict": False}},
    ],
    "top_p": 1.0,
    "temperature": 0.5,
    "reasoning_effort": None,
    "tool_resources": {
        "code_interpreter": {"file_ids": ["file-old"]},
        "file_search": {"vector_store_ids": ["vs_old"]},
    },
    "metadata": {"k": "v"},
    "response_format": "auto",
}


def message(id_: str, created_at: int, text: str = "hi", **fields: Any) -> dict[str, Any]:
    content = [{"type": "text", "text": {"value": text, "annotations": []}}]
    return {
        "id": id_,
        "object": "thread.message",
        "created_at": created_at,
        "thread_id": "thread_old",
        "assistant_id": None,
        "run_id": None,
        "role": "user",
        "content": content,
        "attachments": [],
        "metadata": {},
    } | fields


THREAD: dict[str, Any] = {
    "id": "thread_old",
    "object": "thread",
    "created_at": 1_700_000_100,
    "metadata": {},
    "tool_resources": {},
    "messages": [
        message("msg_3", 1_700_000_103, "c", run_id="run_old", role="assistant"),
        message("msg_1", 1_700_000_101, "a"),
        message("msg_2a", 1_700_000_102, "b"),
        message(
            "msg_2b",
            1_700_000_102,
            "bb",
            attachments=[
                {"file_id": "file-old", "tools": [{"type": "code_interpreter"}]},
                {"file_id": "file-lost", "tools": [{"type": "file_search"}]},
            ],
        ),
        message(
            "msg_4",
            1_700_000_104,
            content=[
                {"type": "image_file", "image_file": {"file_id": "file-lost", "detail": "low"}},
                {"type": "text", "text": {"value": "see", "annotations": []}},
            ],
        ),
        message("msg_wrong", 1_700_000_105, role="system"),
    ],
}
FILE = {
    "id": "file-old",
    "object": "file",
    "bytes": 5,
    "created_at": 1_600_000_000,
    "filename": "notes.md",
    "purpose": "assistants",
    "status": "processed",
    "path": "files/notes",
}


@pytest.fixture(scope="module")
def s3() -> Iterator[S3Server]:
    with running_s3() as server:
        yield server


@pytest.fixture
async def guarded(tmp_path: Path, postgres_url: str, s3: S3Server) -> AsyncIterator[Guarded]:
    async with guarded_gateway(tmp_path, postgres_url, s3.variables) as gateway:
        yield gateway


def run(*argv: str, **variables: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, *argv],
        cwd=REPOSITORY,
        env=os.environ | NEUTRAL | variables,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )


async def take_in(
    dump: Path, postgres_url: str, s3: S3Server, *words: str, app: str = "shop"
) -> dict[str, Any]:
    """What the command says of it."""
    stack = dump.parent / "models.yaml"
    stack.write_text(STACK)
    variables = s3.variables | {"POSTGRES_URL": postgres_url, "STACK_CONFIG": str(stack)}
    argv = ("-m", "api_server", "import-assistants", str(dump), "--app", app, "--json", *words)
    done = await asyncio.to_thread(run, *argv, **variables)
    assert done.stdout, done.stderr
    said: dict[str, Any] = json.loads(done.stdout)
    refused = sum(fates["refused"] for fates in said["counts"].values())
    assert done.returncode == (1 if refused else 0)
    return said


def write(folder: Path, **objects: Any) -> Path:
    (folder / "files").mkdir(exist_ok=True)
    (folder / "files/notes").write_bytes(b"notes")
    (folder / "dump.json").write_text(json.dumps(objects))
    return folder / "dump.json"


async def texts(shop: Kept, thread_id: str) -> list[str]:
    pages = shop.threads.messages.list(thread_id, order="asc")
    return [each.content[-1].text.value async for each in pages]


async def test_ids_and_dates_are_kept_and_what_is_not_taken_is_said(
    guarded: Guarded, postgres_url: str, s3: S3Server, tmp_path: Path
) -> None:
    dump = write(tmp_path, assistants=[ASSISTANT], threads=[THREAD], files=[FILE], more=1)
    async with client_of(guarded, postgres_url) as shop:
        said = await take_in(dump, postgres_url, s3)
        assert said["counts"] == {
            "file": {"taken": 1, "known": 0, "refused": 0},
            "assistant": {"taken": 1, "known": 0, "refused": 0},
            "message": {"taken": 5, "known": 0, "refused": 0},
            "thread": {"taken": 1, "known": 0, "refused": 0},
        }
        for words in (
            "assistant asst_old: its model 'gpt-4o' is not served",
            "assistant asst_old: its tool code_interpreter was left out",
            "assistant asst_old: the files of its code_interpreter",
            "assistant asst_old: its vector store 'vs_old' is not here",
            "thread thread_old: message 5 was left out",
            "thread thread_old: message msg_2b: code_interpreter was left out",
            "thread thread_old: message msg_2b: an attachment was left out",
            "thread thread_old: message msg_4: an image was left out",
        ):
            assert sum(each.startswith(words) for each in said["problems"]) == 1, words
        assert len(said["problems"]) == 8
        made = (await shop.assistants.retrieve("asst_old")).to_dict()
        assert made == ASSISTANT | {
            "tools": [
                ASSISTANT["tools"][1],
                {"type": "function", "function": {"name": "f", "parameters": {}, "strict": False}},
            ],
            "tool_resources": {"file_search": {"vector_store_ids": []}},
        }
        assert (await shop.threads.retrieve("thread_old")).created_at == 1_700_000_100
        assert await texts(shop, "thread_old") == ["a", "b", "bb", "c", "see"]
        moved = await shop.threads.messages.retrieve("msg_3", thread_id="thread_old")
        assert (moved.created_at, moved.run_id, moved.role) == (
            1_700_000_103,
            "run_old",
            "assistant",
        )
        headers = {"authorization": f"Bearer {shop.app.key}"}
        content = await guarded.http.get("/v1/files/file-old/content", headers=headers)
        assert content.content == b"notes"
        file = await guarded.http.get("/v1/files/file-old", headers=headers)
        assert file.json()["created_at"] == 1_600_000_000

        rows = "select count(*) as n, max(seq) as seq from messages"
        before = await command(postgres_url, rows)
        again = await take_in(dump, postgres_url, s3)
        assert again["counts"] == {
            kind: {"taken": 0, "known": fates["taken"], "refused": 0}
            for kind, fates in said["counts"].items()
        }
        assert (await command(postgres_url, rows))[0]["n"] == before[0]["n"]
        new = await shop.threads.messages.create("thread_old", role="user", content="d")
        assert (await texts(shop, "thread_old"))[-1] == "d"
        grown = THREAD | {"messages": [*THREAD["messages"], message("msg_5", 1_700_000_110, "e")]}
        said = await take_in(write(tmp_path, threads=[grown]), postgres_url, s3)
        assert said["counts"]["message"] == {"taken": 1, "known": 5, "refused": 0}
        assert (await texts(shop, "thread_old"))[-2:] == ["e", "d"]
        await shop.threads.messages.delete(new.id, thread_id="thread_old")


async def test_an_id_of_another_app_is_refused_for_that_object_alone(
    guarded: Guarded, postgres_url: str, s3: S3Server, tmp_path: Path
) -> None:
    dump = write(tmp_path, assistants=[ASSISTANT], threads=[THREAD], files=[FILE])
    async with client_of(guarded, postgres_url, "other") as other:
        await make_app(postgres_url)
        await take_in(dump, postgres_url, s3)
        stolen = THREAD | {
            "id": "thread_new",
            "messages": [message("msg_1", 1), message("msg_n", 2)],
        }
        more = write(
            tmp_path,
            assistants=[
                *(ASSISTANT, ASSISTANT | {"id": "asst_new"}, ASSISTANT | {"id": "../asst"}),
                *({"id": "asst_bad"}, 7),
            ],
            threads=[THREAD, stolen],
            files=[
                FILE,
                FILE | {"id": "file-up", "path": "../x"},
                FILE | {"id": "f", "path": "no"},
            ],
        )
        said = await take_in(more, postgres_url, s3, "--model", "fake", app="other")
        assert said["counts"] == {
            "file": {"taken": 0, "known": 0, "refused": 3},
            "assistant": {"taken": 1, "known": 0, "refused": 4},
            "message": {"taken": 1, "known": 0, "refused": 1},
            "thread": {"taken": 1, "known": 0, "refused": 1},
        }
        assert [each.id async for each in other.assistants.list()] == ["asst_new"]
        assert (await other.assistants.retrieve("asst_new")).model == "fake"
        pages = other.threads.messages.list("thread_new")
        assert [each.id async for each in pages] == ["msg_n"]


@pytest.mark.parametrize("name", ["development", "anyone"])
async def test_the_apps_of_development_can_be_given_something(
    guarded: Guarded,  # noqa: ARG001 - it makes the tables
    postgres_url: str,
    s3: S3Server,
    tmp_path: Path,
    name: str,
) -> None:
    """They are in no table."""
    dump = write(tmp_path, assistants=[ASSISTANT])
    said = await take_in(dump, postgres_url, s3, app=name)
    assert said["counts"]["assistant"] == {"taken": 1, "known": 0, "refused": 0}


async def test_what_is_no_dump_is_an_error_in_a_sentence(postgres_url: str, tmp_path: Path) -> None:
    await make_app(postgres_url)
    stack = tmp_path / "models.yaml"
    stack.write_text(STACK)
    (tmp_path / "bad.json").write_text("[")
    variables = {"POSTGRES_URL": postgres_url, "STACK_CONFIG": str(stack)}
    for dump, app, words in (
        ("bad.json", "shop", "This file is no dump"),
        ("none.json", "shop", "cannot be read"),
        ("models.yaml", "nobody", "There is no app 'nobody'"),
    ):
        argv = ("-m", "api_server", "import-assistants", str(tmp_path / dump), "--app", app)
        done = await asyncio.to_thread(run, *argv, **variables)
        assert (done.returncode, done.stdout) == (1, "")
        assert words in done.stderr
        assert "Traceback" not in done.stderr


async def test_what_the_example_exports_can_be_imported_elsewhere(
    guarded: Guarded, postgres_url: str, s3: S3Server, tmp_path: Path
) -> None:
    """From this stack, as from OpenAI: the same client, the same API."""
    async with client_of(guarded, postgres_url) as shop:
        await shop.assistants.create(model="fake", name="a", tools=[{"type": "file_search"}])
        async with openai.AsyncOpenAI(base_url=f"{guarded.url}/v1", api_key=shop.app.key) as plain:
            file = await plain.files.create(file=("a.txt", b"content"), purpose="assistants")
        part = {"type": "text", "text": "hi"}
        thread = await shop.threads.create(
            messages=[
                {
                    "role": "user",
                    "content": [part],
                    "attachments": [{"file_id": file.id, "tools": []}],
                }
                for _ in range(3)
            ]
        )
        variables = {"OPENAI_BASE_URL": f"{guarded.url}/v1", "OPENAI_API_KEY": shop.app.key or ""}
        argv = ("examples/export_assistants.py", str(tmp_path / "out"), thread.id)
        done = await asyncio.to_thread(run, *argv, **variables)
        assert done.returncode == 0, done.stderr
        wanted = await all_of(shop, thread.id)
        for table in ("threads", "assistants", "files"):
            await command(postgres_url, f"delete from {table}")
        said = await take_in(tmp_path / "out/dump.json", postgres_url, s3)
        assert said["problems"] == []
        assert await all_of(shop, thread.id) == wanted


async def all_of(shop: Kept, thread_id: str) -> list[Any]:
    """Everything that was exported, as it is shown."""
    assistants = [each async for each in shop.assistants.list()]
    messages = [each async for each in shop.threads.messages.list(thread_id)]
    return [*assistants, await shop.threads.retrieve(thread_id), *messages]
