"""PostgreSQL and Redis of `make local`, from outside: found, kept up, kept apart, removed."""

import contextlib
import os
import signal
import stat
import subprocess
import sys
import time
from pathlib import Path

import asyncpg
import httpx
import pytest
import redis

from api_server.local.process import free_port
from tests.local_stack import (
    REPOSITORY,
    START_SECONDS,
    LocalStack,
    changed_stack_file,
    eventually,
    kept_stack,
    local_stack,
    processes,
    run_command,
)


@pytest.fixture(autouse=True)
def _engine_is_built(stack: LocalStack) -> None:
    """The session's stack came up, so the engine is in the cache."""
    assert stack.process.poll() is None


async def asked(stack: LocalStack, statement: str) -> object:
    """The first value that PostgreSQL answers, to whoever can read the data directory."""
    connection = await asyncpg.connect(stack.postgres_url(), timeout=5)
    try:
        return await connection.fetchval(statement)
    finally:
        await connection.close()


def gateway_variables(stack: LocalStack) -> dict[str, str]:
    """What the gateway was told in its environment."""
    told = next(
        env
        for _, line, env in processes()
        if "api_server serve" in line and str(stack.data_dir) in env
    )
    return dict(pair.split("=", 1) for pair in told.split("\0") if "=" in pair)


def chat(stack: LocalStack, *, key: str | None = None) -> int:
    """The status of a chat's answer."""
    body = {"model": "tiny", "messages": [{"role": "user", "content": "Hello!"}]}
    headers = {"authorization": f"Bearer {key}"} if key else {}
    url = f"{stack.url}/v1/chat/completions"
    return httpx.post(url, json=body, headers=headers, timeout=30).status_code


async def test_both_answer_to_the_addresses_in_the_data_directory(stack: LocalStack) -> None:
    assert await asked(stack, "select current_user") == "stack"
    assert await asked(stack, "select rolsuper from pg_roles where rolname = 'stack'") is False
    assert await asked(stack, "show timezone") == "UTC"
    with redis.Redis.from_url(stack.redis_url()) as client:
        assert client.ping()
        assert client.config_get("maxmemory-policy") == {"maxmemory-policy": "volatile-lru"}
    for name in ("postgres.url", "redis.url", "redis.conf"):
        assert stat.S_IMODE((stack.data_dir / name).stat().st_mode) == 0o600


def test_the_gateway_is_told(stack: LocalStack) -> None:
    told = gateway_variables(stack)
    assert told["POSTGRES_URL"] == stack.postgres_url()
    assert told["REDIS_URL"] == stack.redis_url()
    assert told["ENVIRONMENT"] == "development"
    assert told["DATA_DIR"] == str(stack.data_dir)


@pytest.mark.parametrize("role", ["stack", "postgres"])
async def test_nobody_logs_in_without_the_password(stack: LocalStack, role: str) -> None:
    address = stack.postgres_url().split("@")[1]
    for wrong in (f"postgresql://{role}@{address}", f"postgresql://{role}:guess@{address}"):
        with pytest.raises(asyncpg.InvalidAuthorizationSpecificationError):
            await asyncpg.connect(wrong, timeout=5, ssl=False)
    stranger = f"redis://{stack.redis_url().split('@')[1]}"
    with redis.Redis.from_url(stranger) as client, pytest.raises(redis.AuthenticationError):
        client.ping()


def test_neither_listens_anywhere_else(stack: LocalStack) -> None:
    """Loopback addresses only, and no unix socket."""
    ports = {int(url.rsplit(":", 1)[1].split("/")[0]) for url in _urls(stack)}
    lines = Path("/proc/net/tcp").read_text() + Path("/proc/net/tcp6").read_text()
    listening = [line.split()[1] for line in lines.splitlines() if " 0A " in line]
    ours = [address for address in listening if int(address.split(":")[1], 16) in ports]
    assert len(ours) == 2
    assert {address.split(":")[0] for address in ours} == {"0100007F"}
    sockets = Path("/proc/net/unix").read_text()
    assert str(stack.data_dir) not in sockets
    assert str((stack.data_dir / "postgres").resolve()) not in sockets


def _urls(stack: LocalStack) -> list[str]:
    return [stack.postgres_url(), stack.redis_url()]


