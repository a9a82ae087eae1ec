"""Has the text of a file read by a child process (`api_server.extraction`), within limits.

The child gets nothing of our environment, and dies with its group when it is over, or we are.
"""

import asyncio
import contextlib
import os
import signal
import sys
from asyncio.subprocess import PIPE, Process
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

import msgspec

import api_server
from api_server.errors import UnreadableFileError

ROOT = Path(api_server.__file__).resolve().parent.parent
ENVIRONMENT = {"LANG": "C.UTF-8", "PYTHONDONTWRITEBYTECODE": "1"}
BLOCK = 256 * 1024
MOST_ERROR_BYTES = 64 * 1024
END_SECONDS = 5.0
MOST_OF_A_NAME = 100


@dataclass(frozen=True)
class Limits:
    """Of the reading of one file; `text_bytes` as UTF-8."""

    seconds: float = 120.0
    mib: int = 1024
    text_bytes: int = 32 * 1024 * 1024


class _Fault(msgspec.Struct):
    code: str
    message: str


async def read_text(path: Path, name: str, content_type: str, limits: Limits) -> str:
    """The text of a file. `name` and `content_type` tell its format.

    Raises `UnreadableFileError`. May be cancelled: the child is gone then.
    """
    process = await _started(path, name, content_type, limits)
    try:
        async with asyncio.timeout(limits.seconds):
            assert process.stdout is not None
            assert process.stderr is not None
            said = asyncio.create_task(_all_of(process.stderr, MOST_ERROR_BYTES))
            try:
                text = await _all_of(process.stdout, limits.text_bytes)
                complaint = await said
            finally:
                said.cancel()
            code = await process.wait()
    except TimeoutError:
        raise UnreadableFileError(
            "invalid_file",
            f"To read this file takes longer than {limits.seconds:g} s "
            "(retrieval.extract_seconds).",
        ) from None
    finally:
        await _ended(process)
    if code == 0 and len(text) <= limits.text_bytes:
        return text.decode("utf-8")
    raise fault_of(code, complaint, limits)


def fault_of(code: int, complaint: bytes, limits: Limits) -> UnreadableFileError:
    """What is said of a file whose reader ended with this exit code. Pure."""
    if code == 1:
        with contextlib.suppress(msgspec.MsgspecError, IndexError):
            fault = msgspec.json.decode(complaint.splitlines()[-1], type=_Fault)
            is_format = fault.code == "unsupported_file"
            return UnreadableFileError(
                "unsupported_file" if is_format else "invalid_file", fault.message
            )
    if code == -signal.SIGXCPU:
        return UnreadableFileError(
            "invalid_file",
            f"To read this file takes more than {limits.seconds:g} s of a processor "
            "(retrieval.extract_seconds).",
        )
    return UnreadableFileError(
        "invalid_file",
        f"The file cannot be read: its reader ended ({code}). It may be damaged, or need more than "
        f"{limits.mib} MiB of memory (retrieval.extract_mib).",
    )


async def _started(path: Path, name: str, content_type: str, limits: Limits) -> Process:
    ending = PurePosixPath(name).suffix[:MOST_OF_A_NAME]  # the rest is nobody's business in `ps`
    try:
        return await asyncio.create_subprocess_exec(
            *(sys.executable, "-m", "api_server.extraction"),
            *(f"--content-type={content_type[:MOST_OF_A_NAME]}", f"--mib={limits.mib}"),
            *(f"--seconds={limits.seconds}", f"--max-bytes={limits.text_bytes}"),
            *("--", str(path), f"file{ending}"),
            cwd=ROOT,
            env=ENVIRONMENT,
            stdin=PIPE,  # never written to: it ends when we do
            stdout=PIPE,
            stderr=PIPE,
            start_new_session=True,
        )
    except OSError as exc:
        raise UnreadableFileError(
            "server_error", f"No process could be started to read the file ({exc.strerror})."
        ) from exc


async def _all_of(stream: asyncio.StreamReader, most_bytes: int) -> bytes:
    """To its end, or a little more than so many bytes."""
    data = bytearray()
    while len(data) <= most_bytes and (block := await stream.read(BLOCK)):
        data += block
    return bytes(data)


async def _ended(process: Process) -> None:
    with contextlib.suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGKILL)
    waiting = asyncio.ensure_future(process.wait())
    await asyncio.wait({waiting}, timeout=END_SECONDS)
    # What was not read of its pipes would keep them open.
    transport = getattr(process, "_transport", None)
    if transport is not None:
        transport.close()
