"""The lines for `.env`, and the compose file for several GPUs (Compose itself: integration)."""

import pytest
import yaml

from api_server.errors import ConfigurationError, SetupError
from api_server.planning.compose import gpus_file, parse
from api_server.planning.env_block import compose_files, engine_urls, lines, profiles
from tests.local_stack import REPOSITORY

BASE, GPU = (
    parse((REPOSITORY / name).read_text(encoding="utf-8"), name)
    for name in ("docker-compose.yaml", "docker-compose.gpu.yaml")
)
DEVICES = ("deploy", "resources", "reservations", "devices")


def test_compose_files_keep_what_the_user_added() -> None:
    assert compose_files(0) == "docker-compose.yaml"
    assert compose_files(1) == "docker-compose.yaml:docker-compose.gpu.yaml"
    added = ["docker-compose.seaweedfs.yaml", "docker-compose.yaml"]
    assert compose_files(3, added) == (
        "docker-compose.yaml:docker-compose.gpus.yaml:docker-compose.seaweedfs.yaml"
    )


def test_profiles_and_addresses() -> None:
    assert profiles("max", ["locust", "max"]) == "max,locust"
    assert profiles("external") == ""
    assert engine_urls("max", 0) == "http://max-serve:8080"
    assert engine_urls("llama-cpp", 2) == "http://llama-cpp:8080,http://llama-cpp-1:8080"


def test_lines_need_no_quotes() -> None:
    assert lines({"A": "-x 1 --y=2", "B": ""}) == "A=-x 1 --y=2\nB=\n"


@pytest.mark.parametrize("value", ["a'b", 'a"b', "a #b", "$HOME", " a", "a ", "a  b", "a\nB=1"])
def test_a_value_that_would_need_quotes_is_refused(value: str) -> None:
    with pytest.raises(ConfigurationError, match="cannot stand in"):
        lines({"A": value})


@pytest.mark.parametrize(("engine", "service"), [("llama-cpp", "llama-cpp"), ("max", "max-serve")])
def test_each_gpu_has_an_engine_of_its_own(engine: str, service: str) -> None:
    text = gpus_file(BASE, GPU, engine, range(3))
    services = yaml.safe_load(text)["services"]
    names = [service, f"{service}-1", f"{service}-2"]
    assert list(services) == [*names, "dcgm-exporter"]
    for number, name in enumerate(names):
        devices = services[name]
        for key in DEVICES:
            devices = devices[key]
        assert [device["device_ids"] for device in devices] == [[str(number)]]
        assert all("count" not in device for device in devices)
    assert "&" not in text.replace("&&", "").replace(">&3", "").replace("<&3", "")


def test_an_engine_gets_the_gpu_that_was_chosen() -> None:
    services = yaml.safe_load(gpus_file(BASE, GPU, "llama-cpp", [1, 3]))["services"]
    reserved = [
        services[name]["deploy"]["resources"]["reservations"]["devices"]
        for name in ("llama-cpp", "llama-cpp-1")
    ]
    assert [devices[0]["device_ids"] for devices in reserved] == [["1"], ["3"]]
    assert compose_files(1, are_chosen=True) == "docker-compose.yaml:docker-compose.gpus.yaml"


def test_the_others_are_as_the_first_will_be() -> None:
    services = yaml.safe_load(gpus_file(BASE, GPU, "llama-cpp", range(2)))["services"]
    base, gpu, other = (
        BASE["services"]["llama-cpp"],
        GPU["services"]["llama-cpp"],
        services["llama-cpp-1"],
    )
    assert set(other) == set(base) | set(gpu)
    assert other["image"] == services["llama-cpp"]["image"] == gpu["image"]
    assert other["healthcheck"] == base["healthcheck"] | gpu["healthcheck"]
    assert other["command"] == base["command"]
    assert "${LLAMA_CPP_FLAGS" in other["command"]
    for key in ("read_only", "user", "cap_drop", "security_opt", "networks", "depends_on"):
        assert other[key] == base[key]


def test_what_watches_the_gpus_sees_all_of_them() -> None:
    services = yaml.safe_load(gpus_file(BASE, GPU, "llama-cpp", range(2)))["services"]
    reserved = services["dcgm-exporter"]["deploy"]["resources"]["reservations"]
    assert reserved["devices"][0]["count"] == "all"


def test_a_broken_compose_file_is_named() -> None:
    for text in ("a: [", "[]", "services: 3"):
        with pytest.raises(SetupError, match=r"docker-compose\.yaml"):
            parse(text, "docker-compose.yaml")
    with pytest.raises(SetupError, match="max-serve"):
        gpus_file({"services": {}}, GPU, "max", range(2))
