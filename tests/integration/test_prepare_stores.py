"""`python -m api_server prepare-stores`, as bucket-init runs it, against servers of its own."""

import os
import re
import secrets
import socket
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping
from pathlib import Path

import pytest

from api_server.commands.prepare_stores import Patience, prepare
from api_server.errors import StoreAwayError
from api_server.settings import load_settings
from api_server.settings.store_layout import load_buckets, load_collections
from tests.local_stack import NEUTRAL, REPOSITORY
from tests.qdrant import QdrantServer, running_vector_server
from tests.s3 import S3Server, running_s3
from tests.stores import PostgresServer

BUCKETS = ", ".join(load_buckets().names())
CHUNKS = load_collections().chunks
COLLECTION = ", ".join([CHUNKS.name, *(f"{CHUNKS.name}.{key}" for key in CHUNKS.indexes)])
START_SECONDS = 30


@pytest.fixture
def empty_database(postgres_server: PostgresServer) -> Iterator[str]:
    """One without any table."""
    name = f"test_{secrets.token_hex(6)}"
    postgres_server.command(f"create database {name}")
    yield postgres_server.url(name)
    postgres_server.command(f"drop database {name} with (force)")


@pytest.fixture
def s3() -> Iterator[S3Server]:
    with running_s3() as server:
        yield server


@pytest.fixture
def qdrant(tmp_path: Path) -> Iterator[QdrantServer]:
    with running_vector_server(tmp_path / "qdrant", "a-key-of-the-test") as server:
        yield server.address


def started(variables: Mapping[str, str]) -> "subprocess.Popen[str]":
    """The command, with these variables and no other of the stack."""
    return subprocess.Popen(
        [sys.executable, "-m", "api_server", "prepare-stores"],
        cwd=REPOSITORY,
        env=os.environ | NEUTRAL | dict(variables),
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def ended(process: "subprocess.Popen[str]") -> tuple[int, str, str]:
    """Exit code, standard output, standard error."""
    out, err = process.communicate(timeout=START_SECONDS)
    return process.returncode, out, err


def run(variables: Mapping[str, str]) -> tuple[int, str, str]:
    """Run it to its end."""
    return ended(started(variables))


def test_all_stores_are_made_once(empty_database: str, s3: S3Server, qdrant: QdrantServer) -> None:
    told = {"POSTGRES_URL": empty_database} | s3.variables | qdrant.variables
    code, out, err = run(told)
    assert (code, err) == (0, "")
    assert "PostgreSQL: made 0001_apps, 0002_usage, 0003_jobs" in out
    assert f"object store: made {BUCKETS}.\nQdrant: made {COLLECTION}.\n" in out
    assert {path.name for path in s3.folder.iterdir()} == set(load_buckets().names())
    vectors = qdrant.describe(CHUNKS.name)["config"]["params"]["vectors"]
    assert vectors == {"size": 768, "distance": "Cosine"}
    code, out, err = run(told)
    assert (code, err) == (0, "")
    assert f"object store: {BUCKETS} were there.\nQdrant: {COLLECTION} were there.\n" in out
    assert "made" not in out


def test_the_role_of_panels_is_made_where_it_has_a_password(empty_database: str) -> None:
    told = {"POSTGRES_URL": empty_database, "GRAFANA_POSTGRES_PASSWORD": secrets.token_hex(16)}
    code, out, err = run(told)
    assert (code, err) == (0, "")
    assert re.search(r"made 0001_apps, .*\. The role grafana was (made|there)\.\n", out)
    code, out, err = run(told)
    assert (code, err) == (0, "")
    assert " were there. The role grafana was there.\n" in out
    assert told["GRAFANA_POSTGRES_PASSWORD"] not in out


def test_what_is_missing_of_some_is_made(s3: S3Server) -> None:
    (s3.folder / load_buckets().batches).mkdir()
    code, out, _ = run(s3.variables)
    assert code == 0
    assert "made stack-files, stack-reports; stack-batches was there." in out


def test_two_at_the_same_time_both_succeed(
    empty_database: str, s3: S3Server, qdrant: QdrantServer
) -> None:
    told = {"POSTGRES_URL": empty_database} | s3.variables | qdrant.variables
    results = [ended(process) for process in [started(told) for _ in range(3)]]
    assert [code for code, _, _ in results] == [0, 0, 0], results
    assert sum("made 0001_apps" in out for _, out, _ in results) == 1


def test_without_addresses_nothing_is_made_and_that_is_said() -> None:
    code, out, _ = run({})
    assert code == 0
    for name in ("POSTGRES_URL", "S3_URL", "QDRANT_URL"):
        assert f"left out, as {name} is not set." in out


def test_a_server_that_is_still_starting_is_waited_for(s3: S3Server) -> None:
    s3.kill()
    process = started(s3.variables)
    assert process.stderr is not None
    line = process.stderr.readline()
    assert "The object store does not answer at S3_URL" in line
    assert "Waiting, 60 s at most." in line
    time.sleep(1)
    assert process.poll() is None
    s3.start()
    code, out, err = ended(process)
    assert (code, err) == (0, "")  # it was said once
    assert f"made {BUCKETS}." in out


@pytest.mark.parametrize("name", ["POSTGRES_URL", "S3_URL", "QDRANT_URL"])
async def test_a_server_that_does_not_come_is_an_error(
    name: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))  # and nobody listens
        scheme = "postgresql" if name == "POSTGRES_URL" else "http"
        url = f"{scheme}://127.0.0.1:{taken.getsockname()[1]}"
        keys = {"S3_ACCESS_KEY": "key", "S3_SECRET_KEY": "secret"}
        settings = load_settings({"STACK_CONFIG": "configs/stack.yaml", name: url} | keys)
        began = time.monotonic()
        with pytest.raises(StoreAwayError, match=name):
            await prepare(settings, Patience(1.0))
        assert 1.0 <= time.monotonic() - began < 10.0
        assert capsys.readouterr().err.count("Waiting, 1 s at most.") == 1


def test_wrong_secrets_end_it_at_once(
    empty_database: str, s3: S3Server, qdrant: QdrantServer
) -> None:
    user, _, rest = empty_database.rpartition("@")
    wrong = {
        "PostgreSQL refuses POSTGRES_URL": {"POSTGRES_URL": f"{user}x@{rest}"},
        "refuses S3_ACCESS_KEY": s3.variables | {"S3_SECRET_KEY": "another"},
        "S3_URL needs S3_ACCESS_KEY and": s3.variables | {"S3_SECRET_KEY": ""},
        "Qdrant refuses QDRANT_API_KEY": qdrant.variables | {"QDRANT_API_KEY": "another"},
    }
    for sentence, told in wrong.items():
        began = time.monotonic()
        code, _, err = run(told)
        assert code == 1
        assert sentence in err
        assert "Waiting" not in err
        assert "Traceback" not in err
        assert time.monotonic() - began < 20


def test_a_collection_of_another_size_says_what_to_do(qdrant: QdrantServer) -> None:
    there = {"vectors": {"size": 384, "distance": "Cosine"}}
    qdrant.ask("PUT", f"/collections/{CHUNKS.name}", there).raise_for_status()
    before = qdrant.describe(CHUNKS.name)
    code, _, err = run(qdrant.variables)
    assert code == 1
    assert "of 384 numbers" in err
    assert "collections.yaml says 768" in err
    assert "Nothing was changed." in err
    assert qdrant.describe(CHUNKS.name) == before
