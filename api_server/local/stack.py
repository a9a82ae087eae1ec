"""What `make local` does, step by step: check, build, start, watch, stop."""

import asyncio
import os
import secrets
import signal
import socket
import sys
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import yaml

from api_server.inference.catalogue import Model
from api_server.inference.engines import Engine
from api_server.inference.handlers.engine_client import EngineClient
from api_server.inference.in_process.gguf import GgufHead, read_head
from api_server.inference.memory import free_memory_bytes
from api_server.local import plan as planning
from api_server.local.banner import Ready, banner, is_loopback, open_to_all_warning
from api_server.local.data_dir import LOG_FOLDER, STACK_FILE, locked
from api_server.local.development_key import development_key
from api_server.local.embedding_build import MODEL_ID, build_embedding_model
from api_server.local.engine import LocalEngine
from api_server.local.engine_binary import find_engine
from api_server.local.plan import EnginePlan
from api_server.local.process import Command, free_port
from api_server.local.prometheus import LocalPrometheus, prepare_prometheus
from api_server.local.stores import LocalStores, prepare_stores, write_variables
from api_server.local.supervisor import Supervisor, Watch
from api_server.local.terminal import Say
from api_server.server import listen
from api_server.settings import (
    ENGINE_NAMES,
    REPOSITORY,
    Settings,
    inherited_environment,
    load_stack,
)

GATEWAY_STOP_SECONDS = 3.0
GATEWAY_START_SECONDS = 30.0
TINY_MODEL = REPOSITORY / "models/tiny/tiny-q8_0.gguf"


async def run_local(settings: Settings, say: Say) -> None:
    """Bring the stack up and keep it up until the task is cancelled. Leaves no process behind."""
    environment = settings.environment
    data_dir = environment.data_dir.resolve()
    terminal = _terminal_to_live_by()
    with locked(data_dir), listen(environment.host, environment.port) as listener:
        # From here on the port is ours, also while the engine is compiled or the gateway is
        # started again: clients that come early wait in the listener's queue.
        head, plan = _plan(settings)
        binary = await engine_binary(settings, say)
        if not head.has_chat_template:
            say.line(f"{head.name} brings no chat template; the engine uses a generic one")
        key = secrets.token_urlsafe(24)
        engines = [LocalEngine(plan, free_port(), key)]
        if settings.serves_embeddings:
            free_bytes = free_memory_bytes() - planning.needed_bytes(head, plan)
            embeddings = await embedding_plan(settings, free_bytes, plan.model_id, say)
            engines.append(LocalEngine(embeddings, free_port(), key))
        stores = await prepare_stores(settings, say)
        write_variables(settings, stores, key)
        urls = _watched_urls(settings, engines)
        prometheus = prepare_prometheus(settings, urls, key, say)
        local = _Local(
            settings, engines, stores, prometheus, data_dir, say, key, development_key(settings)
        )
        elsewhere = _write_stack_file(local)
        say.line(f"starting {head.name} ({plan.slots} slots of {plan.context_tokens} tokens)")
        config, logs = settings.stack.local, data_dir / LOG_FOLDER
        supervisors = [
            *stores.supervisors,
            *(engine.supervisor(binary, config, logs, say) for engine in engines),
        ]
        async with (
            _running(*supervisors),
            _running(_gateway(local, listener)) as (gateway,),
            _ending(*([prometheus.supervisor] if prometheus else [])),
            asyncio.TaskGroup() as tasks,
        ):
            for supervisor in (*supervisors, gateway):
                tasks.create_task(supervisor.keep_up())
            if prometheus is not None:
                tasks.create_task(prometheus.keep_up())
            if terminal is not None:
                tasks.create_task(_stop_with(terminal))
            say.line(banner(_ready(local, elsewhere)))
            if not environment.auth and not is_loopback(environment.host):
                say.line(open_to_all_warning(environment.host))


def _terminal_to_live_by() -> int | None:
    """The terminal that we write to; None where there is none, or where we outlive it (nohup)."""
    fd = sys.stderr.fileno()
    is_outlived = signal.getsignal(signal.SIGHUP) is signal.SIG_IGN
    return fd if os.isatty(fd) and not is_outlived else None


async def _stop_with(terminal: int) -> None:
    """Stop when the terminal is closed: `make` may get the SIGHUP and pass none of it on."""
    while True:
        await asyncio.sleep(1)
        try:
            os.tcgetpgrp(terminal)
        except OSError:
            os.kill(os.getpid(), signal.SIGTERM)
            return


