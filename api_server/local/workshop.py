"""Makes a product once per user and keeps only what is finished: lock, tools, downloads, log.

Owns what a cache folder looks like: KEY/ (finished), KEY.building/ (work in progress, resumed by
the next call) and KEY.lock. The steps are those of engine_build, embedding_build, store_build.
"""

import asyncio
import contextlib
import errno
import fcntl
import os
import shlex
import shutil
import sys
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import IO

from api_server.errors import SetupError
from api_server.local.programs import run_program
from api_server.local.recipe import (
    MB,
    Product,
    Recipe,
    disk_full_sentence,
    failure_sentence,
    format_seconds,
    missing_space,
    parse_recipe,
)
from api_server.local.terminal import Say

CACHE_FOLDER = "llm-serving-stack"
LOCK_POLL_SECONDS = 0.5


@dataclass(frozen=True)
class Entry:
    """The paths of one cache entry, which holds the files `names` when it is finished."""

    root: Path
    key: str
    names: tuple[str, ...]

    @property
    def finished(self) -> Path:
        """The folder of the finished files; it appears in one rename."""
        return self.root / self.key

    @property
    def lock(self) -> Path:
        """Locked while someone builds; never removed, so that nobody locks an unlinked file."""
        return self.root / f"{self.key}.lock"

    @property
    def work(self) -> Path:
        """All that a build needs on the way; removed when it is done."""
        return self.root / f"{self.key}.building"

    @property
    def log(self) -> Path:
        """The output of every program of the last attempt."""
        return self.work / "build.log"

    @property
    def tools(self) -> Path:
        """The virtual environment with the tools."""
        return self.work / "tools"

    @property
    def python(self) -> Path:
        """The interpreter that has the tools."""
        return self.tools / "bin" / "python"

    @property
    def tools_stamp(self) -> Path:
        """Written when the tools are complete; holds the requirements they were made from."""
        return self.tools / "complete.txt"

    @property
    def archive(self) -> Path:
        """The downloaded source package, whole."""
        return self.work / "source.archive"

    @property
    def scratch(self) -> Path:
        """Temporary files of all programs, emptied before each attempt: /tmp may be small."""
        return self.work / "tmp"

    def is_finished(self) -> bool:
        """Whether all its files are there."""
        return all((self.finished / name).is_file() for name in self.names)


def read_recipe(product: Product) -> Recipe:
    """The recipe in the product's requirements file."""
    text = product.requirements.read_text(encoding="utf-8")
    return parse_recipe(text, product.package, product.requirements.name)


def folder_bytes(folder: Path) -> int:
    """Bytes on disk of the files under a folder; 0 if there is none."""
    total = 0
    for parent, _, names in os.walk(folder):
        for name in names:
            with contextlib.suppress(FileNotFoundError):
                total += Path(parent, name).lstat().st_blocks * 512
    return total


@contextlib.asynccontextmanager
async def locked(path: Path, what: str, say: Say) -> AsyncIterator[int]:
    """Hold the lock file, waiting for another process that has it. Gives its descriptor.

    Programs that inherit the descriptor keep the lock until they end, even if we are killed.
    """
    lock = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        is_first = True
        while not _try_lock(lock):
            if is_first:
                say.line(f"another make local is building {what}; waiting for it")
                is_first = False
            await asyncio.sleep(LOCK_POLL_SECONDS)
        yield lock
    finally:
        os.close(lock)


def _try_lock(lock: int) -> bool:
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


async def make_once(
    entry: Entry,
    product: Product,
    say: Say,
    build: Callable[["Workshop"], Awaitable[None]],
    *,
    variables: Sequence[str] = (),
) -> None:
    """Have `build` finish the entry, unless it is finished; under its lock.

    variables: more of the environment of the programs that build runs, as NAME=value. Can be
    cancelled at any moment: the next call goes on where this one stopped. Raises SetupError with
    what to do when it cannot be built.
    """
    if entry.is_finished() and not entry.work.exists():
        return
    try:
        entry.root.mkdir(parents=True, exist_ok=True)
        async with locked(entry.lock, product.name, say) as lock:
            if not entry.is_finished():
                _check_space(entry, product)
                shutil.rmtree(entry.scratch, ignore_errors=True)
                entry.scratch.mkdir(parents=True)
                with entry.log.open("w") as log:
                    await build(Workshop(entry, product, say, log, lock, variables))
            shutil.rmtree(entry.work, ignore_errors=True)
    except OSError as exc:
        if exc.errno in (errno.ENOSPC, errno.EDQUOT):
            raise SetupError(disk_full_sentence(entry.work, product)) from exc
        if exc.errno in (errno.EACCES, errno.EPERM, errno.EROFS, errno.ENOTDIR, errno.EEXIST):
            raise SetupError(
                f"cannot write to {exc.filename or entry.root}: make it writable for you, or set "
                "XDG_CACHE_HOME to a folder that is, and run this again"
            ) from exc
        raise SetupError(f"building {product.name} failed: {exc}. Run this again.") from exc


