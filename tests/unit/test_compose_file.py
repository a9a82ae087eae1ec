"""The compose files hold what they promise, as far as that can be seen without Docker; and each
rule finds the mistake it is there for.
"""

import copy
import importlib.util
import json
import os
import shutil
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import jsonschema
import pytest
import yaml

from api_server.planning.compose import gpus_file
from api_server.settings.started_engines import EMBEDDING_SLOTS
from tests.compose_rules import images, order, programs, rights, settings, v1
from tests.compose_rules.files import (
    BASE,
    COMBINATIONS,
    GPU,
    REPOSITORY,
    SEAWEEDFS,
    Document,
    combined,
    laid_over,
    raw,
    services,
    variables,
)

FILES = (BASE, GPU, SEAWEEDFS)
EVERYTHING = (BASE, GPU, SEAWEEDFS)
EXAMPLE = REPOSITORY / ".env.example"

Rule = Callable[[Document], Iterator[str]]

RULES: dict[str, Rule] = {
    "docker-compose 1.29 reads it": v1.unknown_to_v1,
    "images": images.image_faults,
    "secrets": settings.secret_faults,
    "no secret is written down": settings.literal_secrets,
    "settings reach the gateway": settings.settings_not_passed,
    "networks": rights.network_faults,
    "ports": rights.port_faults,
    "bounds": rights.bound_faults,
    "programs are in their images": programs.program_faults,
    "health checks can fail": programs.quiet_checks,
    "mounts": order.mount_faults,
    "order": order.order_faults,
    "time to stop": order.time_faults,
    "flags": programs.flag_faults,
}


@pytest.fixture(params=COMBINATIONS, ids="+".join)
def names(request: pytest.FixtureRequest) -> tuple[str, ...]:
    found: tuple[str, ...] = request.param
    return found


@pytest.mark.parametrize("name", FILES)
def test_each_file_follows_the_compose_specification(name: str) -> None:
    jsonschema.validate(raw(name), compose_schema())


def test_together_they_follow_the_compose_specification(names: tuple[str, ...]) -> None:
    jsonschema.validate(combined(names), compose_schema())


@pytest.mark.parametrize("rule", RULES.values(), ids=RULES)
def test_the_files_keep_the_rule(rule: Rule, names: tuple[str, ...]) -> None:
    assert list(rule(combined(names))) == []


@pytest.mark.parametrize("engine", ["llama-cpp", "max"])
def test_what_is_written_for_several_gpus_keeps_them_too(engine: str) -> None:
    written = yaml.safe_load(gpus_file(raw(BASE), raw(GPU), engine, 3))
    jsonschema.validate(written, compose_schema())
    together = laid_over(raw(BASE), written)
    assert {name: list(rule(together)) for name, rule in RULES.items()} == {
        name: [] for name in RULES
    }


def test_who_may_do_more_than_the_others_says_why(names: tuple[str, ...]) -> None:
    assert list(rights.liberty_faults(combined(names), names)) == []


def test_no_reason_is_left_over() -> None:
    assert rights.liberties(combined((BASE, GPU))) == set(rights.REASONS)


def test_the_default_of_each_image_stands_once() -> None:
    assert list(images.repeated_images([(REPOSITORY / name).read_text() for name in FILES])) == []


def test_the_two_images_of_llama_cpp_are_of_one_build() -> None:
    cpu, gpu = (services(combined(files))["llama-cpp"]["image"] for files in ((BASE,), (BASE, GPU)))
    assert cpu.split("server-")[1].rstrip("}") == gpu.split("server-cuda-")[1].split("@")[0]


def test_the_gateway_counts_on_as_many_embeddings_at_once_as_their_engine_does() -> None:
    command = services(raw(BASE))["embeddings"]["command"]
    assert f"--parallel {EMBEDDING_SLOTS} " in command


def test_every_variable_is_in_the_example() -> None:
    assert list(settings.undocumented(combined(EVERYTHING), EXAMPLE.read_text())) == []


