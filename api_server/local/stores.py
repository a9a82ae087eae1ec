"""PostgreSQL, Redis, the object store and, where there are embeddings, the vector database of one
`make local`: prepared, supervised, and their addresses told.

What the operator has elsewhere (POSTGRES_URL, REDIS_URL, S3_URL, QDRANT_URL) is not started here.
"""

import secrets
import shlex
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from urllib.parse import urlsplit

from api_server.errors import SetupError
from api_server.local import object_server, postgres_cluster, redis_server, vector_database
from api_server.local.data_dir import (
    LOG_FOLDER,
    OBJECTS_FOLDER,
    POSTGRES_FOLDER,
    POSTGRES_URL_FILE,
    REDIS_FILE,
    REDIS_URL_FILE,
    STACK_FILE,
    STORES_FILE,
    VECTORS_FILE,
    VECTORS_FOLDER,
    write_private,
)
from api_server.local.postgres_cluster import Cluster
from api_server.local.process import Command, free_port
from api_server.local.store_programs import (
    find_postgres,
    find_rclone,
    find_redis,
    find_vector_engine,
)
from api_server.local.supervisor import Supervisor, Watch
from api_server.local.terminal import Say
from api_server.local.unprivileged import User, can_reach, owner_of, unprivileged_user
from api_server.settings import Settings, engine_environment

POSTGRES_START_SECONDS = 60.0
"""After a crash it reads its log first."""

POSTGRES_STOP_SECONDS = 5.0
REDIS_START_SECONDS = 10.0
REDIS_STOP_SECONDS = 2.0
VECTORS_START_SECONDS = 60.0
"""After a crash it reads its log first."""

VECTORS_STOP_SECONDS = 5.0
OBJECTS_START_SECONDS = 10.0
OBJECTS_STOP_SECONDS = 2.0


@dataclass(frozen=True)
class LocalStores:
    """What was prepared: children that are to be started, and what the gateway is told of them."""

    supervisors: Sequence[Supervisor]
    variables: Mapping[str, str] = field(repr=False)


async def prepare_stores(settings: Settings, say: Say) -> LocalStores:
    """Everything short of starting them. Takes seconds the first time, when data is made.

    Raises `SetupError` with what to do.
    """
    supervisors, variables = [], {}
    if settings.environment.postgres_url is None:
        supervisor, variables["POSTGRES_URL"] = await _postgres(settings, say)
        supervisors.append(supervisor)
    if settings.environment.redis_url is None:
        supervisor, variables["REDIS_URL"] = await _redis(settings, say)
        supervisors.append(supervisor)
    optional = []
    if settings.environment.s3_url is None:
        optional.append(("files", _objects))
    if settings.environment.qdrant_url is None and settings.serves_embeddings:
        optional.append(("vector stores", _vectors))
    for what, prepare in optional:
        try:
            supervisor, told = await prepare(settings, say)
        except SetupError as exc:  # everything else does without
            say.line(f"going on without {what}: {exc}")
            continue
        supervisors.append(supervisor)
        variables |= told
    return LocalStores(supervisors, variables)


def write_variables(settings: Settings, stores: LocalStores, key: str) -> None:
    """What a command beside the gateway needs to use the same stores and models, as the same apps.

    key: the engines', without which a worker's requests to them would be refused.
    """
    data_dir, auth = settings.environment.data_dir.resolve(), settings.environment.auth
    told = {
        **stores.variables,
        "STACK_CONFIG": str(data_dir / STACK_FILE),
        "ENGINE_API_KEY": key,
        "ENVIRONMENT": "development",
        "AUTH": "on" if auth else "off",
    }
    lines = [f"export {name}={shlex.quote(value)}\n" for name, value in told.items()]
    write_private(data_dir / STORES_FILE, "".join(lines))


async def _postgres(settings: Settings, say: Say) -> tuple[Supervisor, str]:
    data_dir = settings.environment.data_dir.resolve()
    kept = _kept_password(data_dir)
    cluster = _cluster(data_dir, kept or secrets.token_hex(16), say)
    programs = await find_postgres(
        cache_home=settings.environment.cache_home,
        say=say,
        user=cluster.user,
        major=cluster.major(),
    )
    port = free_port()
    url = cluster.url(port)
    if cluster.major() is None:
        say.line(f"making an empty database in {cluster.folder}")
        await postgres_cluster.make_cluster(programs, cluster)
    else:
        await postgres_cluster.clear_left_overs(cluster.folder)
        if kept is None:
            await postgres_cluster.set_password(programs, cluster)
    write_private(data_dir / POSTGRES_URL_FILE, f"{url}\n")
    command = Command(
        name="PostgreSQL",
        argv=postgres_cluster.server_arguments(programs, cluster.folder, port),
        environment=_environment(),
        log_path=data_dir / LOG_FOLDER / "postgres.log",
        user=cluster.user,
        stop_signal=postgres_cluster.FAST_STOP,
    )
    watch = Watch(
        is_ready=lambda: postgres_cluster.answers(port),
        verify=_nothing_to_verify,
        start_seconds=POSTGRES_START_SECONDS,
        hang_seconds=settings.stack.local.hang_seconds,
        stop_seconds=POSTGRES_STOP_SECONDS,
    )
    return Supervisor(command, watch, say), url


