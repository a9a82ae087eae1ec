"""Builds the images that stand in for those of docker-compose.yaml, from Debian and PyPI.

For machines that cannot pull. Each folder of images/ is one: it honours what docker-compose.yaml
relies on in the official image (entrypoint, user, paths, variables, the programs of its health
check). A tag names the content of what it was built from, so nothing is built twice.
"""

import fcntl
import hashlib
import os
import shutil
import ssl
import subprocess
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

from tests.compose.daemon import CannotRunError, docker
from tests.local_stack import REPOSITORY

IMAGES = Path(__file__).parent / "images"
REPOSITORY_NAME = "llm-serving-stack-test"
SUITE = "bookworm"
PACKAGES = ("ca-certificates", "curl", "python3", "python3-venv")
ROOTFS_SECONDS = 15 * 60.0
BUILD_SECONDS = 15 * 60.0
QDRANT = {
    "vector_server": REPOSITORY / "api_server/vector_server",
    "requirements.txt": REPOSITORY / "requirements.txt",
    "requirements-vectors.txt": REPOSITORY / "requirements-vectors.txt",
}


BYTECODE = shutil.ignore_patterns("__pycache__")


@dataclass(frozen=True)
class StandIn:
    """A folder of images/, the variable that names the image, and files and folders from
    elsewhere.
    """

    name: str
    variable: str
    files: Mapping[str, Path] = field(default_factory=dict)


def stand_ins(llama_server: Path) -> list[StandIn]:
    """All of them, in the order in which they are built."""
    return [
        StandIn("python", "PYTHON_IMAGE"),
        StandIn("postgres", "POSTGRES_IMAGE"),
        StandIn("redis", "REDIS_IMAGE"),
        StandIn("front", "FRONT_IMAGE"),
        StandIn("prometheus", "PROMETHEUS_IMAGE"),
        StandIn("llama-cpp", "LLAMA_CPP_IMAGE", {"llama-server": llama_server}),
        StandIn("minio", "MINIO_IMAGE"),
        StandIn("qdrant", "QDRANT_IMAGE", QDRANT),
        StandIn("grafana", "GRAFANA_IMAGE"),
        StandIn("locust", "LOCUST_IMAGE"),
    ]


def build_all(cache: Path, llama_server: Path) -> dict[str, str]:
    """Variables of `.env` and the images they shall name, built where they are missing.

    cache: where the root file system lies that they are built on. Raises `CannotRunError` where
    it cannot be made, and `AssertionError` with the output of a build that failed.
    """
    with _locked(cache / "compose.lock"):
        base = build_base(cache)
        return {image.variable: build(image, base) for image in stand_ins(llama_server)}


def build_base(cache: Path) -> str:
    """Debian with the certificates of this machine; the tag."""
    rootfs = f"{REPOSITORY_NAME}/rootfs:{_digest(SUITE, *PACKAGES)}"
    if not _is_there(rootfs):
        docker("import", str(_root_file_system(cache)), rootfs, seconds=300)
    certificates = ssl.get_default_verify_paths().cafile
    if certificates is None:
        raise CannotRunError(
            "this machine has no file of certificates: apt install ca-certificates"
        )
    image = StandIn("base", "", {"ca-certificates.crt": Path(certificates)})
    return build(image, rootfs, argument="ROOTFS")


def build(image: StandIn, base: str, argument: str = "BASE") -> str:
    """Build one on another, unless it is there; the tag."""
    with tempfile.TemporaryDirectory() as folder:
        context = Path(folder, "context")
        shutil.copytree(IMAGES / image.name, context, ignore=BYTECODE)
        for name, source in image.files.items():
            if source.is_dir():
                shutil.copytree(source, context / name, ignore=BYTECODE)
            else:
                shutil.copy2(source, context / name)
        tag = f"{REPOSITORY_NAME}/{image.name}:{_digest(base, *_contents(context))}"
        if not _is_there(tag):
            options = ["--build-arg", f"{argument}={base}", "--tag", tag]
            docker("build", "--quiet", *options, str(context), seconds=BUILD_SECONDS)
    return tag


def _contents(folder: Path) -> Iterator[str]:
    """Of each file its name, whether it can be run, and a digest."""
    for path in sorted(folder.rglob("*")):
        if path.is_file():
            is_program = os.access(path, os.X_OK)
            digest = hashlib.sha256(path.read_bytes()).hexdigest()
            yield f"{path.relative_to(folder)} {is_program} {digest}"


def _digest(*parts: str) -> str:
    return hashlib.sha256("\n".join(parts).encode()).hexdigest()[:12]


def _is_there(tag: str) -> bool:
    return bool(docker("images", "--quiet", tag).strip())


def _root_file_system(cache: Path) -> Path:
    """A tar file of a small Debian, made once."""
    target = cache / f"{SUITE}-{_digest(SUITE, *PACKAGES)}.tar"
    if target.exists():
        return target
    arriving = target.with_suffix(".part.tar")
    argv = ["mmdebstrap", "--quiet", "--variant=minbase", f"--include={','.join(PACKAGES)}"]
    made = subprocess.run(
        [*argv, SUITE, str(arriving)],
        capture_output=True,
        text=True,
        timeout=ROOTFS_SECONDS,
        check=False,
    )
    if made.returncode:
        raise CannotRunError(
            f"mmdebstrap could not make a Debian {SUITE}: {made.stderr.strip()[-500:]} "
            "(it needs root or user namespaces, and the package debian-archive-keyring)"
        )
    arriving.rename(target)
    return target


@contextmanager
def _locked(path: Path) -> Iterator[None]:
    """One run at a time builds."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield
