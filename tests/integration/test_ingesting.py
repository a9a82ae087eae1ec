"""Files on their way into a vector store, with real PostgreSQL and a model that the test plays."""

import asyncio
import contextlib
import json
import random
import sys
import time
from collections.abc import AsyncIterator, Callable
from pathlib import Path

import pytest

from api_server.errors import (
    DependencyDownError,
    InferenceError,
    ModelMisconfiguredError,
    RateLimitedError,
    ResourceNotAvailableError,
)
from api_server.services.retrieval.extracting import Limits
from api_server.stores.postgres import Postgres
from tests.documents import docx, endless_pdf, pdf
from tests.ingest_parts import APP, STORE, PlayedModel, Taking, vector_of

SMALL = '{"type": "static", "static": {"max_chunk_size_tokens": 100, "chunk_overlap_tokens": 20}}'

HELD = "select from jobs where state = 'processing' and lease_owner is not null"
PAUSES = (
    "select extract(epoch from lease_until - now())::double precision as seconds from jobs "
    "where state = 'processing' and lease_owner is null"
)


@pytest.fixture
async def postgres(postgres_url: str) -> AsyncIterator[Postgres]:
    postgres = Postgres(postgres_url)
    yield postgres
    await postgres.aclose()


def text(words: int = 3000, seed: int = 1) -> str:
    chance = random.Random(seed)
    return " ".join("".join(chance.choices("etaoin", k=6)) for _ in range(words))


async def until(claim: Callable[[], bool], seconds: float = 15) -> None:
    async with asyncio.timeout(seconds):
        while not claim():
            await asyncio.sleep(0.02)


def check_points(taking: Taking, file_id: str, whole: str) -> int:
    """All of a text is there once, under true offsets; returns how many chunks it has."""
    chunks = [each for each in taking.points.all() if each["file_id"] == file_id]
    covered = set[int]()
    for number, chunk in enumerate(chunks):
        assert chunk["n"] == number
        assert whole[chunk["start"] : chunk["end"]] == chunk["text"]
        assert chunk["vector"] == vector_of(chunk["text"])
        covered |= set(range(chunk["start"], chunk["end"]))
    assert all(whole[at].isspace() for at in set(range(len(whole))) - covered)
    return len(chunks)


async def test_a_file_becomes_points(postgres: Postgres, tmp_path: Path) -> None:
    whole = text()
    async with Taking(postgres, tmp_path) as taking:
        job_id = await taking.add("file-1", whole.encode(), attributes='{"a": 1, "b": "x"}')
        row = await taking.ended("file-1")
        assert (row["status"], row["last_error"]) == ("completed", None)
        assert check_points(taking, "file-1", whole) == row["chunks"] > 3
        chunks = taking.points.all()
        assert row["usage_bytes"] == sum(len(each["text"].encode()) for each in chunks)
        for chunk in chunks:
            assert chunk["app_id"] == APP
            assert chunk["vector_store_id"] == STORE
            assert chunk["generation"] == row["generation"]
            assert chunk["filename"] == "a.txt"
            assert chunk["attributes"] == {"a": 1, "b": "x"}
            assert chunk["writes"] == 1
        assert taking.model.callers == {(APP, "batch", True)}
        assert len({record.request_id for record in taking.records}) == len(taking.model.asked)
        assert {record.route for record in taking.records} == {"ingest"}, "no client waits for it"
        assert {record.app_id for record in taking.records} == {APP}
        assert await taking.stale() == []
        await until(lambda: len(taking.ends) == 1)
        select = "select from jobs where id = $1 and state = 'completed'"
        async with asyncio.timeout(10):
            while not await postgres.fetch(select, job_id):
                await asyncio.sleep(0.02)
    assert list(taking.folder.iterdir()) == [], "nothing is left of the file here"


async def test_word_files_pdfs_and_static_chunks(postgres: Postgres, tmp_path: Path) -> None:
    paragraph = "<w:p><w:r><w:t>From Word.</w:t></w:r></w:p>"
    async with Taking(postgres, tmp_path) as taking:
        await taking.add("file-w", docx(paragraph), filename="a.docx")
        await taking.add("file-p", pdf(["From a PDF"]), filename="a.pdf")
        await taking.add("file-s", text(500).encode(), chunking=SMALL)
        for file_id in ("file-w", "file-p", "file-s"):
            assert (await taking.ended(file_id))["status"] == "completed"
        texts = {each["file_id"]: each["text"] for each in taking.points.all()}
        assert texts["file-w"] == "From Word."
        assert texts["file-p"] == "From a PDF"
        assert check_points(taking, "file-s", text(500)) > 8


