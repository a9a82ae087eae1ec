"""A Docker daemon for the tests: the one that runs, or one of our own where there is none.

Owns whether Docker can run here, and what to do where it cannot.
"""

import contextlib
import os
import shutil
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

START_SECONDS = 60.0
STOP_SECONDS = 60.0
PROGRAMS = {
    "docker": "docker.io",
    "mmdebstrap": "mmdebstrap",
}


class CannotRunError(Exception):
    """Why the stack cannot be brought up here; the message says what to do."""


def docker(*arguments: str, seconds: float = 120, check: bool = True) -> str:
    """What a docker command prints. Raises `AssertionError` with its errors when it fails."""
    done = subprocess.run(
        ["docker", *arguments], capture_output=True, text=True, timeout=seconds, check=False
    )
    if check:
        assert done.returncode == 0, f"docker {' '.join(arguments)}: {done.stdout}{done.stderr}"
    return done.stdout


def compose_commands() -> list[str]:
    """The Compose versions of this machine, the newer one first."""
    found = []
    for command in ("docker compose", "docker-compose"):
        if shutil.which(command.split()[0]) is None:
            continue
        done = subprocess.run(
            [*command.split(), "version"], capture_output=True, timeout=30, check=False
        )
        if done.returncode == 0:
            found.append(command)
    return found


@contextlib.contextmanager
def running_daemon(home: Path) -> Iterator[None]:
    """Until the end of the block `docker` has a daemon. Raises `CannotRunError`.

    home: where a daemon of our own keeps images, so that the next run finds them.
    """
    _check_programs()
    if _answers():
        yield
        return
    if shutil.which("dockerd") is None or os.geteuid() != 0:
        raise CannotRunError(
            "no Docker daemon answers. Start it (systemctl start docker), let this user speak to "
            "it (the group docker), or run this as root, so that it can start one for itself"
        )
    with _own_daemon(home):
        yield


def _check_programs() -> None:
    lacking = {name: package for name, package in PROGRAMS.items() if shutil.which(name) is None}
    if lacking:
        raise CannotRunError(
            f"{', '.join(lacking)} is not installed. On Debian and Ubuntu: "
            f"apt install {' '.join(lacking.values())}"
        )
    if not compose_commands():
        raise CannotRunError(
            "Docker Compose is not installed. On Debian and Ubuntu: apt install docker-compose"
        )


def _answers() -> bool:
    done = subprocess.run(
        ["docker", "version", "--format", "{{.Server.Version}}"],
        capture_output=True,
        timeout=30,
        check=False,
    )
    return done.returncode == 0


@contextlib.contextmanager
def _own_daemon(home: Path) -> Iterator[None]:
    """One that nobody else speaks to: its socket is known to this process and its children."""
    home.mkdir(parents=True, exist_ok=True)
    log_path = home / "dockerd.log"
    socket = f"unix://{home / 'docker.sock'}"
    argv = ["dockerd", "--host", socket, "--data-root", str(home / "data")]
    argv += ["--exec-root", str(home / "run"), "--pidfile", str(home / "dockerd.pid")]
    with log_path.open("wb") as log:
        process = subprocess.Popen(argv, stdin=subprocess.DEVNULL, stdout=log, stderr=log)
    before = os.environ.get("DOCKER_HOST")
    os.environ["DOCKER_HOST"] = socket
    try:
        deadline = time.monotonic() + START_SECONDS
        while not _answers():
            if process.poll() is not None or time.monotonic() > deadline:
                raise CannotRunError(
                    "dockerd does not start here; its last words: "
                    f"{' '.join(log_path.read_text().splitlines()[-1:])}"
                )
            time.sleep(0.2)
        yield
    finally:
        if before is None:
            del os.environ["DOCKER_HOST"]
        else:
            os.environ["DOCKER_HOST"] = before
        process.terminate()
        with contextlib.suppress(subprocess.TimeoutExpired):
            process.wait(STOP_SECONDS)
        process.kill()
        process.wait()