def stop_on_signals(task: "asyncio.Task[None]") -> None:
    """The first Ctrl-C (or TERM, or a closed terminal) stops in order, a second one in haste."""
    loop = asyncio.get_running_loop()
    for signal_ in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        if signal_ is signal.SIGHUP and signal.getsignal(signal_) is signal.SIG_IGN:
            continue  # started under nohup
        loop.add_signal_handler(signal_, task.cancel)


async def engine_binary(settings: Settings, say: Say) -> Path:
    """The llama-server to run: one that the operator has, or the one compiled for this machine."""
    environment = settings.environment
    return await find_engine(
        explicit=environment.llama_server,
        cache_home=environment.cache_home,
        say=say,
        flags=[
            *planning.flags_of("text"),
            *(planning.flags_of("embeddings") if settings.serves_embeddings else ()),
        ],
        compiler=environment.cxx,
    )


def _plan(settings: Settings) -> tuple[GgufHead, EnginePlan]:
    local = settings.stack.local
    named = settings.environment.model
    path = (named.expanduser() if named else _from_repository(local.model.expanduser())).resolve()
    head = read_head(path)
    cores = len(os.sched_getaffinity(0))
    if settings.serves_embeddings:
        cores -= planning.embedding_thread_count(cores)
    plan = EnginePlan(
        model_id="tiny" if path == TINY_MODEL else planning.model_id_of(path),
        model_path=path,
        slots=local.slots,
        context_tokens=planning.context_per_slot(head, local.context_tokens),
        threads=planning.thread_count(local.threads, cores),
    )
    planning.check_memory(head, plan, free_memory_bytes())
    return head, plan


async def embedding_plan(
    settings: Settings, available_bytes: int, taken_id: str, say: Say
) -> EnginePlan:
    """How the embedding engine is started; makes the shipped model when none is named.

    available_bytes: memory that the chat's engine leaves; taken_id: that engine's model.
    """
    environment, local = settings.environment, settings.stack.local
    named = environment.embedding_model
    if named is not None:
        path = named.expanduser().resolve()
        model_id = planning.model_id_of(path)
    else:
        path = await build_embedding_model(cache_home=environment.cache_home, say=say)
        model_id = MODEL_ID
    head = read_head(path, "EMBEDDING_MODEL")
    plan = EnginePlan(
        model_id=f"{model_id}-embeddings" if model_id == taken_id else model_id,
        model_path=path,
        slots=local.embedding_slots,
        context_tokens=planning.context_per_slot(head, local.embedding_context_tokens),
        threads=planning.embedding_thread_count(len(os.sched_getaffinity(0))),
        serves="embeddings",
        pooling=head.pooling or "mean",
    )
    planning.check_memory(head, plan, available_bytes)
    return plan


def _from_repository(path: Path) -> Path:
    return path if path.is_absolute() else REPOSITORY / path


@asynccontextmanager
async def _running(*supervisors: Supervisor) -> AsyncIterator[Sequence[Supervisor]]:
    """Start children together and stop them at the end."""
    async with _ending(*supervisors):
        async with asyncio.TaskGroup() as starts:
            for supervisor in supervisors:
                starts.create_task(supervisor.start())
        yield supervisors


@asynccontextmanager
async def _ending(*supervisors: Supervisor) -> AsyncIterator[None]:
    """Stop children at the end, whoever started them; a second cancellation kills them."""
    try:
        yield
    finally:
        try:
            await asyncio.gather(*(supervisor.stop() for supervisor in supervisors))
        except asyncio.CancelledError:
            await asyncio.gather(*(supervisor.kill() for supervisor in supervisors))
            raise


@dataclass(frozen=True)
class _Local:
    """What engines and gateway of one run have in common.

    `key` is the engines', made anew at each start; `development_key` what clients show, if any.
    """

    settings: Settings
    engines: Sequence[LocalEngine]
    stores: LocalStores
    prometheus: LocalPrometheus | None
    data_dir: Path
    say: Say
    key: str = field(repr=False)
    development_key: str | None = field(repr=False)

    @property
    def plan(self) -> EnginePlan:
        """That of the chat's engine."""
        return self.engines[0].plan

    @property
    def gateway_url(self) -> str:
        """Where this machine itself reaches the gateway."""
        return _gateway_url(self.settings)


def _gateway_url(settings: Settings) -> str:
    environment = settings.environment
    return base_url(reachable_address(environment.host), environment.port)


