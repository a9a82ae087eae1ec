"""Each rule of the compose files finds the mistake that it is there for."""

import copy
from collections.abc import Callable
from typing import Any

import pytest

from tests.compose_rules import images, rights, settings
from tests.compose_rules.every import RULES
from tests.compose_rules.files import BASE, GPU, SEAWEEDFS, Document, combined, services


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
    ("networks", change("networks/engines", {}), "way out"),
    ("networks", change("services/llama-cpp/networks", ["internal"]), "llama-cpp is on"),
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
        change("services/front/healthcheck/test", ["CMD", "wget", "http://127.0.0.1:8404/health"]),
        "would ask a proxy",
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