def _cluster(data_dir: Path, password: str, say: Say) -> Cluster:
    """Where the data is or shall be, and whose it is."""
    user = unprivileged_user()
    place = data_dir / POSTGRES_FOLDER
    is_there = place.exists() or place.is_symlink()
    folder = place.resolve() if is_there else postgres_cluster.cluster_folder(data_dir, user)
    if folder.exists() and user is not None:
        user = owner_of(folder) or user
    if not can_reach(user, folder):
        raise SetupError(_unreachable(folder, user))
    if folder != place.resolve():
        place.symlink_to(folder)
        say.line(
            f"PostgreSQL runs as the user {user.name if user else ''}, who cannot go into "
            f"{data_dir}: its data is in {folder}, until make local-reset"
        )
    return Cluster(folder, user, password)


def _unreachable(folder: Path, user: User | None) -> str:
    name = user.name if user else ""
    return (
        f"PostgreSQL's data is in {folder}, and the user it runs as ({name}) may not go there. "
        "Let others go through the folders above it (chmod o+x), choose another DATA_DIR, or begin "
        "without that data: make local-reset"
    )


def _kept_password(data_dir: Path) -> str | None:
    try:
        return urlsplit((data_dir / POSTGRES_URL_FILE).read_text().strip()).password
    except (FileNotFoundError, ValueError):
        return None


async def _redis(settings: Settings, say: Say) -> tuple[Supervisor, str]:
    environment = settings.environment
    data_dir = environment.data_dir.resolve()
    program = await find_redis(cache_home=environment.cache_home, say=say)
    port, password = free_port(), secrets.token_hex(16)
    url, configuration_path = redis_server.url(port, password), data_dir / REDIS_FILE
    write_private(configuration_path, redis_server.configuration(port, password, data_dir))
    write_private(data_dir / REDIS_URL_FILE, f"{url}\n")
    command = Command(
        name="Redis",
        argv=redis_server.server_arguments(program, configuration_path),
        environment=_environment(),
        log_path=data_dir / LOG_FOLDER / "redis.log",
    )
    watch = Watch(
        is_ready=lambda: redis_server.answers(port, password),
        verify=_nothing_to_verify,
        start_seconds=REDIS_START_SECONDS,
        hang_seconds=settings.stack.local.hang_seconds,
        stop_seconds=REDIS_STOP_SECONDS,
    )
    return Supervisor(command, watch, say), url


async def _vectors(settings: Settings, say: Say) -> tuple[Supervisor, dict[str, str]]:
    environment = settings.environment
    data_dir = environment.data_dir.resolve()
    engine = await find_vector_engine(cache_home=environment.cache_home, say=say)
    port, key = free_port(), secrets.token_hex(16)
    configuration_path = data_dir / VECTORS_FILE
    write_private(
        configuration_path,
        vector_database.configuration(port, key, data_dir / VECTORS_FOLDER),
    )
    command = Command(
        name="the vector database",
        argv=vector_database.server_arguments(configuration_path),
        environment=_environment() | vector_database.variables(engine),
        log_path=data_dir / LOG_FOLDER / "vectors.log",
    )
    watch = Watch(
        is_ready=lambda: vector_database.answers(port),
        verify=_nothing_to_verify,
        start_seconds=VECTORS_START_SECONDS,
        hang_seconds=settings.stack.local.hang_seconds,
        stop_seconds=VECTORS_STOP_SECONDS,
    )
    told = {"QDRANT_URL": vector_database.url(port), "QDRANT_API_KEY": key}
    return Supervisor(command, watch, say), told


async def _objects(settings: Settings, say: Say) -> tuple[Supervisor, dict[str, str]]:
    """The gateway makes its buckets. Keys are new at each start."""
    environment = settings.environment
    data_dir = environment.data_dir.resolve()
    program = await find_rclone(cache_home=environment.cache_home, say=say)
    port, access_key, secret_key = free_port(), secrets.token_hex(8), secrets.token_hex(24)
    folder = data_dir / OBJECTS_FOLDER
    folder.mkdir(mode=0o700, exist_ok=True)
    command = Command(
        name="the object store",
        argv=object_server.server_arguments(program, folder, port),
        environment=_environment() | object_server.variables(access_key, secret_key),
        log_path=data_dir / LOG_FOLDER / "objects.log",
    )
    watch = Watch(
        is_ready=lambda: object_server.answers(port),
        verify=_nothing_to_verify,
        start_seconds=OBJECTS_START_SECONDS,
        hang_seconds=settings.stack.local.hang_seconds,
        stop_seconds=OBJECTS_STOP_SECONDS,
    )
    told = {
        "S3_URL": object_server.url(port),
        "S3_ACCESS_KEY": access_key,
        "S3_SECRET_KEY": secret_key,
    }
    return Supervisor(command, watch, say), told


def _environment() -> dict[str, str]:
    """Without what would change PostgreSQL's settings behind our back (PGDATESTYLE)."""
    return {name: value for name, value in engine_environment().items() if name[:2] != "PG"}


async def _nothing_to_verify() -> None:
    return