def test_every_name_of_make_start_in_the_example_is_read() -> None:
    folders = ("scripts/stack", "scripts/operate")
    paths = [path for folder in folders for path in (REPOSITORY / folder).glob("*.sh")]
    scripts = "\n".join(path.read_text() for path in paths)
    example = EXAMPLE.read_text()
    assert settings.START_SECTION in example
    assert list(settings.unused(combined(EVERYTHING), example, scripts)) == []
    assert list(settings.unused({}, f"{settings.START_SECTION}\n# NOBODY=\n", scripts))


def test_every_required_variable_says_what_to_do() -> None:
    required = [variable for variable in variables(combined(EVERYTHING)) if variable.how == ":?"]
    assert required
    assert all("make start" in variable.rest for variable in required)


# --- each rule finds what it is there for ---


def change(path: str, value: Any) -> Callable[[Document], None]:
    """Puts a value at `service.key.key` (None: takes it away)."""

    def apply(document: Document) -> None:
        *parents, last = path.split("/")
        place = document
        for parent in parents:
            place = place[parent]
        if value is None:
            del place[last]
        else:
            place[last] = value

    return apply


MISTAKES: list[tuple[str, Callable[[Document], None], str]] = [
    ("docker-compose 1.29 reads it", change("name", "stack"), "top level: name"),
    ("docker-compose 1.29 reads it", change("services/front/gpus", "all"), "front: gpus"),
    (
        "docker-compose 1.29 reads it",
        change("services/redis/healthcheck/start_interval", "1s"),
        "start_interval",
    ),
    (
        "docker-compose 1.29 reads it",
        change("services/front/depends_on/api-server/required", value=False),
        "required",
    ),
    ("images", change("services/redis/image", "redis:7"), "cannot be replaced"),
    ("images", change("services/redis/image", "${REDIS_IMAGE:-redis:latest}"), "names no version"),
    ("images", change("services/redis/image", "${REDIS_IMAGE:-redis:7.4}"), "should have a digest"),
    ("images", change("services/front/image", "${FRONT_IMAGE:-nginx:1.27}"), "nothing is known"),
    (
        "images",
        change("services/embeddings/image", "${LLAMA_CPP_IMAGE:-ghcr.io/ggml-org/llama.cpp:b2}"),
        "is spelled",
    ),
    (
        "secrets",
        change("services/postgres/environment/POSTGRES_PASSWORD", "${POSTGRES_PASSWORD:-stack}"),
        "has a default",
    ),
    (
        "secrets",
        change("services/postgres/environment/POSTGRES_PASSWORD", "${POSTGRES_PASSWORD}"),
        "may be missing",
    ),
    (
        "no secret is written down",
        change("services/grafana/environment/GF_SECURITY_ADMIN_PASSWORD", "admin"),
        "is written down",
    ),
    (
        "settings reach the gateway",
        change("services/api-server/environment/JWT_ISSUER", None),
        "JWT_ISSUER does not reach",
    ),
    ("networks", change("networks/internal", {}), "way out"),
    ("networks", change("services/postgres/networks", ["internal", "egress"]), "postgres is on"),
    ("networks", change("services/redis/network_mode", "host"), "of the host"),
    ("ports", change("services/postgres/ports", ["5432:5432"]), "postgres publishes"),
    (
        "ports",
        change("services/grafana/ports", ["${GRAFANA_PORT:-3000}:3000"]),
        "grafana publishes",
    ),
    ("bounds", change("services/qdrant/mem_limit", None), "qdrant has no mem_limit"),
    ("bounds", change("services/qdrant/restart", "no"), "restart is no"),
    ("bounds", change("services/qdrant/logging", None), "its log has no end"),
    ("bounds", change("services/qdrant/healthcheck", None), "a health check is for"),
    (
        "programs are in their images",
        change("services/qdrant/healthcheck/test", ["CMD", "curl", "-f", "http://127.0.0.1:6333"]),
        "curl is not in qdrant/qdrant",
    ),
    (
        "programs are in their images",
        change("services/dcgm-exporter/healthcheck/test", ["CMD-SHELL", "true && cat /x | grep y"]),
        "cat is not in nvcr.io",
    ),
    (
        "health checks can fail",
        change("services/redis/healthcheck/test", ["CMD", "redis-cli", "ping"]),
        "ends with 0",
    ),
    (
        "health checks can fail",
        change("services/llama-cpp/healthcheck/test", ["CMD", "curl", "http://localhost:8080"]),
        "without -f",
    ),
    ("mounts", change("services/front/volumes", ["./nowhere:/x:ro"]), "is not in the repository"),
    ("mounts", change("services/api-server/volumes", ["./configs:/x"]), "may write into"),
    ("mounts", change("services/qdrant/volumes", ["other:/qdrant/storage"]), "is not declared"),
    ("mounts", change("services/minio/user", "1001:1001"), "belongs to another user"),
    ("order", change("services/qdrant/profiles", ["vectors"]), "a profile leaves out"),
    (
        "order",
        change("services/front/depends_on", {"model-init": {"condition": "service_healthy"}}),
        "which has no check",
    ),
    ("order", change("services/front/depends_on", {"nobody": {}}), "does not exist"),
    ("time to stop", change("services/front/stop_grace_period", "60s"), "then front 60"),
    ("time to stop", change("services/redis/healthcheck/timeout", "9s"), "a check lasts longer"),
    ("flags", change("services/locust/command", "--hots http://front:8000"), "--hots is no flag"),
    (
        "flags",
        change("services/redis/command", "exec redis-server --maxmem 1"),
        "--maxmem is no flag",
    ),
]


