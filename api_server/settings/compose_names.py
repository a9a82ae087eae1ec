"""Names that may stand in a checkout's `.env` though no setting of the gateway has them: `make
start` and Docker Compose read them there.
"""

COMPOSE_NAMES = frozenset(
    {
        "API_PORT",
        "API_SERVER_IMAGE",
        "BIND_ADDRESS",
        "DCGM_IMAGE",
        "EMBEDDINGS_FILE",
        "EMBEDDINGS_FLAGS",
        "EMBEDDINGS_SOURCE",
        "ENGINE_MEMORY",
        "FRONT_IMAGE",
        "GRAFANA_IMAGE",
        "GRAFANA_PASSWORD",
        "GRAFANA_PORT",
        "HF_ENDPOINT",
        "HF_TOKEN",
        "LLAMA_CPP_CUDA_IMAGE",
        "LLAMA_CPP_FLAGS",
        "LLAMA_CPP_IMAGE",
        "LOCUST_IMAGE",
        "LOCUST_PORT",
        "MAX_FLAGS",
        "MAX_IMAGE",
        "MINIO_IMAGE",
        "MODEL_FILE",
        "MODEL_SOURCE",
        "OFFLINE",
        "OPENAI_API_KEY",
        "POSTGRES_IMAGE",
        "POSTGRES_PASSWORD",
        "PROMETHEUS_IMAGE",
        "PYTHON_IMAGE",
        "QDRANT_IMAGE",
        "REDIS_IMAGE",
        "REDIS_PASSWORD",
        "SEAWEEDFS_IMAGE",
        "STACK_API_KEY",
        "STACK_GID",
        "STACK_UID",
        "TOGETHER_API_KEY",
    }
)
"""Exactly the variables of docker-compose*.yaml that are no settings of ours."""

START_NAMES = frozenset(
    {
        "COMPOSE_EXTRA_FILES",
        "COMPOSE_EXTRA_PROFILES",
        "COMPOSE_FILE",
        "COMPOSE_PROFILES",
        "COMPOSE_PROJECT_NAME",
        "DEVICE",
        "GPUS",
        "PULL",
        "TOKENIZER_FOLDER",
    }
)
"""What stands in no compose file: read by `docker compose` itself, or by init.sh alone."""

ENGINE_NAMES = (
    *("ENGINE", "ENGINE_URLS", "ENGINE_CONFIG", "ENGINE_SLOTS", "ENGINE_CONTEXT_TOKENS"),
    *("MODEL_NAME", "EMBEDDINGS_URL", "EMBEDDINGS_NAME"),
)
"""Settings that say where `make start` has its engines. `make local` brings its own."""