def _watched_urls(settings: Settings, engines: Sequence[LocalEngine]) -> dict[str, str]:
    """What Prometheus asks, by the names of its jobs."""
    jobs = ("llama-cpp", "embeddings")
    return {
        "api-server": _gateway_url(settings),
        **{job: engine.url for job, engine in zip(jobs, engines, strict=False)},
    }


def _gateway(local: _Local, listener: socket.socket) -> Supervisor:
    environment = local.settings.environment
    alive = Engine(name="the gateway", health_path="/health/live")
    handler = EngineClient(Model(id="gateway", engine=alive, replicas=(local.gateway_url,)))

    async def nothing_to_verify() -> None:
        return

    key = local.development_key
    command = Command(
        name="the gateway",
        argv=[sys.executable, "-m", "api_server", "serve"],
        environment=inherited_environment()
        | dict(local.stores.variables)
        | ({} if key is None else {"DEVELOPMENT_KEY": key})
        | dict.fromkeys(ENGINE_NAMES, "")  # what `make start` wrote into .env is not for us
        | {
            "ENVIRONMENT": "development",
            "DATA_DIR": str(local.data_dir),
            "STACK_CONFIG": str(local.data_dir / STACK_FILE),
            "LISTEN_FD": str(listener.fileno()),
            "LOG_LEVEL": environment.log_level,
            "ENGINE_API_KEY": local.key,
            "PYTHONPATH": str(REPOSITORY),
        },
        log_path=local.data_dir / LOG_FOLDER / "gateway.log",
        inherited_fds=(listener.fileno(),),
    )
    watch = Watch(
        is_ready=handler.is_ready,
        verify=nothing_to_verify,
        start_seconds=GATEWAY_START_SECONDS,
        hang_seconds=local.settings.stack.local.hang_seconds,
        stop_seconds=GATEWAY_STOP_SECONDS,
    )
    return Supervisor(command, watch, local.say)


def _ready(local: _Local, elsewhere: Sequence[Model]) -> Ready:
    return Ready(
        url=local.gateway_url,
        model_id=local.plan.model_id,
        embedding_ids=[engine.plan.model_id for engine in local.engines[1:]],
        elsewhere_ids=[model.id for model in elsewhere],
        logs=local.data_dir / LOG_FOLDER,
        key=local.development_key,
        prometheus=local.prometheus.url if local.prometheus else None,
    )


def _write_stack_file(local: _Local) -> list[Model]:
    """The stack file as given, with the local engines in place of the local models.

    Returns the models that are served elsewhere: in the cloud, or by the external service, which
    the gateway reads from the environment as we did. Raises `ConfigurationError` where they do not
    go together with the local ones.
    """
    settings, stack = local.settings, local.settings.stack
    path = local.data_dir / STACK_FILE
    is_tiny = local.plan.model_path == TINY_MODEL
    chat, *others = local.engines
    document = stack.model_dump(mode="json", exclude_none=True, exclude={"local", "models"})
    document["models"] = [
        chat.entry(
            context_overflow=stack.local.context_overflow,
            defaults=stack.local.tiny_defaults if is_tiny else stack.local.defaults,
        ),
        *(engine.entry() for engine in others),
        *_cloud_entries(local),
    ]
    header = "# Written by `make local` at each start; change configs/stack.yaml instead.\n"
    path.write_text(header + yaml.safe_dump(document, sort_keys=False), encoding="utf-8")
    environment = settings.environment.model_copy(update={"stack_config": path})
    written = replace(settings, environment=environment, stack=load_stack(path))
    return written.models()[len(local.engines) :]


def _cloud_entries(local: _Local) -> list[dict[str, Any]]:
    """The models in the cloud, without fallbacks on models that are not served now."""
    entries = [entry for entry in local.settings.stack.models if entry.location == "cloud"]
    served = {model.id for model in local.settings.models() if model.location == "cloud"}
    served |= {engine.plan.model_id for engine in local.engines}
    return [
        entry.model_dump(mode="json", exclude_unset=True)
        | {"fallbacks": [id_ for id_ in entry.fallbacks if id_ in served]}
        for entry in entries
    ]


def reachable_address(host: str) -> str:
    """Where this machine itself reaches a server that listens on `host`."""
    return {"0.0.0.0": "127.0.0.1", "::": "::1"}.get(host, host)  # noqa: S104 - a key, no bind


def base_url(host: str, port: int) -> str:
    return f"http://[{host}]:{port}" if ":" in host else f"http://{host}:{port}"
