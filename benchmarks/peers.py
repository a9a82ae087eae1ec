"""Other gateways, each set up to be fast: one worker, on the gateway's core.

All of them keep connections to the engine alive, write no access log, and have one upstream.
"""

import re
import shutil
import subprocess
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from pathlib import Path

import yaml

from api_server.local.process import Command, free_port
from benchmarks.exchanges import KEY
from benchmarks.peer_packages import Package, install, package
from benchmarks.processes import TargetError, clean_environment, running
from benchmarks.targets import SLOTS, Endpoint, Place, Target

START_SECONDS = 120.0
HOST = "127.0.0.1"

Recipe = Callable[[Place, int], tuple[list[str], Mapping[str, str]]]
"""From the place and the port to listen on to a command line and its environment."""


def _target(name: str, recipe: Recipe) -> Target:
    @asynccontextmanager
    async def start(place: Place) -> AsyncIterator[Endpoint]:
        port = free_port()
        argv, environment = recipe(place, port)
        log_path = place.folder / f"{name.replace(' ', '-')}.log"
        async with running(Command(name, argv, environment, log_path), place.core) as process:
            await process.wait_until_it_answers(port, START_SECONDS)
            yield Endpoint(port, process)

    return Target(name, start)


def _missing(name: str, reason: str) -> Target:
    """A row that says why there are no figures."""

    def start(_place: Place) -> AbstractAsyncContextManager[Endpoint]:
        raise TargetError(reason)

    return Target(name, start)


NGINX_CONFIGURATION = """
daemon off;
worker_processes 1;
pid {folder}/nginx.pid;
events {{ worker_connections 4096; }}
http {{
    access_log off;
    client_body_temp_path {folder}/nginx-body;
    proxy_temp_path {folder}/nginx-proxy;
    fastcgi_temp_path {folder}/nginx-fastcgi;
    uwsgi_temp_path {folder}/nginx-uwsgi;
    scgi_temp_path {folder}/nginx-scgi;
    keepalive_requests 100000000;
    upstream engine {{
        server 127.0.0.1:{engine_port};
        keepalive 1024;
        keepalive_requests 100000000;
    }}
    server {{
        listen 127.0.0.1:{port} backlog=2048;
        location / {{
            proxy_pass http://engine;
            proxy_http_version 1.1;
            proxy_set_header Connection "";
            proxy_buffering off;  # or events would wait for each other
            proxy_read_timeout 600s;
        }}
    }}
}}
"""


def nginx(program: str) -> Recipe:
    """A plain reverse proxy: what forwarding costs when nothing is understood."""

    def recipe(place: Place, port: int) -> tuple[list[str], Mapping[str, str]]:
        path = place.folder / "nginx.conf"
        text = NGINX_CONFIGURATION.format(
            folder=place.folder, port=port, engine_port=place.engine_port
        )
        path.write_text(text)
        return [program, "-e", "stderr", "-c", str(path)], clean_environment()

    return recipe


def router(*program: str, is_tuned: bool = True) -> Recipe:
    """vllm-router and sglang-router share their command line.

    Tuned: with one engine there is nothing to choose, so the policy that thinks least, and only
    errors are logged. As shipped: cache-aware routing, logs at info. Both may have as many requests
    at once as the engine has slots, and a thread for the one core.
    """

    def recipe(place: Place, port: int) -> tuple[list[str], Mapping[str, str]]:
        options: dict[str, str | int] = {
            "--host": HOST,
            "--port": port,
            "--worker-urls": f"http://{HOST}:{place.engine_port}",
            "--max-concurrent-requests": SLOTS,
            "--queue-size": SLOTS,
            "--prometheus-host": HOST,
            "--prometheus-port": free_port(),
        }
        if is_tuned:
            options |= {"--policy": "round_robin", "--log-level": "error"}
        argv = [*program, *(str(part) for pair in options.items() for part in pair)]
        return argv, clean_environment(TOKIO_WORKER_THREADS="1")

    return recipe


def litellm(program: Path) -> Recipe:
    """The proxy server with its key check and without a database, one worker, errors logged."""

    def recipe(place: Place, port: int) -> tuple[list[str], Mapping[str, str]]:
        parameters = {
            "model": "openai/bench",
            "api_base": f"http://{HOST}:{place.engine_port}/v1",
            "api_key": "none",
        }
        document = {
            "model_list": [{"model_name": "bench", "litellm_params": parameters}],
            "general_settings": {"master_key": KEY},
            "litellm_settings": {"telemetry": False},
        }
        path = place.folder / "litellm.yaml"
        path.write_text(yaml.safe_dump(document))
        argv = [str(program), "--config", str(path), "--host", HOST, "--port", str(port)]
        environment = clean_environment(
            LITELLM_LOG="ERROR",
            LITELLM_MODE="PRODUCTION",
            LITELLM_LOCAL_MODEL_COST_MAP="True",  # asks nobody for prices when it starts
            REPEATED_STREAMING_CHUNK_LIMIT="100000000",  # the mock engine does repeat itself
        )
        return [*argv, "--num_workers", "1"], environment

    return recipe


def _nginx_target() -> Target:
    # Distributions put it where only root's PATH looks.
    program = shutil.which("nginx") or shutil.which("nginx", path="/usr/sbin:/usr/local/sbin")
    if program is None:
        return _missing("nginx", "it is not on PATH. On Debian and Ubuntu: apt install nginx-light")
    said = subprocess.run([program, "-v"], capture_output=True, text=True, check=False, timeout=10)
    version = re.search(r"nginx/([\d.]+)", said.stderr + said.stdout)
    return _target(f"nginx {version[1] if version else ''}".strip(), nginx(program))


AS_SHIPPED = ", as shipped"

PACKAGES: Mapping[str, Callable[[Path], Mapping[str, Recipe]]] = {
    "vllm-router": lambda folder: {
        "": router(str(folder / "vllm-router")),
        AS_SHIPPED: router(str(folder / "vllm-router"), is_tuned=False),
    },
    "sglang-router": lambda folder: {
        "": router(str(folder / "sglang-router"), "launch"),
        AS_SHIPPED: router(str(folder / "sglang-router"), "launch", is_tuned=False),
    },
    "litellm": lambda folder: {"": litellm(folder / "litellm")},
}
"""Package to its rows: what follows the name, and how it is run."""

TITLES = {"litellm": "LiteLLM"}

Installer = Callable[[Package, Path], Awaitable[Path]]


async def peers(
    cache: Path, say: Callable[[str], None], installer: Installer = install
) -> list[Target]:
    """All of them, installed; one that cannot be is a target that says so."""
    found = [_nginx_target()]
    for name, recipes_in in PACKAGES.items():
        title = TITLES.get(name, name)
        try:
            pinned = package(name)
            title += f" {pinned.version}"
            say(f"looking for {title}, or installing it")
            recipes = recipes_in(await installer(pinned, cache))
            found += [_target(title + suffix, recipe) for suffix, recipe in recipes.items()]
        except (TargetError, OSError) as exc:
            found.append(_missing(title, str(exc)))
    return found