async def test_data_survives_a_restart_and_kill_9_of_everything(tmp_path: Path) -> None:
    data_dir = tmp_path / "data"
    with kept_stack(data_dir) as first:
        first.wait_ready(START_SECONDS)
        await asked(first, "create table kept as select 1 as number")
        for pid in [first.process.pid, first.postgres_pid(), first.redis_pid()]:
            with contextlib.suppress(ProcessLookupError):  # what the first held ends with it
                os.kill(pid, signal.SIGKILL)
        first.process.wait()
        eventually(lambda: first.children() == [], 5, "no orphans")
    # The lock file that was left names a process that lives, and is not PostgreSQL.
    lock_file = data_dir / "postgres/postmaster.pid"
    text = lock_file.read_text()
    lock_file.write_text(text.replace(text.split()[0], str(os.getpid()), 1))
    with kept_stack(data_dir) as second:
        second.wait_ready(START_SECONDS)
        await asked(second, "insert into kept values (2)")
        assert second.stop() == 0
        assert second.children() == []
    (data_dir / "postgres.url").unlink()  # with it the password
    started = time.monotonic()
    with local_stack(data_dir) as third:
        third.wait_ready(START_SECONDS)
        assert await asked(third, "select sum(number) from kept") == 3
        assert "making an empty database" not in third.output
    assert time.monotonic() - started < START_SECONDS


async def test_kill_9_of_both_is_mended_and_the_gateway_goes_on(tmp_path: Path) -> None:
    with local_stack(tmp_path / "data") as stack:
        stack.wait_ready(START_SECONDS)
        gateway = next(pid for pid, line in stack.children() if "api_server serve" in line)
        await asked(stack, "create table kept as select 1 as number")
        for pid in (stack.postgres_pid(), stack.redis_pid()):
            os.kill(pid, signal.SIGKILL)
        assert chat(stack) == 200
        for name in ("PostgreSQL", "Redis"):
            eventually(lambda: f"{name} is back" in stack.output, 10, f"{name} is back")  # noqa: B023
            assert f"{name} died (killed by signal 9)" in stack.output
        assert await asked(stack, "select number from kept") == 1
        with redis.Redis.from_url(stack.redis_url()) as client:
            assert client.ping()
        assert chat(stack) == 200
        assert gateway in [pid for pid, _ in stack.children()]
        assert stack.stop() == 0
        assert stack.children() == []


async def test_stopped_postgres_is_replaced(tmp_path: Path) -> None:
    """It hangs with all its processes, as on a machine that swaps itself to death."""
    config = changed_stack_file(tmp_path, local={"hang_seconds": 3})
    with local_stack(tmp_path / "data", STACK_CONFIG=config) as stack:
        stack.wait_ready(START_SECONDS)
        os.kill(stack.postgres_pid(), signal.SIGSTOP)
        eventually(lambda: "PostgreSQL is back" in stack.output, 20, "it is back")
        assert "PostgreSQL was silent for 3 s" in stack.output
        assert await asked(stack, "select 1") == 1


async def test_two_stacks_have_their_own(stack: LocalStack, tmp_path: Path) -> None:
    with local_stack(tmp_path / "data") as second:
        second.wait_ready(START_SECONDS)
        await asked(second, "create table only_here (number integer)")
        assert await asked(stack, "select to_regclass('only_here')") is None
        assert set(_urls(stack)).isdisjoint(_urls(second))
        with redis.Redis.from_url(second.redis_url()) as client:
            client.set("only", "here")
        with redis.Redis.from_url(stack.redis_url()) as client:
            assert client.get("only") is None


def test_what_the_operator_has_elsewhere_is_used_and_not_started(
    tmp_path: Path, postgres_url: str, redis_url: str
) -> None:
    elsewhere = {"POSTGRES_URL": postgres_url, "REDIS_URL": redis_url}
    with local_stack(tmp_path / "data", **elsewhere) as stack:
        stack.wait_ready(START_SECONDS)
        told = gateway_variables(stack)
        assert {name: told[name] for name in elsewhere} == elsewhere
        assert not [line for _, line in stack.children() if "redis" in line or "postgres" in line]
        assert not (stack.data_dir / "postgres").exists()


def test_a_worker_beside_it_has_all_it_needs(tmp_path: Path) -> None:
    """From `stores.env`; and an example its key, as its first lines say."""
    data_dir = tmp_path / "data"
    config = changed_stack_file(tmp_path, assistants={"runs": 0})
    with local_stack(data_dir, AUTH="on", STACK_CONFIG=config) as stack:
        stack.wait_ready(4 * START_SECONDS)

        def shell(script: str, **variables: str) -> subprocess.Popen[str]:
            return subprocess.Popen(
                ["bash", "-c", script],
                cwd=REPOSITORY,
                env=os.environ | variables | {"DATA_DIR": str(data_dir)},
                stdout=subprocess.PIPE,
                text=True,
            )

        worker = shell(f". {data_dir}/stores.env; exec {sys.executable} -m api_server worker")
        opening = (REPOSITORY / "examples/conversation.py").read_text().split('"""')[1]
        as_told = "\n".join(opening.splitlines()[3:]).replace(".local/", f"{data_dir}/")
        path = f"{Path(sys.executable).parent}:{os.environ['PATH']}"
        example = shell(as_told, OPENAI_BASE_URL=f"{stack.url}/v1", PATH=path)
        try:
            said, _ = example.communicate(timeout=60)
            assert "Your name is Maria.\n[all of it is kept" in said
        finally:
            for process in (example, worker):
                process.kill()
                process.communicate()


