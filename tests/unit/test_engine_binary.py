"""Which llama-server is chosen, and what a binary must understand."""

from collections.abc import Callable
from pathlib import Path

import pytest

from api_server.errors import SetupError
from api_server.local import engine_binary
from api_server.local.engine_binary import engine_fault, find_engine, missing_flags
from tests.said import Said

FLAGS = ["--jinja", "--no-webui"]
HELP = """
-h,    --help, --usage        print usage and exit
--jinja, --no-jinja           use jinja template for chat
--webui, --no-webui           whether to enable the Web UI
"""
Engine = Callable[..., Path]


@pytest.fixture
def engine(tmp_path: Path) -> Engine:
    def make(folder: str, *, body: str = "", help_text: str = HELP) -> Path:
        path = tmp_path / folder / "llama-server"
        path.parent.mkdir(parents=True)
        path.write_text(f"#!/bin/sh\n{body}\ncat <<'END'\n{help_text}\nEND\n")
        path.chmod(0o755)
        return path

    return make


@pytest.fixture
def search_path(monkeypatch: pytest.MonkeyPatch) -> Callable[..., None]:
    def put(*folders: Path) -> None:
        monkeypatch.setenv("PATH", ":".join([*map(str, folders), "/usr/bin", "/bin"]))

    return put


@pytest.fixture
def builds(monkeypatch: pytest.MonkeyPatch, engine: Engine) -> list[Path]:
    """Replaces the compilation; the list has what it was asked for."""
    asked: list[Path] = []

    async def build_engine(*, cache_home: Path, **_: object) -> Path:
        asked.append(cache_home)
        return engine("built")

    monkeypatch.setattr(engine_binary, "build_engine", build_engine)
    return asked


async def find(tmp_path: Path, explicit: str | None = None, said: Said | None = None) -> Path:
    return await find_engine(
        explicit=explicit, cache_home=tmp_path / "cache", say=said or Said(), flags=FLAGS
    )


@pytest.mark.parametrize(
    ("flags", "missing"),
    [
        (FLAGS, []),
        (["--usage", "-h"], []),
        (["--web"], ["--web"]),
        (["--jinja-file", "--slots"], ["--jinja-file", "--slots"]),
        (["-web", "ui"], ["-web", "ui"]),
    ],
)
def test_a_flag_must_stand_in_the_help_as_a_whole_word(
    flags: list[str], missing: list[str]
) -> None:
    assert missing_flags(HELP, flags) == missing


async def test_the_named_engine_is_used_before_the_one_on_path(
    tmp_path: Path, engine: Engine, search_path: Callable[..., None], builds: list[Path]
) -> None:
    search_path(engine("on-path").parent)
    named = engine("named")
    assert await find(tmp_path, str(named)) == named
    assert builds == []


async def test_the_named_engine_may_be_a_name_on_path(
    tmp_path: Path, engine: Engine, search_path: Callable[..., None]
) -> None:
    other = engine("on-path").rename(tmp_path / "on-path" / "my-server")
    search_path(other.parent)
    assert await find(tmp_path, "my-server") == other


async def test_a_relative_path_becomes_absolute(
    tmp_path: Path, engine: Engine, monkeypatch: pytest.MonkeyPatch
) -> None:
    named = engine("named")
    monkeypatch.chdir(tmp_path)
    assert await find(tmp_path, "./named/llama-server") == named


async def test_a_named_engine_that_is_not_there_is_an_error(
    tmp_path: Path, builds: list[Path]
) -> None:
    with pytest.raises(SetupError, match=r"LLAMA_SERVER is '/no/such', which is no program: set"):
        await find(tmp_path, "/no/such")
    assert builds == []


async def test_a_named_engine_that_lacks_flags_is_an_error_that_names_them(
    tmp_path: Path, engine: Engine
) -> None:
    old = engine("old", help_text="--host HOST")
    with pytest.raises(SetupError, match=r"does not understand --jinja, --no-webui: set it to a"):
        await find(tmp_path, str(old))


async def test_the_engine_on_path_is_used_before_one_is_built(
    tmp_path: Path, engine: Engine, search_path: Callable[..., None], builds: list[Path]
) -> None:
    on_path = engine("on-path")
    search_path(on_path.parent)
    said = Said()
    assert await find(tmp_path, said=said) == on_path
    assert (builds, said.lines) == ([], [])


async def test_an_unfit_engine_on_path_is_mentioned_and_one_is_built(
    tmp_path: Path, engine: Engine, search_path: Callable[..., None], builds: list[Path]
) -> None:
    old = engine("old", help_text="--jinja")
    search_path(old.parent)
    said = Said()
    assert await find(tmp_path, said=said) == tmp_path / "built" / "llama-server"
    assert said.lines == [f"not using {old} from PATH: it does not understand --no-webui"]
    assert builds == [tmp_path / "cache"]


async def test_without_any_engine_one_is_built(
    tmp_path: Path, search_path: Callable[..., None], builds: list[Path]
) -> None:
    search_path()
    assert await find(tmp_path) == tmp_path / "built" / "llama-server"
    assert len(builds) == 1


async def test_a_built_engine_that_stopped_working_says_what_to_remove(
    tmp_path: Path,
    engine: Engine,
    search_path: Callable[..., None],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    search_path()

    async def build_engine(**_: object) -> Path:
        return engine("built", body="echo 'error: libgomp.so.1: not found'; exit 127")

    monkeypatch.setattr(engine_binary, "build_engine", build_engine)
    with pytest.raises(SetupError, match=r"libgomp.so.1: not found: remove .*/built and run this"):
        await find(tmp_path)


async def test_an_engine_that_hangs_is_given_up(
    engine: Engine, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(engine_binary, "CHECK_TIMEOUT_SECONDS", 0.3)
    assert await engine_fault(engine("slow", body="sleep 60"), FLAGS) == (
        "does not answer --version within 0 s"
    )


async def test_a_file_of_another_machine_does_not_run(engine: Engine) -> None:
    alien = engine("alien")
    alien.write_bytes(b"\x7fELF-nonsense")
    fault = await engine_fault(alien, FLAGS)
    assert fault is not None
    assert fault.startswith("does not run: ")
    assert "Exec format error" in fault


async def test_the_version_may_come_on_standard_error(engine: Engine) -> None:
    assert await engine_fault(engine("loud", body="echo version: 1 >&2"), FLAGS) is None