async def test_a_file_that_cannot_be_read_fails_alone(postgres: Postgres, tmp_path: Path) -> None:
    bad = {
        "file-e": ("a.txt", b"", "invalid_file"),
        "file-i": ("a.png", b"\x89PNG\r\n\x1a\n\0\0", "unsupported_file"),
        "file-p": ("a.pdf", endless_pdf(), "invalid_file"),
        "file-x": ("a.pdf", pdf(["x"], password="secret"), "invalid_file"),
        "file-l": ("a.txt", b"long " * 300_000, "invalid_file"),
    }
    limits = Limits(seconds=30, mib=512, text_bytes=1_000_000)
    async with Taking(postgres, tmp_path, limits=limits) as taking:
        for file_id, (filename, data, _) in bad.items():
            await taking.add(file_id, data, filename=filename)
        await taking.add("file-g", b"good")
        for file_id, (_, _, code) in bad.items():
            row = await taking.ended(file_id, 40)
            assert row["status"] == "failed"
            error = json.loads(row["last_error"])
            assert error["code"] == code
            assert error["message"].endswith(".")
        assert (await taking.ended("file-g"))["status"] == "completed"
        assert {each["file_id"] for each in taking.points.all()} == {"file-g"}
        states = await postgres.fetch("select distinct state from jobs")
        assert {each["state"] for each in states} <= {"completed", "processing"}


async def test_without_an_embedding_model_it_says_what_to_do(
    postgres: Postgres, tmp_path: Path
) -> None:
    async with Taking(postgres, tmp_path, models=()) as taking:
        await taking.add("file-1", b"text")
        row = await taking.ended("file-1")
    assert row["status"] == "failed"
    assert "EMBEDDINGS=on" in row["last_error"]