def test_key_of_a_developer_is_made_once_and_shown(tmp_path: Path) -> None:
    data_dir = tmp_path / "data"
    keys = []
    for _ in range(2):
        with kept_stack(data_dir, AUTH="on") as stack:
            stack.wait_ready(START_SECONDS)
            path = data_dir / "development.key"
            key = path.read_text().strip()
            assert key.startswith("sk-dev-")
            assert stat.S_IMODE(path.stat().st_mode) == 0o600
            assert gateway_variables(stack)["DEVELOPMENT_KEY"] == key
            assert f"-H 'authorization: Bearer {key}'" in stack.output
            assert f"key:      {key}" in stack.output
            assert chat(stack, key=key) == 200
            assert chat(stack) == chat(stack, key="sk-dev-guessed-by-somebody") == 401
            keys.append(key)
    assert keys[0] == keys[1]
    with local_stack(data_dir, AUTH="off") as stack:
        stack.wait_ready(START_SECONDS)
        assert (
            "DEVELOPMENT_KEY" not in gateway_variables(stack)
            or not gateway_variables(stack)["DEVELOPMENT_KEY"]
        )
        assert keys[0] not in stack.output
        assert chat(stack) == 200
        assert "Warning" not in stack.output


def test_a_host_that_others_reach_is_warned_of_only_without_authentication(tmp_path: Path) -> None:
    warning = "Warning: AUTH is off, and HOST 0.0.0.0"
    for number, (auth, is_warned) in enumerate((("off", True), ("on", False))):
        with local_stack(tmp_path / f"data{number}", AUTH=auth, HOST="0.0.0.0") as stack:
            stack.wait_ready(START_SECONDS)
            eventually(lambda: "logs:" in stack.output, 5, "the banner")
            time.sleep(0.2)
            assert (warning in stack.output) is is_warned


def test_reset_removes_the_data_wherever_it_lies(tmp_path: Path) -> None:
    data_dir = tmp_path / "data"
    with kept_stack(data_dir, AUTH="on") as stack:
        stack.wait_ready(START_SECONDS)
        cluster = (data_dir / "postgres").resolve()
        assert (cluster / "PG_VERSION").is_file()
        stack.stop()
    run_command("reset", DATA_DIR=str(data_dir))
    assert not data_dir.exists()
    assert not cluster.exists()


@pytest.mark.skipif(os.geteuid() != 0, reason="only root has to become somebody else")
def test_root_changes_no_folder_that_was_there(tmp_path: Path) -> None:
    """pytest's folders are closed to others, as a home is: the data goes elsewhere."""
    closed = tmp_path / "home"
    closed.mkdir(mode=0o700)
    before = [(path, path.stat().st_mode, path.stat().st_uid) for path in closed.parents]
    with local_stack(closed / "data") as stack:
        stack.wait_ready(START_SECONDS)
        cluster = (closed / "data/postgres").resolve()
        assert not cluster.is_relative_to(tmp_path)
        assert f"its data is in {cluster}" in stack.output
        assert Path(f"/proc/{stack.postgres_pid()}").stat().st_uid != 0
    assert stat.S_IMODE(closed.stat().st_mode) == 0o700
    assert before == [(path, path.stat().st_mode, path.stat().st_uid) for path in closed.parents]
    assert not cluster.exists()


def test_data_of_another_version_says_what_to_do(tmp_path: Path) -> None:
    """The programs of each version read only their own data."""
    data_dir = tmp_path / "data"
    with kept_stack(data_dir) as stack:
        stack.wait_ready(START_SECONDS)
        stack.stop()
    version = data_dir / "postgres/PG_VERSION"
    version.write_text("9\n")
    done = run_command("local", DATA_DIR=str(data_dir), PORT=str(free_port()))
    assert done.returncode == 1
    assert "The data is PostgreSQL 9's" in done.stderr
    assert "Install PostgreSQL 9" in done.stderr
    assert "make local-reset" in done.stderr
    run_command("reset", DATA_DIR=str(data_dir))
    assert not data_dir.exists()
