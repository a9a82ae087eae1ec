"""One project of docker-compose.yaml, brought up from a copy of this checkout by `make start`.

Owns the copy, its `.env`, and that nothing of it is left at the end. Speaks to Docker and Compose
as an operator does; what the stack answers is asked by the tests.
"""

import contextlib
import json
import os
import secrets
import select
import shutil
import signal
import subprocess
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from dotenv import dotenv_values

from api_server.local.process import free_port
from tests.compose.daemon import docker
from tests.local_stack import REPOSITORY

START_SECONDS = 420.0
COMMAND_SECONDS = 240.0
OF_THE_STACK = ("COMPOSE_", "DOCKER_")
"""Variables that keep their meaning for the stack; all others of ours are none of its."""


@dataclass(frozen=True)
class Answer:
    """What a command printed, and how it ended."""

    code: int
    output: str


@dataclass(frozen=True)
class Project:
    """A copy of the checkout, and the containers that Compose runs from it."""

    folder: Path
    name: str
    compose_command: str = "docker compose"

    @property
    def env_file(self) -> Path:
        return self.folder / ".env"

    def setting(self, name: str) -> str:
        """What `.env` says now."""
        value = dotenv_values(self.env_file, interpolate=False).get(name)
        assert value, f"{name} is not set in .env"
        return value

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.setting('API_PORT')}"

    def run(self, *argv: str, seconds: float = COMMAND_SECONDS, **variables: str) -> Answer:
        """A command in the folder of the checkout, with both streams as one."""
        kept = {key: value for key, value in os.environ.items() if key in ("PATH", "HOME", "LANG")}
        kept |= {k: v for k, v in os.environ.items() if k.startswith("DOCKER_")}
        if self.compose_command != "docker compose":
            variables = {"COMPOSE": self.compose_command, **variables}
        process = subprocess.Popen(
            argv,
            cwd=self.folder,
            env=kept | variables,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            start_new_session=True,
        )
        try:
            output, _ = process.communicate(timeout=seconds)
        except subprocess.TimeoutExpired:
            os.killpg(process.pid, signal.SIGKILL)
            output, _ = process.communicate()
            raise AssertionError(f"{argv} did not end within {seconds} s:\n{output}") from None
        return Answer(process.returncode, output)

    def must(self, *argv: str, seconds: float = COMMAND_SECONDS, **variables: str) -> str:
        """The same for a command that has to succeed; its output."""
        answer = self.run(*argv, seconds=seconds, **variables)
        assert answer.code == 0, f"{argv} ended with {answer.code}:\n{answer.output}"
        return answer.output

    def compose(self, *arguments: str, seconds: float = COMMAND_SECONDS) -> str:
        return self.must(*self.compose_command.split(), *arguments, seconds=seconds)

    def start(self, **variables: str) -> str:
        return self.must("make", "start", seconds=START_SECONDS, **variables)

    def containers(self, service: str | None = None, *, stopped: bool = False) -> list[str]:
        """Ids of those that run, the oldest last."""
        filters = [f"label=com.docker.compose.project={self.name}"]
        if service:
            filters += [f"label=com.docker.compose.service={service}"]
            filters += ["label=com.docker.compose.oneoff=False"]
        words = [word for each in filters for word in ("--filter", each)]
        return docker("ps", "--quiet", "--no-trunc", *(["--all"] * stopped), *words).split()

    def container(self, service: str) -> str:
        """The only one of a service."""
        (found,) = self.containers(service)
        return found

    def inspect(self, *ids: str) -> list[dict[str, Any]]:
        """What Docker knows of containers."""
        found: list[dict[str, Any]] = json.loads(docker("inspect", *ids)) if ids else []
        return found

    def state(self, container: str) -> dict[str, Any]:
        state: dict[str, Any] = self.inspect(container)[0]["State"]
        return state

    def is_healthy(self, service: str) -> bool:
        """Whether the containers of a service run, and are well as far as they can tell."""
        found = self.inspect(*self.containers(service, stopped=True))
        return bool(found) and all(
            each["State"]["Running"]
            and not each["State"]["Paused"]
            and each["State"].get("Health", {}).get("Status", "healthy") == "healthy"
            for each in found
        )

    def wait_healthy(self, *services: str, seconds: float = 60) -> None:
        deadline = time.monotonic() + seconds
        while missing := [name for name in services if not self.is_healthy(name)]:
            assert time.monotonic() < deadline, self.why_not(missing)
            time.sleep(0.3)

    def why_not(self, services: list[str]) -> str:
        """The states and last words of services that are not healthy."""
        lines = []
        for service in services:
            for container in self.containers(service, stopped=True):
                said = self.run("docker", "logs", "--tail", "15", container).output
                lines.append(f"{service}: {json.dumps(self.state(container))[:1500]}\n{said}")
            lines.append(f"{service} is not healthy")
        return "\n".join(lines)

    def crash(self, container: str) -> None:
        """Kill -9 of its first process, which Docker takes for a crash, not for a wish.

        It is gone on return: on a busy machine that is later than the signal.
        """
        pid = self.state(container)["Pid"]
        gone = os.pidfd_open(pid)
        try:
            os.kill(pid, signal.SIGKILL)
            assert select.select([gone], [], [], 10)[0], f"{pid} does not die"
        finally:
            os.close(gone)

    @contextmanager
    def paused(self, *containers: str) -> Iterator[None]:
        """It is there, and does nothing."""
        docker("pause", *containers)
        try:
            yield
        finally:
            docker("unpause", *containers)

    @contextmanager
    def away(self, *containers: str) -> Iterator[None]:
        """Killed and not started again, so that not even its name is there."""
        docker("kill", *containers)
        try:
            yield
        finally:
            docker("start", *containers)

    def take_down(self) -> None:
        """Containers, networks, volumes and the gateway's image, whatever state they are in."""
        label = f"label=com.docker.compose.project={self.name}"
        for list_, remove in (
            (["ps", "--all", "--quiet"], ["rm", "--force", "--volumes"]),
            (["network", "ls", "--quiet"], ["network", "rm"]),
            (["volume", "ls", "--quiet"], ["volume", "rm", "--force"]),
        ):
            if found := docker(*list_, "--filter", label).split():
                docker(*remove, *found, check=False)
        docker("rmi", "--force", image_name(self.name), check=False)


