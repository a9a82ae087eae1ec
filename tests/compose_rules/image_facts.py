"""What is in the images of the compose files, and where we know it from. No image could be pulled
where this was written: each fact was read in a Dockerfile, at the version that is named.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field

DEBIAN = frozenset({"sh", "bash", "head", "grep", "sed", "awk", "install", "mv", "sha256sum"})
BUSYBOX = frozenset({"sh", "wget", "grep", "head"})


@dataclass(frozen=True)
class Image:
    """`programs` that a health check or a command may call, the number of its `user`, and whose its
    folders are: a new named volume takes its owner from the folder that it covers.
    """

    programs: frozenset[str]
    user: int
    own_folders: Mapping[str, int] = field(default_factory=dict)


IMAGES = {
    # ./Dockerfile
    "llm-serving-stack/api-server": Image(DEBIAN | {"python", "python3"}, 10001, {"/data": 10001}),
    # docker-library/python 3.12/slim-bookworm/Dockerfile
    "python": Image(DEBIAN | {"python", "python3", "pip"}, 0),
    # .devops/cpu.Dockerfile, cuda.Dockerfile: ubuntu:24.04 with libgomp1 and curl, and what curl
    # recommends (ca-certificates). nvidia-smi is put in by the NVIDIA container toolkit.
    "ghcr.io/ggml-org/llama.cpp": Image(DEBIAN | {"curl", "/app/llama-server", "nvidia-smi"}, 0),
    # MAX's documentation: on NVIDIA's CUDA image for Ubuntu. Its Dockerfile is not public.
    "modular/max-nvidia-full": Image(frozenset({"bash"}), 0),
    # docker-library/haproxy 3.2/alpine/Dockerfile: alpine:3.24, user 99
    "haproxy": Image(BUSYBOX | {"haproxy", "socat"}, 99),
    # docker-library/postgres 15/bookworm/Dockerfile: user 999; its entrypoint runs without root
    "postgres": Image(
        DEBIAN | {"pg_isready", "psql", "pg_dump"}, 0, {"/var/lib/postgresql/data": 999}
    ),
    # redis/docker-library-redis 7.4/debian/Dockerfile: user 999, no curl
    "redis": Image(DEBIAN | {"redis-server", "redis-cli"}, 0, {"/data": 999}),
    # qdrant/qdrant Dockerfile 1.19.0 with USER_ID=1000: debian:13-slim, neither curl nor wget
    "qdrant/qdrant": Image(DEBIAN, 1000, {"/qdrant/storage": 1000}),
    # minio/minio Dockerfile.release: ubi-micro with minio, mc and curl; root
    "quay.io/minio/minio": Image(frozenset({"sh", "bash", "minio", "mc", "curl"}), 0),
    # prometheus/prometheus Dockerfile 3.14.0 (not Dockerfile.distroless): busybox, nobody
    "prom/prometheus": Image(BUSYBOX | {"prometheus", "promtool"}, 65534, {"/prometheus": 65534}),
    # grafana/grafana: alpine, user 472; distroless is a tag of its own
    "grafana/grafana": Image(BUSYBOX | {"curl", "bash"}, 472, {"/var/lib/grafana": 472}),
    # locustio/locust Dockerfile 2.46: python:3.13-slim, its virtual environment on PATH
    "locustio/locust": Image(DEBIAN | {"python3", "locust"}, 1000),
    # NVIDIA/dcgm-exporter docker/Dockerfile, runtime-distroless: bash and sh, no coreutils; root
    "nvcr.io/nvidia/k8s/dcgm-exporter": Image(frozenset({"sh", "bash"}), 0),
    # seaweedfs/seaweedfs docker/Dockerfile.go_build: alpine with curl; root, its entrypoint
    # becomes seaweed (1000) with root's capabilities
    "chrislusf/seaweedfs": Image(BUSYBOX | {"weed", "curl", "/entrypoint.sh"}, 0, {"/data": 1000}),
}

WITHOUT_DIGEST = {
    "API_SERVER_IMAGE": "is built here",
    "LLAMA_CPP_IMAGE": "no public file shows the digest of this tag",
    "MAX_IMAGE": "no public file shows the digest of this tag",
    "LOCUST_IMAGE": "one public file shows a digest, which is too few",
    "DCGM_IMAGE": "one public file shows a digest, which is too few",
}
"""Variables of images that have a tag only."""

FLAGS = {
    # cmd/prometheus/main.go at 3.14.0; the first three are in 2.42 too
    "prometheus": frozenset(
        [
            "--config.file",
            "--storage.tsdb.path",
            "--storage.tsdb.retention.time",
            "--storage.tsdb.retention.size",
        ]
    ),
    # minio's cmd/server-main.go
    "minio": frozenset({"--address", "--certs-dir", "--console-address"}),
    # locust/argument_parser.py at 2.46.3
    "locust": frozenset({"-f", "--host", "--web-port"}),
    # weed/command/server.go at 4.44
    "weed": frozenset(
        [
            "-ip",
            "-ip.bind",
            "-master.telemetry",
            "-volume.preStopSeconds",
            "-filer",
            "-s3",
            "-s3.ip.bind",
            "-s3.port",
            "-s3.port.iceberg",
            "-s3.port.lance",
            "-s3.config",
        ]
    ),
    # CONFIG GET of redis 7 knows these as settings
    "redis-server": frozenset({"--save", "--appendonly", "--maxmemory", "--maxmemory-policy"}),
}
