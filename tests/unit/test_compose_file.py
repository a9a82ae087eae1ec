"""The compose files hold what they promise, as far as that can be seen without Docker."""

import importlib.util
import json
import os
import shutil
import subprocess
from pathlib import Path
from typing import Any

import jsonschema
import pytest
import yaml

from api_server.planning.compose import gpus_file
from api_server.settings.started_engines import EMBEDDING_SLOTS
from tests.compose_rules import images, rights, settings
from tests.compose_rules.every import RULES, Rule
from tests.compose_rules.files import (
    BASE,
    COMBINATIONS,
    GPU,
    REPOSITORY,
    SEAWEEDFS,
    combined,
    laid_over,
    raw,
    services,
    variables,
)

FILES = (BASE, GPU, SEAWEEDFS)
EVERYTHING = (BASE, GPU, SEAWEEDFS)
EXAMPLE = REPOSITORY / ".env.example"


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
    written = yaml.safe_load(gpus_file(raw(BASE), raw(GPU), engine, range(3)))
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


def test_redis_gives_up_kept_answers_before_it_refuses_limits() -> None:
    assert "--maxmemory-policy volatile-lru" in raw(BASE)["services"]["redis"]["command"]


def test_the_object_store_has_no_page() -> None:
    assert raw(BASE)["services"]["minio"]["environment"]["MINIO_BROWSER"] == "off"


def test_an_engine_that_lost_its_gpu_is_not_healthy() -> None:
    _, command = raw(GPU)["services"]["llama-cpp"]["healthcheck"]["test"]
    assert command.startswith("nvidia-smi -L | grep -q GPU && ")


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
