"""Keys while PostgreSQL is down, hangs, or comes back; and in several processes at once."""

import asyncio
import gc
import os
import stat
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import asyncpg
import pytest

from api_server.errors import DependencyDownError
from api_server.services.access.directory import Directory
from api_server.stores.apps import AppStore
from api_server.stores.postgres import Postgres
from tests.access import guarded_gateway, make_app, managed_apps, until
from tests.stores import PostgresServer, running_postgres


@pytest.fixture(scope="module")
def module_server() -> Iterator[PostgresServer]:
    with running_postgres() as server:
        yield server


@pytest.fixture
def server(module_server: PostgresServer) -> Iterator[PostgresServer]:
    """A server that may be killed or paused; it is well again afterwards."""
    yield module_server
    if module_server.process is None:
        module_server.start()
    module_server.resume()
    module_server.wait()


@pytest.fixture
def url(server: PostgresServer) -> str:
    name = f"own_{time.monotonic_ns()}"
    server.command(f"create database {name} template stack_template")
    return server.url(name)


class Away:
    """How a database can be away, and back."""

    def __init__(self, server: PostgresServer, how: str) -> None:
        self.server, self.how = server, how

    def go(self) -> None:
        self.server.pause() if self.how == "hanging" else self.server.kill()

    def come_back(self) -> None:
        if self.how == "hanging":
            self.server.resume()
        else:
            self.server.start()
            self.server.wait()


@pytest.fixture(params=["down", "hanging"])
def away(request: pytest.FixtureRequest, server: PostgresServer) -> Away:
    return Away(server, request.param)


async def test_keys_go_on_while_postgres_is_away_and_changes_come_through_after_it(
    tmp_path: Path, url: str, away: Away
) -> None:
    issued = await make_app(url)
    async with guarded_gateway(tmp_path, url) as gateway:
        assert (await gateway.chat(issued.key)).status_code == 200
        away.go()
        for _ in range(20):
            began = time.monotonic()
            assert (await gateway.chat(issued.key)).status_code == 200
            assert time.monotonic() - began < 0.5
            assert (await gateway.chat("sk-wrong")).status_code == 401
            await asyncio.sleep(0.1)
        answer = await gateway.admin("POST", "", json={"name": "late"})
        assert answer.status_code == 503
        assert int(answer.headers["retry-after"]) >= 1
        assert (await gateway.http.get("/health/ready")).status_code == 200
        away.come_back()

        async def is_made() -> bool:
            return (await gateway.admin("POST", "", json={"name": "late"})).status_code == 201

        await until(is_made, 20)
        await gateway.admin("DELETE", "/shop")

        async def is_out() -> bool:
            return (await gateway.chat(issued.key)).status_code == 401

        await until(is_out, 15)


async def test_a_start_without_postgres_takes_keys_from_the_snapshot(
    tmp_path: Path, url: str, away: Away
) -> None:
    issued = await make_app(url)
    revoked = await make_app(url, "revoked")
    async with managed_apps(url) as apps:
        await apps.revoke("revoked")
    async with guarded_gateway(tmp_path, url) as gateway:
        assert (await gateway.chat(issued.key)).status_code == 200
    path = tmp_path / "apps.snapshot"
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert issued.key is not None
    assert issued.app_code is not None
    for secret in (issued.key, issued.app_code):
        assert secret.encode() not in path.read_bytes()
    away.go()
    began = time.monotonic()
    async with guarded_gateway(tmp_path, url) as gateway:
        assert time.monotonic() - began < 8
        assert (await gateway.chat(issued.key)).status_code == 200
        assert (await gateway.chat("sk-wrong")).status_code == 401
        assert (await gateway.chat(revoked.key)).status_code == 401
        assert (await gateway.http.get("/health")).json()["apps_age_seconds"] > 0
        ready = await gateway.http.get("/health/ready")
        assert ready.status_code == 200
        away.come_back()

        async def knows_the_schema() -> bool:
            ready = (await gateway.http.get("/health/ready")).json()
            return bool(ready["schema_version"]) and ready["dependencies"]["postgres"] == "up"

        await until(knows_the_schema, 25)