async def test_an_engine_that_is_away_puts_the_file_off(
    postgres: Postgres, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """And it goes on where it was: what was embedded is not embedded again."""
    monkeypatch.setattr("api_server.services.retrieval.embedding.PATIENCE_SECONDS", 0.2)
    whole = text(6000)
    model = PlayedModel(0.05)
    async with Taking(postgres, tmp_path, model=model) as taking:
        await taking.add("file-1", whole.encode(), chunking=SMALL)
        await until(lambda: len(taking.points.all()) > 20)
        model.errors = [ResourceNotAvailableError("away") for _ in range(4)]
        await until(lambda: not model.errors)
        assert (await taking.row("file-1"))["status"] == "in_progress"
        row = await taking.ended("file-1")
        assert row["status"] == "completed"
        count = check_points(taking, "file-1", whole)
        asked = sum(len(each) for each in model.asked)
    assert row["chunks"] == count
    assert asked < count + 30


async def test_an_app_beyond_its_limit_gets_its_file_in_all_the_same(
    postgres: Postgres, tmp_path: Path
) -> None:
    model = PlayedModel()
    whole = text(2000)
    async with Taking(postgres, tmp_path, model=model) as taking:
        model.errors = [RateLimitedError("wait", retry_after_seconds=0.2) for _ in range(3)]
        await taking.add("file-1", whole.encode(), chunking=SMALL)
        assert (await taking.ended("file-1"))["status"] == "completed"
        check_points(taking, "file-1", whole)


async def test_large_files_of_an_app_let_a_file_of_another_begin(
    postgres: Postgres, tmp_path: Path
) -> None:
    """They hold both places, and more of them wait; nothing is embedded twice for it."""
    model, large = PlayedModel(0.1), text(24_000)
    async with Taking(postgres, tmp_path, model=model, turn_seconds=0.5) as taking:
        for n in range(3):
            await taking.add(f"file-{n}", large.encode(), chunking=SMALL)
        await until(lambda: len(taking.points.all()) > 20)
        await taking.add("file-b", b"small", app_id="app_b", store="vs_b")
        assert (await taking.ended("file-b", 10))["status"] == "completed"
        rows = [await taking.row(f"file-{n}") for n in range(3)]
        assert [row["status"] for row in rows] == ["in_progress"] * 3
        assert 0 in [row["chunks"] for row in rows], "one of them has not begun"
        model.seconds = 0.0
        for n in range(3):
            assert (await taking.ended(f"file-{n}", 30))["status"] == "completed"
            check_points(taking, f"file-{n}", large)
        assert {chunk["writes"] for chunk in taking.points.all()} == {1}


async def test_who_gives_way_again_and_again_waits_no_longer_for_it(
    postgres: Postgres, tmp_path: Path
) -> None:
    """It was no failure: else a large file would not be done in its time."""
    model, large = PlayedModel(0.1), text(24_000)
    async with Taking(postgres, tmp_path, model=model, turn_seconds=0.2) as taking:
        for n in range(2):
            await taking.add(f"file-{n}", large.encode(), chunking=SMALL)
        pauses = list[float]()
        for n in range(3):
            async with asyncio.timeout(15):
                while len(await postgres.fetch(HELD)) < 2:
                    await asyncio.sleep(0.02)
            await taking.add(f"file-b{n}", b"small", app_id="app_b", store="vs_b")
            assert (await taking.ended(f"file-b{n}", 20))["status"] == "completed"
            pauses += [row["seconds"] for row in await postgres.fetch(PAUSES)]
        assert pauses
        assert max(pauses) <= 1.25


async def test_an_app_beyond_its_limit_takes_no_place_from_others(
    postgres: Postgres, tmp_path: Path
) -> None:
    """Its files wait, and would not begin: to make place for them is for nothing."""
    model = PlayedModel(0.05)
    model.limited = {"app_b"}
    async with Taking(postgres, tmp_path, model=model, turn_seconds=0.2) as taking:
        for n in range(3):
            await taking.add(f"file-b{n}", b"small", app_id="app_b", store="vs_b")
        job_id = await taking.add("file-1", text(12_000).encode(), chunking=SMALL)
        assert (await taking.ended("file-1", 30))["status"] == "completed"
        (row,) = await postgres.fetch("select fence from jobs where id = $1", job_id)
        assert row["fence"] == 1, "it was begun once"


async def test_an_app_alone_keeps_its_places(postgres: Postgres, tmp_path: Path) -> None:
    """And an app that has one takes no more from others."""
    model = PlayedModel(0.1)
    async with Taking(postgres, tmp_path, model=model, turn_seconds=0.2) as taking:
        for n in range(4):
            await taking.add(f"file-{n}", text(4000).encode(), chunking=SMALL)
        await until(lambda: len(taking.points.all()) > 20)
        await asyncio.sleep(0.5)  # turns are over meanwhile
        model.seconds = 0.0
        for n in range(4):
            assert (await taking.ended(f"file-{n}", 30))["status"] == "completed"
        taken = await postgres.fetch("select fence from jobs")
        assert {row["fence"] for row in taken} == {1}, "none was put off and taken again"
        assert not [task for task in asyncio.all_tasks() if "_give_way" in repr(task)]


async def test_an_engine_that_fails_at_a_text_fails_the_file(
    postgres: Postgres, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("api_server.services.retrieval.embedding.pause_seconds", lambda *_: 0.01)
    async with Taking(postgres, tmp_path) as taking:
        taking.model.errors = [InferenceError("It broke.") for _ in range(99)]
        await taking.add("file-1", b"poison")
        row = await taking.ended("file-1")
        assert row["status"] == "failed"
        assert "It broke." in row["last_error"]
        assert len(taking.model.asked) == 3
        taking.model.errors = [InferenceError("It broke.")]
        await taking.add("file-2", b"once is nothing")
        assert (await taking.ended("file-2"))["status"] == "completed"


async def test_a_vector_database_that_is_away_or_set_up_wrongly(
    postgres: Postgres, tmp_path: Path
) -> None:
    async with Taking(postgres, tmp_path) as taking:
        taking.points.errors = [DependencyDownError("qdrant")]
        await taking.add("file-1", b"later")
        assert (await taking.ended("file-1"))["status"] == "completed"
        taking.points.errors = [ModelMisconfiguredError("Vectors of another size.")]
        await taking.add("file-2", b"never")
        row = await taking.ended("file-2")
        assert row["status"] == "failed"
        assert "another size" in row["last_error"]
        assert [each[0] for each in await taking.stale()].count("file-2") >= 1


async def test_chunks_fit_into_the_context_and_what_does_not_is_cut(
    postgres: Postgres, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """The engine tells of its 512 tokens once; texts that have more than by estimate are halved."""
    model = PlayedModel(most_characters=1500)
    whole = text(4000)
    async with Taking(postgres, tmp_path, model=model) as taking:
        await taking.add("file-1", whole.encode())
        assert (await taking.ended("file-1"))["status"] == "completed"
        chunks = taking.points.all()
        assert all(len(each["text"]) <= 1500 for each in chunks)
        covered = {at for each in chunks for at in range(each["start"], each["end"])}
        assert all(whole[at].isspace() for at in set(range(len(whole))) - covered)
        assert len({(each["n"], each["start"]) for each in chunks}) == len(chunks)
    numbers = [each["n"] for each in chunks]
    (line,) = [each for each in caplog.records if "too long" in each.message]
    assert vars(line)["chunks"] == sum(numbers.count(n) > 1 for n in set(numbers)) > 1


@pytest.mark.parametrize("how", ["cancelled", "removed", "file deleted", "store deleted", "again"])
async def test_what_is_not_wanted_any_more_stops_and_leaves_nothing(
    postgres: Postgres, tmp_path: Path, how: str
) -> None:
    model = PlayedModel(0.1)
    async with Taking(postgres, tmp_path, model=model) as taking:
        taking.points.seconds = 0.4
        job_id = await taking.add("file-1", text(20_000).encode(), chunking=SMALL)
        generation = (await taking.row("file-1"))["generation"]
        await until(lambda: len(taking.points.all()) > 4)
        await postgres.execute(
            {
                "cancelled": "update vector_store_files set status = 'cancelled'",
                "removed": "delete from vector_store_files",
                "file deleted": "delete from files",
                "store deleted": "delete from vector_stores",
                "again": "update vector_store_files set generation = 'newer'",
            }[how]
        )
        if how in ("cancelled", "removed"):  # as the routes do; others find out by themselves
            await taking.jobs.cancel([job_id])
        await until(lambda: len(taking.ends) == 1, 5)
        asked = len(model.asked)
        points = len(taking.points.all())
        await asyncio.sleep(0.5)
        assert len(model.asked) == asked
        assert len(taking.points.all()) == points, "nothing comes after the end"
        assert ("file-1", generation) in await taking.stale()


async def test_attributes_that_change_meanwhile_are_those_of_all_points(
    postgres: Postgres, tmp_path: Path
) -> None:
    model = PlayedModel(0.05)
    async with Taking(postgres, tmp_path, model=model) as taking:
        await taking.add("file-1", text().encode(), chunking=SMALL, attributes='{"v": 1}')
        await until(lambda: len(taking.points.all()) > 4)
        await postgres.execute("update vector_store_files set attributes = '{\"v\": 2}'")
        assert (await taking.ended("file-1"))["status"] == "completed"
        assert {each["attributes"]["v"] for each in taking.points.all()} == {2}


async def test_a_file_whose_job_ended_without_it_is_settled(
    postgres: Postgres, tmp_path: Path
) -> None:
    """Too late, begun too often, or forgotten."""
    model = PlayedModel(60)
    async with Taking(postgres, tmp_path, model=model) as taking:
        late = await taking.add("file-1", b"late")
        gone = await taking.add("file-2", b"gone")
        await until(lambda: len(model.asked) == 2)
        await postgres.execute(
            "update jobs set state = 'error', message = 'It took too long.' where id = $1", late
        )
        await postgres.execute("delete from jobs where id = $1", gone)
        for file_id in ("file-1", "file-2"):
            assert (await taking.ended(file_id))["status"] == "failed"
        assert "It took too long." in (await taking.row("file-1"))["last_error"]
        assert {each[0] for each in await taking.stale()} == {"file-1", "file-2"}


async def test_the_engine_is_never_idle(postgres: Postgres, tmp_path: Path) -> None:
    """Of the time, most is the engine's: points are written, and chunks cut, beside it."""
    model = PlayedModel(0.05)
    async with Taking(postgres, tmp_path, model=model) as taking:
        taking.points.seconds = 0.05
        await taking.add("file-1", text(6000).encode(), chunking=SMALL)
        await until(lambda: len(model.asked) > 4)
        began, before = time.monotonic(), len(model.asked)
        await taking.ended("file-1")
        rounds = (len(model.asked) - before) / 4
        assert model.most_at_once == 4
        assert (time.monotonic() - began) < rounds * 0.05 * 2 + 2.5


async def test_kill_9_anywhere_and_the_points_are_the_same(
    postgres: Postgres, postgres_url: str, tmp_path: Path
) -> None:
    """Workers are killed at moments of chance until the files are in."""
    chance = random.Random(7)
    wholes = {f"file-{number}": text(5000, number) for number in range(3)}
    taking = Taking(postgres, tmp_path)
    for file_id, whole in wholes.items():
        await taking.add(file_id, whole.encode(), chunking=SMALL)
    await postgres.execute("update jobs set expires_at = now() + interval '1 hour'")

    async def worker() -> asyncio.subprocess.Process:
        return await asyncio.create_subprocess_exec(
            *(sys.executable, "-m", "tests.ingest_parts", postgres_url, str(tmp_path))
        )

    async def statuses() -> set[str]:
        rows = await postgres.fetch("select distinct status from vector_store_files")
        return {row["status"] for row in rows}

    kills = 0
    async with asyncio.timeout(100):
        while await statuses() != {"completed"}:
            process = await worker()
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(chance.uniform(1.5, 4) if kills < 4 else 60):
                    while await statuses() != {"completed"}:
                        await asyncio.sleep(0.1)
            process.kill()
            await process.wait()
            kills += 1
            # So many deaths are no fault of the file.
            await postgres.execute("update jobs set attempts = 0 where state = 'processing'")
    assert kills > 3, "the work takes longer than they let it live"
    for file_id, whole in wholes.items():
        assert check_points(taking, file_id, whole) == (await taking.row(file_id))["chunks"]
    assert await taking.stale() == []