@pytest.mark.parametrize(("rule", "mistake", "fault"), MISTAKES)
def test_a_mistake_is_found(rule: str, mistake: Callable[[Document], None], fault: str) -> None:
    document = copy.deepcopy(combined((BASE, GPU, SEAWEEDFS)))
    mistake(document)
    assert any(fault in found for found in RULES[rule](document))


def test_a_liberty_without_a_comment_is_found() -> None:
    document = combined((BASE,))
    services(document)["grafana"]["read_only"] = False
    services(document)["redis"]["user"] = "0:0"
    found = list(rights.liberty_faults(document, (BASE,)))
    assert [fault.split(",")[0] for fault in found] == ["grafana: read_only", "redis: root"]


def test_an_image_that_stands_twice_and_a_variable_that_nobody_explains_are_found() -> None:
    assert list(images.repeated_images(["${A_IMAGE:-a:1}", "${A_IMAGE:-a:2}"]))
    assert list(settings.undocumented({"x": "${UNKNOWN_NAME:-}"}, "# KNOWN=\n"))


# --- what Docker Compose itself says, where it is installed ---


def has(*command: str) -> bool:
    if not shutil.which(command[0]):
        return False
    return subprocess.run([*command, "version"], capture_output=True, check=False).returncode == 0


COMPOSES = {"v2": ["docker", "compose"], "v1": ["docker-compose"]}


@pytest.mark.parametrize("compose", COMPOSES.values(), ids=COMPOSES)
def test_compose_reads_them(compose: list[str], names: tuple[str, ...], tmp_path: Path) -> None:
    if not has(*compose):
        pytest.skip(f"no {' '.join(compose)} here")
    required = {v.name: "x" for v in variables(combined(names)) if v.how == ":?"}
    read = config(compose, names, tmp_path, required)
    assert read.returncode == 0, read.stderr
    missing = config(compose, names, tmp_path, {})
    assert missing.returncode != 0
    assert "run make start" in missing.stderr


def config(
    compose: list[str], names: tuple[str, ...], folder: Path, values: dict[str, str]
) -> subprocess.CompletedProcess[str]:
    """`config` over all profiles, with these variables and no others."""
    (folder / "env").write_text("")
    files = [word for name in names for word in ("--file", str(REPOSITORY / name))]
    return subprocess.run(
        [*compose, "--env-file", str(folder / "env"), *files, "config", "--quiet"],
        env={
            "PATH": os.environ["PATH"],
            "HOME": str(folder),
            "COMPOSE_PROFILES": "llama-cpp,max,locust,dcgm",
            **values,
        },
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )


def compose_schema() -> dict[str, Any]:
    """The Compose Specification's schema, out of check-jsonschema, whose code is not run."""
    spec = importlib.util.find_spec("check_jsonschema")
    assert spec is not None
    assert spec.origin is not None
    path = Path(spec.origin).parent / "builtin_schemas/vendor/compose-spec.json"
    found: dict[str, Any] = json.loads(path.read_text())
    return found