async def test_without_a_snapshot_it_is_503_and_never_401(
    tmp_path: Path, url: str, away: Away
) -> None:
    issued = await make_app(url)
    away.go()
    async with guarded_gateway(tmp_path, url) as gateway:
        for key in (issued.key, "sk-wrong"):
            answer = await gateway.chat(key)
            assert answer.status_code == 503
            assert answer.json()["error"]["code"] == "dependency_down"
            assert int(answer.headers["retry-after"]) >= 1
        assert (await gateway.chat(None)).status_code == 401
        away.come_back()

        async def is_in() -> bool:
            answer = await gateway.chat(issued.key)
            assert answer.status_code in {200, 503}
            return answer.status_code == 200

        await until(is_in, 25)
        assert (await gateway.chat("sk-wrong")).status_code == 401


@pytest.mark.parametrize("fault", ["broken", "others_may_write", "of_another_form"])
async def test_a_snapshot_that_cannot_be_trusted_is_left_alone(
    tmp_path: Path, url: str, server: PostgresServer, fault: str
) -> None:
    path = tmp_path / "apps.snapshot"
    postgres = Postgres(url)
    await make_app(url)
    first = Directory(AppStore(postgres), path)
    await first.refresh()
    if fault == "broken":
        path.write_bytes(path.read_bytes()[:-9])
    elif fault == "others_may_write":
        path.chmod(0o622)
    else:
        path.write_bytes(path.read_bytes().replace(b'"format":1', b'"format":7'))
    server.kill()
    second = Directory(AppStore(postgres), path)
    await second.start(0.5)
    with pytest.raises(DependencyDownError):
        second.find("sk-any")
    assert second.age_seconds is None
    await second.aclose()
    await postgres.aclose()


async def test_a_key_is_revoked_in_every_process_within_three_seconds(
    tmp_path: Path, url: str
) -> None:
    """Two gateways, and two workers in one of them would be the same: each has a directory."""
    (tmp_path / "a").mkdir()
    (tmp_path / "b").mkdir()
    async with (
        guarded_gateway(tmp_path / "a", url) as one,
        guarded_gateway(tmp_path / "b", url) as two,
    ):
        for number in range(3):
            issued = await make_app(url, f"shop {number}")

            async def all_say(status: int, key: str | None = issued.key) -> bool:
                return {(await each.chat(key)).status_code for each in (one, two)} == {status}

            await until(lambda say=all_say: say(200), 3)  # type: ignore[misc]
            await one.admin("DELETE", f"/shop {number}")
            await until(lambda say=all_say: say(401), 3)  # type: ignore[misc]


async def test_a_listener_that_died_in_silence_delays_changes_by_seconds_only(
    tmp_path: Path, url: str
) -> None:
    postgres = Postgres(url)

    async def deaf(_channel: str, _heard: Callable[[str], None]) -> None:
        await asyncio.Event().wait()

    directory = Directory(AppStore(postgres), tmp_path / "apps.snapshot", listen=deaf)
    await directory.start()
    issued = await make_app(url)
    assert issued.key is not None
    key = issued.key

    async def is_known() -> bool:
        return directory.find(key) is not None

    await until(is_known, 3)
    async with managed_apps(url) as apps:
        await apps.revoke("shop")

    async def is_gone() -> bool:
        return directory.find(key) is None

    await until(is_gone, 3)
    await directory.aclose()
    await postgres.aclose()


