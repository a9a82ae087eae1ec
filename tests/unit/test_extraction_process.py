"""The process that reads a file, and hostile files in it: each fails alone, in bounded time."""

import asyncio
import contextlib
import os
import signal
import sys
import time
from dataclasses import replace
from pathlib import Path

import pytest

from api_server.errors import UnreadableFileError
from api_server.services.retrieval.extracting import Limits, fault_of, read_text
from tests import documents

LIMITS = Limits(seconds=25, mib=512, text_bytes=1024 * 1024)


async def read(folder: Path, name: str, data: bytes, limits: Limits = LIMITS) -> str:
    path = folder / "file"
    path.write_bytes(data)
    try:
        return await read_text(path, name, "", limits)
    finally:
        assert not _children(), "the reader is gone, whatever happened"


def _children() -> list[str]:
    """The readers that run, or are not waited for."""
    pids = Path(f"/proc/self/task/{os.getpid()}/children").read_text().split()
    commands = {pid: Path(f"/proc/{pid}/cmdline").read_bytes() for pid in pids}
    return [pid for pid in pids if b"extraction" in commands[pid] or not commands[pid]]


async def refusal(folder: Path, name: str, data: bytes, limits: Limits = LIMITS) -> str:
    with pytest.raises(UnreadableFileError) as refused:
        await read(folder, name, data, limits)
    assert refused.value.code in {"invalid_file", "unsupported_file"}
    return refused.value.message


async def test_a_file_is_read(tmp_path: Path) -> None:
    assert await read(tmp_path, "a.txt", b"one\r\ntwo\rthree" + b"x" * 99 + b"\0") == (
        "one\ntwo\nthree" + "x" * 99 + " "
    )
    assert "page" in await read(tmp_path, "a.pdf", documents.pdf(["page"]))
    for name in ("--mib=1", "x" * 300_000 + ".txt", "a\n.md"):
        assert await read(tmp_path, name, b"whatever its name") == "whatever its name"


async def test_why_not_is_a_sentence(tmp_path: Path) -> None:
    assert await refusal(tmp_path, "a.txt", b"") == "The file is empty."
    assert await refusal(tmp_path, "a.txt", b" \n ") == "The file has no text."


async def test_no_more_text_comes_than_may(tmp_path: Path) -> None:
    exactly = await read(tmp_path, "a.txt", b"x" * LIMITS.text_bytes)
    assert len(exactly) == LIMITS.text_bytes
    assert "max_text_bytes" in await refusal(tmp_path, "a.txt", b"x" * (LIMITS.text_bytes + 1))


async def test_a_text_of_a_gibibyte_is_not_even_read(tmp_path: Path) -> None:
    path = tmp_path / "file"
    with path.open("wb") as file:
        file.truncate(1024**3)
    began = time.monotonic()
    with pytest.raises(UnreadableFileError, match="max_text_bytes"):
        await read_text(path, "a.txt", "text/plain", LIMITS)
    assert time.monotonic() - began < 5


@pytest.mark.parametrize("mebibytes", [64, 300])
async def test_a_zip_bomb(tmp_path: Path, mebibytes: int) -> None:
    bomb = documents.docx_bomb(mebibytes)
    assert len(bomb) < mebibytes * 10_000
    said = await refusal(tmp_path, "a.docx", bomb)
    assert "than" in said


async def test_xml_that_multiplies_itself_or_steals(tmp_path: Path) -> None:
    thief = documents.file_thief("/etc/passwd")
    for name, data in (("laughs", documents.billion_laughs()), ("thief", thief)):
        try:
            text = await read(tmp_path, f"{name}.docx", data)
        except UnreadableFileError:
            continue
        assert "root:" not in text
        assert "lollol" not in text


async def test_a_pdf_that_is_deep_endless_or_huge(tmp_path: Path) -> None:
    await refusal(tmp_path, "a.pdf", documents.endless_pdf())
    with contextlib.suppress(UnreadableFileError):
        assert "deep" in await read(tmp_path, "a.pdf", documents.nested_pdf(100_000))
    await refusal(tmp_path, "a.pdf", documents.pdf_of([b" " * 300 * 1024 * 1024]))


async def test_html_that_is_deep(tmp_path: Path) -> None:
    text = await read(tmp_path, "a.html", b"<div>" * 150_000 + b"deep")
    assert text.strip() == "deep"


async def test_one_that_takes_too_long_is_ended(tmp_path: Path) -> None:
    """A page that would take minutes: each operator is a piece of text."""
    slow = documents.pdf_of([b"BT /F1 12 Tf (x) Tj ET\n" * 2_000_000])
    began = time.monotonic()
    said = await refusal(tmp_path, "a.pdf", slow, replace(LIMITS, seconds=1.5))
    assert time.monotonic() - began < 6
    assert "extract_seconds" in said


async def test_one_that_needs_too_much_memory_is_ended(tmp_path: Path) -> None:
    many = Limits(seconds=30, mib=128, text_bytes=256 * 1024 * 1024)
    said = await refusal(tmp_path, "a.txt", b"x" * 100 * 1024 * 1024, many)
    assert "128 MiB of memory" in said


async def test_a_reader_is_gone_when_nobody_wants_its_text(tmp_path: Path) -> None:
    path = tmp_path / "a.pdf"
    path.write_bytes(documents.pdf_of([b"BT /F1 12 Tf (x) Tj ET\n" * 2_000_000]))
    task = asyncio.create_task(read_text(path, "a.pdf", "", Limits()))
    await asyncio.sleep(0.7)
    assert _children()
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert not _children()


async def test_a_reader_ends_with_its_parent(tmp_path: Path) -> None:
    """A parent that is killed closes the pipe, and nothing else."""
    path = tmp_path / "a.pdf"
    path.write_bytes(documents.pdf_of([b"BT /F1 12 Tf (x) Tj ET\n" * 2_000_000]))
    arguments = ("--mib=512", "--seconds=60", "--max-bytes=1000000", str(path), "a.pdf")
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "api_server.extraction", *arguments),
        stdin=asyncio.subprocess.PIPE,
        stdout=asyncio.subprocess.DEVNULL,
        stderr=asyncio.subprocess.DEVNULL,
    )
    await asyncio.sleep(0.7)
    assert process.returncode is None
    assert process.stdin is not None
    process.stdin.close()
    assert await asyncio.wait_for(process.wait(), 3) == 2


@pytest.mark.parametrize("code", [-9, -11, -24, 2, 139])
def test_a_reader_that_died_without_a_word_leaves_a_sentence(code: int) -> None:
    fault = fault_of(code, b"", Limits())
    assert fault.code == "invalid_file"
    assert "retrieval.extract_" in fault.message


def test_what_a_reader_says_is_read_with_care() -> None:
    for complaint in (b"", b"\n", b"no json", b'{"code": 1}', b"x" * 99):
        assert fault_of(1, complaint, Limits()).code == "invalid_file"
    said = b'warning\n{"code": "unsupported_file", "message": "No."}\n'
    assert fault_of(1, said, Limits()).message == "No."
    assert "of a processor" in fault_of(-signal.SIGXCPU, b"", Limits()).message
