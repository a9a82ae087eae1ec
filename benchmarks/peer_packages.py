"""Puts peers that come as Python packages into environments of their own, pinned by hash.

`peer_locks/NAME.in` names the package and its version, `NAME.txt` the whole set with hashes (`make
lock` writes it). Environments are kept for every checkout of this user.
"""

import asyncio
import contextlib
import hashlib
import os
import re
import shutil
import signal
import sys
from dataclasses import dataclass
from pathlib import Path

from api_server.local.process import last_lines, tether_command
from benchmarks.processes import TargetError

LOCKS = Path(__file__).with_name("peer_locks")
INSTALL_SECONDS = 900.0
REFUSED = frozenset({"litellm==1.82.7", "litellm==1.82.8"})
"""Releases that stole credentials from whoever installed them."""

_REQUIREMENT = re.compile(r"^([A-Za-z0-9._-]+)(?:\[[^\]]*\])?==([^\s;\\]+)", re.MULTILINE)


@dataclass(frozen=True)
class Package:
    """A peer, as `NAME.in` pins it."""

    name: str
    version: str
    lock: str

    @property
    def folder(self) -> str:
        return f"{self.name}-{self.version}"


def pins(text: str) -> dict[str, str]:
    """Package to version, of a requirements file."""
    return {name.lower(): version for name, version in _REQUIREMENT.findall(text)}


def check_pins(text: str) -> None:
    """Raises `TargetError` when a release is among them that must never be installed."""
    found = {f"{name}=={version}" for name, version in _REQUIREMENT.findall(text.lower())}
    if bad := sorted(found & REFUSED):
        raise TargetError(f"{bad[0]} stole credentials and is never installed; pin another version")


def package(name: str, locks: Path = LOCKS) -> Package:
    """What is pinned for a peer. Raises `TargetError` for a release that is refused."""
    wanted, lock = (locks / f"{name}.in").read_text(), (locks / f"{name}.txt").read_text()
    check_pins(wanted + "\n" + lock)
    return Package(name, pins(wanted)[name], lock)


async def install(peer: Package, cache: Path) -> Path:
    """Its environment's `bin`, made when it is not there yet. Raises `TargetError`."""
    home = cache / "llm-serving-stack" / "peers" / peer.folder
    mark = home / ".installed"
    digest = hashlib.sha256(f"{sys.version}\n{home}\n{peer.lock}".encode()).hexdigest()
    if mark.exists() and mark.read_text() == digest:
        return home / "bin"
    shutil.rmtree(home, ignore_errors=True)
    home.parent.mkdir(parents=True, exist_ok=True)
    log_path = home.with_suffix(".log")
    lock_path = LOCKS / f"{peer.name}.txt"
    python = str(home / "bin" / "python")
    await _run([sys.executable, "-m", "venv", str(home)], log_path)
    options = ["--quiet", "--disable-pip-version-check", "--no-deps", "--require-hashes"]
    await _run([python, "-m", "pip", "install", *options, "-r", str(lock_path)], log_path)
    mark.write_text(digest)
    return home / "bin"


async def _run(argv: list[str], log_path: Path) -> None:
    """Run to its end, within `INSTALL_SECONDS`."""
    with log_path.open("wb") as log:
        process = await asyncio.create_subprocess_exec(
            *tether_command(argv),
            stdin=asyncio.subprocess.DEVNULL,
            stdout=log,
            stderr=log,
            start_new_session=True,
        )
    try:
        async with asyncio.timeout(INSTALL_SECONDS):
            code = await process.wait()
    except TimeoutError as exc:
        raise TargetError(f"could not be installed within {INSTALL_SECONDS:g} s") from exc
    finally:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        await process.wait()
    if code != 0:
        raise TargetError(f"could not be installed: {last_lines(log_path, 3)}")