async def test_a_notification_comes_long_before_the_next_look(
    tmp_path: Path, url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("api_server.services.access.directory.ASK_SECONDS", 60.0)
    postgres = Postgres(url)
    directory = Directory(AppStore(postgres), tmp_path / "s", listen=postgres.listen)
    await directory.start()
    await asyncio.sleep(0.5)
    for number in range(3):
        issued = await make_app(url, f"app {number}")

        async def is_known(key: str = str(issued.key)) -> bool:
            return directory.find(key) is not None

        await until(is_known, 1)
    await directory.aclose()
    await postgres.aclose()


async def test_what_an_operator_deletes_by_hand_is_gone_too(tmp_path: Path, url: str) -> None:
    postgres = Postgres(url)
    directory = Directory(AppStore(postgres), tmp_path / "s")
    issued = await make_app(url)
    other = await make_app(url, "other")
    await directory.refresh()
    assert directory.find(str(issued.key)) is not None
    connection = await asyncpg.connect(url)
    await connection.execute("delete from app_credentials where app_id = $1", issued.app.id)
    await directory.refresh()
    assert directory.find(str(issued.key)) is None
    assert directory.find(str(other.key)) is not None
    await connection.execute("update apps set policy = '{\"what\": 1}' where name = 'other'")
    await directory.refresh()
    found = directory.find(str(other.key))
    assert found is not None
    assert found.app.policy == other.app.policy, "the one that is known stays in force"
    await connection.close()
    await postgres.aclose()


async def test_ten_thousand_apps_do_not_hold_up_requests(tmp_path: Path, url: str) -> None:
    connection = await asyncpg.connect(url)
    await connection.execute(
        "insert into apps (id, name, policy) select 'app_' || n, 'name ' || n, "
        "jsonb_build_object('tokens_per_minute', n % 100 + 1) from generate_series(1, 10000) n"
    )
    await connection.execute(
        "insert into app_credentials (id, app_id, kind, hash, hint) select 'cred_' || n, "
        "'app_' || n, 'key', sha256(('sk-' || n)::bytea), 'sk' from generate_series(1, 10000) n"
    )
    postgres = Postgres(url)
    directory = Directory(AppStore(postgres), tmp_path / "s")
    longest = 0.0
    gc.collect()
    gc.freeze()  # as a gateway does; or the objects of all tests would be looked through

    async def watch() -> None:
        """How long others had no turn, in time of the processor: the machine may be busy."""
        nonlocal longest
        while True:
            began = time.thread_time()
            await asyncio.sleep(0)
            longest = max(longest, time.thread_time() - began)

    watching = asyncio.create_task(watch())
    began = time.perf_counter()
    await directory.refresh()
    whole = time.perf_counter() - began
    found = directory.find("sk-9999")
    assert found is not None
    assert found.app.policy.tokens_per_minute == 100
    longest_of_all, longest = longest, 0.0
    await connection.execute("update apps set revoked_at = now() where id = 'app_9999'")
    began = time.perf_counter()
    await directory.refresh()
    one = time.perf_counter() - began
    assert directory.find("sk-9999") is None
    watching.cancel()
    gc.unfreeze()
    assert (whole < 10, one < 2) == (True, True)
    assert max(longest, longest_of_all) < 0.05
    await connection.close()
    await postgres.aclose()


async def test_processes_that_start_together_make_the_tables_once(
    tmp_path: Path, server: PostgresServer
) -> None:
    name = f"empty_{time.monotonic_ns()}"
    server.command(f"create database {name}")
    variables = {"POSTGRES_URL": server.url(name)}

    async def migrate() -> tuple[int | None, bytes]:
        process = await asyncio.create_subprocess_exec(
            *(sys.executable, "-m", "api_server", "migrate"),
            env=os.environ | variables,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
        )
        said, _ = await process.communicate()
        return process.returncode, said

    results = await asyncio.gather(*(migrate() for _ in range(3)))
    assert [code for code, _ in results] == [0, 0, 0], results
    assert sum(b"applied 0001_apps" in said for _, said in results) == 1
    async with guarded_gateway(tmp_path, server.url(name)) as gateway:
        issued = await make_app(server.url(name))

        async def is_in() -> bool:
            return (await gateway.chat(issued.key)).status_code == 200

        await until(is_in, 3)
