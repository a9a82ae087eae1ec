"""A host as scripts/stack sees it: a folder with a copy of what its functions read, and
a PATH of real tools beside small programs that play Docker, the driver and the disk.

The only way to show a machine with two GPUs, none, an old Compose or a full disk. The real thing is
brought up by tests/compose.
"""

import shutil
import subprocess
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from tests.local_stack import REPOSITORY

TOOLS = (
    *("awk", "base64", "basename", "bash", "cat", "chmod", "cmp", "cut", "date", "df", "dirname"),
    *("env", "fold", "grep", "head", "id", "mkdir", "mktemp", "mv", "nproc", "paste", "readlink"),
    *("rm", "sed", "sha256sum", "sleep", "sort", "stat", "tac", "tail", "timeout", "tr", "uname"),
    "wc",
)
"""What a host needs beside Docker: bash, coreutils, grep, sed, awk, cmp. No curl, no Python."""

WORKING_DOCKER = {
    "version *": "echo 24.0.7",
    "compose version --short": "echo 2.24.5",
    "info --format {{json .}}": """echo '{"Runtimes":{"runc":{},"nvidia":{}}}'""",
    "info --format {{.DockerRootDir}}": "echo /",
    "image inspect *": "exit 1",
    "volume inspect *": "exit 1",
    "ps *": "true",
}


@dataclass(frozen=True)
class Answer:
    """How a function ended: its exit code and both of its streams as one."""

    code: int
    output: str


@dataclass(frozen=True)
class Host:
    """The folder of the checkout, with `bin` for the PATH beside it."""

    folder: Path
    programs: Path

    @property
    def env_file(self) -> Path:
        return self.folder / ".env"

    def program(self, name: str, answers: Mapping[str, str]) -> None:
        """A program: for each pattern of its arguments, what it does; anything else is an error."""
        cases = "\n".join(f"    {_pattern(each)}) {does} ;;" for each, does in answers.items())
        otherwise = '    *) echo "not played: $*" >&2; exit 64 ;;'
        body = f'#!/usr/bin/env bash\ncase "$*" in\n{cases}\n{otherwise}\nesac\n'
        path = self.programs / name
        path.unlink(missing_ok=True)
        path.write_text(body)
        path.chmod(0o755)

    def docker(self, **changes: str) -> None:
        """A Docker that works, but for `changes`: how a call begins, with `_` for each space."""
        changed = {f"{name.replace('_', ' ')}*": does for name, does in changes.items()}
        self.program("docker", changed | WORKING_DOCKER)

    def gpus(self, *memories: int, driver: str = "550.54.15") -> None:
        """A driver that answers, and so many GPUs of so many MiB."""
        lines = "; ".join(f"echo {memory}" for memory in memories)
        self.program(
            "nvidia-smi",
            {
                "--query-gpu=driver_version *": f"echo {driver}",
                "--query-gpu=memory.total *": lines or "exit 9",
            },
        )

    def call(self, script: str, **variables: str) -> Answer:
        """Run functions of scripts/stack."""
        ended = subprocess.run(
            ["bash", "-c", f"source scripts/stack/all.sh; {script}"],
            cwd=self.folder,
            env={"PATH": str(self.programs), "HOME": str(self.folder)} | variables,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            timeout=60,
            check=False,
        )
        return Answer(ended.returncode, ended.stdout)

    def refuses(self, script: str, **variables: str) -> str:
        """It ends with 1, one sentence of what is wrong and one of what to do; both of them."""
        answer = self.call(script, **variables)
        lines = answer.output.splitlines()[-2:]
        assert answer.code == 1, answer.output
        assert lines[0].startswith("error: "), answer.output
        assert lines[1].startswith("       "), answer.output
        return " ".join(line.strip() for line in lines)

    def accepts(self, script: str, **variables: str) -> str:
        """It ends with 0; what it said."""
        answer = self.call(script, **variables)
        assert answer.code == 0, answer.output
        return answer.output

    def settings(self) -> dict[str, str]:
        """The assignments of `.env`."""
        lines = self.env_file.read_text().splitlines()
        return dict(
            line.split("=", 1) for line in lines if "=" in line and not line.startswith("#")
        )


def make_host(folder: Path) -> Host:
    """A host with Docker, without a GPU."""
    programs = folder / "bin"
    checkout = folder / "llm-serving-stack"
    programs.mkdir()
    for name in TOOLS:
        found = shutil.which(name)
        assert found, name
        (programs / name).symlink_to(found)
    (checkout / "models").mkdir(parents=True)
    for path in ("init.sh", "download_model.sh", "models/models.lock", ".env.example"):
        shutil.copy2(REPOSITORY / path, checkout / path)
    for file in REPOSITORY.glob("docker-compose*.yaml"):
        shutil.copy2(file, checkout)
    shutil.copytree(REPOSITORY / "scripts/stack", checkout / "scripts/stack")
    host = Host(checkout, programs)
    host.docker()
    return host


def _pattern(arguments: str) -> str:
    """For bash's `case`: a star matches anything, all else is itself."""
    return "*".join(f"'{part}'" if part else "" for part in arguments.split("*"))
