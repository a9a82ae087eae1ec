"""What Docker and the kernel say of the containers: rights, limits, ports, networks."""

from pathlib import Path
from typing import Any

import pytest

from tests.compose.conftest import RUNNING, SECRETS, Stack
from tests.compose.daemon import docker
from tests.compose.project import Project

pytestmark = pytest.mark.timeout(300)

UIDS = {
    "front": 99,
    "api-server": 10001,
    "llama-cpp": 65534,
    "embeddings": 65534,
    "postgres": 999,
    "redis": 999,
    "qdrant": 1000,
    "minio": 0,  # its image knows no other user; it has none of root's capabilities
    "prometheus": 65534,
    "grafana": 472,
}
WITH_MANY_THREADS = {"llama-cpp", "embeddings", "qdrant"}
"""They start several for each core of the machine."""
PUBLISHED = {"front": "8000/tcp", "grafana": "3000/tcp"}
NETWORKS = {
    "front": {"internal", "published"},
    "grafana": {"internal", "published"},
    "api-server": {"internal", "engines", "egress"},
    "prometheus": {"internal", "engines"},
    "llama-cpp": {"engines"},
    "embeddings": {"engines"},
}


def inspected(project: Project) -> dict[str, dict[str, Any]]:
    """What Docker says of each running service."""
    found = project.inspect(*project.containers())
    return {each["Config"]["Labels"]["com.docker.compose.service"]: each for each in found}


def kernel_status(pid: int) -> dict[str, str]:
    """The kernel's word on a process."""
    lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    return {name: value.strip() for name, _, value in (line.partition(":") for line in lines)}


def test_nothing_else_runs(stack: Stack) -> None:
    assert sorted(inspected(stack.project)) == sorted(RUNNING)


@pytest.mark.parametrize("service", RUNNING)
def test_a_process_has_no_more_rights_than_it_needs(stack: Stack, service: str) -> None:
    container = inspected(stack.project)[service]
    status = kernel_status(container["State"]["Pid"])
    assert int(status["Uid"].split()[1]) == UIDS[service]
    assert int(status["CapEff"], 16) == int(status["CapPrm"], 16) == int(status["CapBnd"], 16) == 0
    assert status["NoNewPrivs"] == "1"
    host = container["HostConfig"]
    assert host["ReadonlyRootfs"]
    assert not host["Privileged"]
    assert host["PidsLimit"] == (4096 if service in WITH_MANY_THREADS else 512)


@pytest.mark.parametrize("service", RUNNING)
def test_a_service_is_bounded_and_comes_back(stack: Stack, service: str) -> None:
    host = inspected(stack.project)[service]["HostConfig"]
    assert 0 < host["Memory"] <= 16 * 2**30
    assert host["RestartPolicy"]["Name"] == "unless-stopped"
    assert host["LogConfig"]["Config"] == {"max-size": "10m", "max-file": "3"}


def test_only_the_intended_ports_are_published_and_on_loopback(stack: Stack) -> None:
    published = {}
    for service, container in inspected(stack.project).items():
        for port, bindings in container["NetworkSettings"]["Ports"].items():
            for binding in bindings or []:
                assert binding["HostIp"] == "127.0.0.1"
                published[service] = port
    assert published == PUBLISHED


def test_only_who_must_is_on_a_network_that_leads_outside(stack: Stack) -> None:
    project = stack.project
    for service, container in inspected(project).items():
        names = {
            name.removeprefix(f"{project.name}_")
            for name in container["NetworkSettings"]["Networks"]
        }
        assert names == NETWORKS.get(service, {"internal"})
    closed = {"internal": "true", "engines": "true", "egress": "false", "published": "false"}
    for network, is_internal in closed.items():
        said = docker("network", "inspect", f"{project.name}_{network}", "-f", "{{.Internal}}")
        assert said.strip() == is_internal


def test_no_secret_stands_on_a_command_line(stack: Stack) -> None:
    values = [stack.project.setting(name) for name in SECRETS]
    for service, container in inspected(stack.project).items():
        command = " ".join([container["Path"], *container["Args"]])
        line = Path(f"/proc/{container['State']['Pid']}/cmdline").read_text()
        assert not any(value in command + line for value in values), service