def image_name(project: str) -> str:
    """Of the gateway, built for one run."""
    return f"llm-serving-stack-test/api-server:{project}"


@contextmanager
def checkout(folder: Path, images: Mapping[str, str], embedding_model: Path) -> Iterator[Project]:
    """A copy of this checkout whose `.env` names the stand-ins, the tiny models and free ports."""
    name = f"stack-test-{secrets.token_hex(4)}"
    project = Project(folder, name)
    _copy(folder)
    shutil.copy2(embedding_model, folder / "models" / embedding_model.name)
    ports = {key: str(free_port()) for key in ("API_PORT", "GRAFANA_PORT", "LOCUST_PORT")}
    settings = {
        "COMPOSE_PROJECT_NAME": name,
        "API_SERVER_IMAGE": image_name(name),
        **images,
        **ports,
        "PULL": "never",
        "DEVICE": "cpu",
        "MODEL_FILE": "tiny/tiny-q8_0.gguf",
        "MODEL_NAME": "tiny",
        "EMBEDDINGS_FILE": embedding_model.name,
        "EMBEDDINGS_NAME": "all-minilm-l6-v2",
        "EMBEDDINGS_FLAGS": "--embeddings --pooling mean --parallel 2 --ctx-size 1024"
        " --batch-size 512 --ubatch-size 512 --threads 1 --metrics --no-webui",
    }
    lines = [f"{key}={value}\n" for key, value in settings.items()]
    project.env_file.write_text("".join(lines))
    project.env_file.chmod(0o600)
    try:
        yield project
    finally:
        project.take_down()


def _copy(folder: Path) -> None:
    """What git knows of, and what it would, as it stands in the working tree."""
    listed = subprocess.run(
        ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"],
        cwd=REPOSITORY,
        capture_output=True,
        check=True,
        timeout=60,
    ).stdout.decode()
    for name in filter(None, listed.split("\0")):
        source = REPOSITORY / name
        with contextlib.suppress(FileNotFoundError):  # removed, and not yet committed
            (folder / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy2(source, folder / name, follow_symlinks=False)
