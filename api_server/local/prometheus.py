"""Prometheus beside a `make local`, where the machine has one: what it is told, how it is run.

Nothing depends on it. Where it is missing or does not start, that is said in a line.
"""

import shutil
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import urlsplit

import yaml

from api_server.errors import SetupError
from api_server.inference.catalogue import Model
from api_server.inference.engines import Engine
from api_server.inference.handlers.engine_client import EngineClient
from api_server.local.data_dir import (
    LOG_FOLDER,
    PROMETHEUS_FILE,
    PROMETHEUS_FOLDER,
    write_private,
)
from api_server.local.process import Command, free_port
from api_server.local.supervisor import Supervisor, Watch
from api_server.local.terminal import Say
from api_server.settings import REPOSITORY, Settings, engine_environment

RULES = REPOSITORY / "monitoring/prometheus/rules"
SCRAPE_SECONDS = 5
START_SECONDS = 60.0
"""After a crash it reads its log first."""

STOP_SECONDS = 5.0
KEPT = ("15d", "512MB")


@dataclass(frozen=True)
class LocalPrometheus:
    """One that was prepared."""

    supervisor: Supervisor
    url: str
    say: Say

    async def keep_up(self) -> None:
        """Start it and start it again when it fails; if it does not come at all, do without."""
        try:
            await self.supervisor.start()
        except SetupError as exc:
            self.say.line(f"going on without Prometheus (MONITORING=off leaves it out): {exc}")
            await self.supervisor.kill()
        else:
            await self.supervisor.keep_up()


def prepare_prometheus(
    settings: Settings, targets: Mapping[str, str], engine_key: str, say: Say
) -> LocalPrometheus | None:
    """Everything short of starting it; None where there is none, or where nobody wants it.

    targets: the URL of each job; the engines' want the key.
    """
    if not settings.environment.monitoring:
        return None
    program = shutil.which("prometheus")
    if program is None:
        say.line("there is no prometheus on PATH: figures are at /metrics, and nobody keeps them")
        return None
    data_dir = settings.environment.data_dir.resolve()
    path, url = data_dir / PROMETHEUS_FILE, f"http://127.0.0.1:{free_port()}"
    text = configuration({**targets, "prometheus": url}, engine_key)
    write_private(path, text)
    command = Command(
        name="Prometheus",
        argv=server_arguments(program, path, data_dir / PROMETHEUS_FOLDER, url),
        environment=engine_environment(),
        log_path=data_dir / LOG_FOLDER / "prometheus.log",
    )
    ready = Engine(name="Prometheus", health_path="/-/ready")
    watch = Watch(
        is_ready=EngineClient(Model(id="prometheus", engine=ready, replicas=(url,))).is_ready,
        verify=_nothing_to_verify,
        start_seconds=START_SECONDS,
        hang_seconds=settings.stack.local.hang_seconds,
        stop_seconds=STOP_SECONDS,
    )
    return LocalPrometheus(Supervisor(command, watch, say), url, say)


def configuration(targets: Mapping[str, str], engine_key: str) -> str:
    """The text of prometheus.yml: the rules of this repository and these jobs. Pure."""
    document = {
        "global": {
            "scrape_interval": f"{SCRAPE_SECONDS}s",
            "scrape_timeout": f"{SCRAPE_SECONDS}s",
            "evaluation_interval": "15s",
        },
        "rule_files": [f"{RULES}/*.yml"],
        "scrape_configs": [
            {"job_name": job, "static_configs": [{"targets": [urlsplit(url).netloc]}]}
            | ({"authorization": {"credentials": engine_key}} if job in _ENGINES else {})
            for job, url in targets.items()
        ],
    }
    header = "# Written by `make local` at each start.\n"
    return header + yaml.safe_dump(document, sort_keys=False)


_ENGINES = ("llama-cpp", "embeddings")
"""Jobs, called as in monitoring/prometheus/prometheus.yml, since rules name them."""


def server_arguments(program: str, path: Path, data: Path, url: str) -> list[str]:
    """The command that runs it, for this machine only."""
    days, size = KEPT
    return [
        *(program, f"--config.file={path}", f"--storage.tsdb.path={data}"),
        *(f"--storage.tsdb.retention.time={days}", f"--storage.tsdb.retention.size={size}"),
        *(f"--web.listen-address={urlsplit(url).netloc}", "--log.level=warn"),
    ]


async def _nothing_to_verify() -> None:
    return
