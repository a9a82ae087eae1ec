"""Puts peers that come as Python packages into environments of their own, pinned by hash.

`peer_locks/NAME.in` names the package and its version, `NAME.txt` the whole set with hashes (`make
lock` writes it). Environments are kept for every checkout of this user. `make test-max` installs
its engine this way too.
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
    lock_path: Path

    def digest(self, home: Path) -> str:
        """Of all that an environment in `home` depends on."""
        return hashlib.sha256(f"{sys.version}\n{home}\n{self.lock}".encode()).hexdigest()


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
    lock_path = locks / f"{name}.txt"
    wanted, lock = (locks / f"{name}.in").read_text(), lock_path.read_text()
    check_pins(wanted + "\n" + lock)
    return Package(name, pins(wanted)[name], lock, lock_path)


async def install(peer: Package, cache: Path) -> Path:
    """Its environment's `bin`, made when it is not there yet. Raises `TargetError`."""
    home = cache / "llm-serving-stack" / "peers" / f"{peer.name}-{peer.version}"
    return await install_in(home, peer)


async def install_in(home: Path, package: Package, seconds: float = INSTALL_SECONDS) -> Path:
    """The same in a place of one's own, each step within so many seconds."""
    mark = home / ".installed"
    digest = package.digest(home)
    if mark.exists() and mark.read_text() == digest:
        return home / "bin"
    shutil.rmtree(home, ignore_errors=True)
    home.parent.mkdir(parents=True, exist_ok=True)
    log_path = home.parent / f"{home.name}.log"
    python = str(home / "bin" / "python")
    await _run([sys.executable, "-m", "venv", str(home)], log_path, seconds)
    options = ["--quiet", "--disable-pip-version-check", "--no-deps", "--require-hashes"]
    lock = str(package.lock_path)
    await _run([python, "-m", "pip", "install", *options, "-r", lock], log_path, seconds)
    mark.write_text(digest)
    return home / "bin"


async def _run(argv: list[str], log_path: Path, seconds: float) -> None:
    """Run to its end, within so many seconds."""
    with log_path.open("wb") as log:
        process = await asyncio.create_subprocess_exec(
            *tether_command(argv),
            stdin=asyncio.subprocess.DEVNULL,
            stdout=log,
            stderr=log,
            start_new_session=True,
        )
    try:
        async with asyncio.timeout(seconds):
            code = await process.wait()
    except TimeoutError as exc:
        raise TargetError(f"could not be installed within {seconds:g} s") from exc
    finally:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        await process.wait()
    if code != 0:
        raise TargetError(f"could not be installed: {last_lines(log_path, 3)}")