def _check_space(entry: Entry, product: Product) -> None:
    free = shutil.disk_usage(entry.root).free
    lacking = missing_space(product.peak_bytes, free, folder_bytes(entry.work))
    if lacking:
        raise SetupError(
            f"building {product.name} needs {product.peak_bytes // MB} MB of disk space and there "
            f"are {free // MB} MB where {entry.root} lies: free {-(-lacking // MB)} MB, or set "
            "XDG_CACHE_HOME to a folder on a larger disk, and run this again"
        )


@dataclass(frozen=True)
class Workshop:
    """One attempt, under the lock. Each step may be skipped when an earlier attempt finished it."""

    entry: Entry
    product: Product
    say: Say
    log: IO[str]
    lock: int
    variables: Sequence[str]

    async def install_tools(self, recipe: Recipe) -> None:
        """A virtual environment with the tools (pip, if no more), complete or not at all."""
        entry = self.entry
        if entry.tools_stamp.exists() and entry.tools_stamp.read_text() == recipe.tools:
            return
        step = f"installing the build tools ({self.product.tools})"
        shutil.rmtree(entry.tools, ignore_errors=True)
        await self.program(step, [sys.executable, "-m", "venv", str(entry.tools)])
        if recipe.tools:
            wanted = entry.scratch / "tools.txt"
            wanted.write_text(recipe.tools)
            await self._pip(step, ["install", "--require-hashes", "-r", str(wanted)])
        entry.tools_stamp.write_text(recipe.tools)

    async def download(
        self, recipe: Recipe, *, what: str, how: Sequence[str], expected_bytes: int
    ) -> None:
        """The source package as `entry.archive`, checked against its hash, never installed."""
        entry = self.entry
        if entry.archive.exists():
            return
        wanted = entry.scratch / "source.txt"
        wanted.write_text(recipe.source)
        arriving = entry.scratch / "download"
        arriving.mkdir()
        whence = ["--require-hashes", "-r", str(wanted), "--dest", str(arriving)]
        await self._pip(
            f"downloading {what}",
            ["download", *whence, "--no-deps", *how],
            expected_bytes=expected_bytes,
        )
        (archive,) = arriving.iterdir()
        archive.rename(entry.archive)

    def keep(self, files: Iterable[Path]) -> int:
        """Move the finished files and folders to their place in one rename; their bytes."""
        keep = self.entry.scratch / "finished"
        keep.mkdir()
        for file in files:
            file.rename(keep / file.name)
        shutil.rmtree(self.entry.finished, ignore_errors=True)
        keep.rename(self.entry.finished)
        return folder_bytes(self.entry.finished)

    async def _pip(self, step: str, arguments: list[str], *, expected_bytes: int = 0) -> None:
        """Run the tools' pip, showing how much of `expected_bytes` has arrived in the scratch."""
        began = time.monotonic()

        def show(_: list[str]) -> None:
            text = f"{step}  {format_seconds(time.monotonic() - began)}"
            if expected_bytes:
                arrived = min(folder_bytes(self.entry.scratch), expected_bytes)
                text += f"  {arrived // MB} of {expected_bytes // MB} MB"
            self.say.progress(text)

        pip = [str(self.entry.python), "-I", "-m", "pip"]
        pip += ["--no-cache-dir", "--disable-pip-version-check", "--no-input"]
        await self.program(step, [*pip, *arguments], on_lines=show)

    async def program(
        self,
        step: str,
        argv: Sequence[str],
        *,
        on_lines: Callable[[list[str]], None] | None = None,
    ) -> None:
        """Run one program of the build into the log; SetupError when it fails."""
        began = time.monotonic()

        def log_and_show(lines: list[str]) -> None:
            self.log.writelines(f"{line}\n" for line in lines)
            self.log.flush()
            if on_lines:
                on_lines(lines)
            else:
                self.say.progress(f"{step}  {format_seconds(time.monotonic() - began)}")

        log_and_show([f"$ {shlex.join(argv)}"])
        outcome = await run_program(
            ["env", f"TMPDIR={self.entry.scratch}", *self.variables, *argv],
            on_lines=log_and_show,
            keep_open=[self.lock],
        )
        if outcome.returncode:
            ended = [f"error: ended by signal {-outcome.returncode}"] * (outcome.returncode < 0)
            lines = outcome.lines + ended
            raise SetupError(failure_sentence(step, lines, self.entry.log, self.product))
