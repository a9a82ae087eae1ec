"""The sections of `configs/stack.yaml` other than the models: what may stand there, with bounds."""

from pathlib import Path
from typing import Literal

from pydantic import Field

from api_server.settings.values import ModelId, Origin, Positive, RequestFields, Strict


class CorsConfig(Strict):
    """Which web pages may use the API from a browser. With no origins, none may."""

    origins: list[Origin] = Field(
        [], max_length=100, description="Such as https://chat.example.com, or * for all."
    )
    max_age_seconds: int = Field(
        600, ge=0, le=86400, description="So long a browser remembers what it may do."
    )


class AppsConfig(Strict):
    """Where apps come from, besides the command line and /admin."""

    seed: Path | None = Field(
        None, description="A file with app codes, YAML or JSON, that is applied at each start."
    )


class GatewayConfig(Strict):
    """Bounds of the HTTP side."""

    max_body_bytes: int = Field(
        10 * 1024 * 1024, ge=1024, description="Larger request bodies get 413."
    )
    body_timeout_seconds: Positive = Field(
        30, description="A request body must arrive within this time, else 408."
    )
    drain_seconds: Positive = Field(
        30, description="After SIGTERM, running answers may go on for this long."
    )
    workers: int = Field(1, ge=1, le=64, description="Processes that serve; each on its own core.")
    cors: CorsConfig = CorsConfig()


class TimeoutConfig(Strict):
    """How long a request waits in each phase, in seconds."""

    queue_seconds: Positive = Field(
        10, description="For a free slot, and for an engine that is down to come back."
    )
    connect_seconds: Positive = Field(2, description="To open a connection to an engine.")
    first_token_seconds: Positive = Field(60, description="Until the engine's first event.")
    idle_seconds: Positive = Field(30, description="Between two events of an engine.")
    total_seconds: Positive = Field(600, description="For the whole answer.")


class AdmissionConfig(Strict):
    """How many requests an engine gets and how many wait for it, for each model."""

    surplus: int = Field(
        1, ge=0, le=64, description="Requests in an engine beyond its slots, so that none idles."
    )
    queue_size: int = Field(
        128, ge=0, le=100_000, description="Requests that may wait; beyond it 429."
    )


class CacheConfig(Strict):
    """Answers that are kept in Redis for requests that ask for it (docs/cache.md)."""

    ttl_seconds: Positive = Field(3600, description="An answer is given again for so long.")
    max_entry_bytes: int = Field(
        1024 * 1024, ge=1024, le=64 * 1024 * 1024, description="Longer answers are not kept."
    )
    max_app_bytes: int = Field(
        64 * 1024 * 1024, ge=1024, description="Of each app; its oldest answers make room."
    )


class RetryConfig(Strict):
    """How a request that got no answer is tried again, within `timeouts.queue_seconds`."""

    first_delay_seconds: Positive = Field(0.1, description="Doubled each time, with full jitter.")
    max_delay_seconds: Positive = Field(2, description="The longest pause between two tries.")
    resends: int = Field(
        1, ge=0, le=10, description="Of a request that an engine has seen and not answered."
    )
    budget: float = Field(
        0.2, ge=0, le=1, description="All of those together, as a share of a model's requests."
    )


class BreakerConfig(Strict):
    """When a replica that fails is left out, and for how long."""

    failures: int = Field(3, ge=1, le=1000, description="So many in a row open its breaker.")
    open_seconds: Positive = Field(1, description="Then it gets nothing, before one trial.")
    max_open_seconds: Positive = Field(
        30, description="The longest such pause: each failed trial doubles it."
    )

    def check_pauses(self) -> None:
        """Raises `ValueError` where the pause could not grow.

        For whoever has the whole section: a model's own says only what differs from the common one.
        """
        if self.max_open_seconds < self.open_seconds:
            raise ValueError(
                f"max_open_seconds ({self.max_open_seconds:g}) is less than open_seconds "
                f"({self.open_seconds:g}); make it the same at least"
            )


class HealthConfig(Strict):
    """How replicas are watched while nobody uses them."""

    interval_seconds: Positive = Field(2, description="Each replica is asked so often.")


class BalancingConfig(Strict):
    """How one of several replicas is chosen: the least busy, or the one that knows the prompt."""

    prefix_affinity: bool = Field(
        True,  # noqa: FBT003 - pydantic's way to say a default
        description="A conversation stays with its replica, whose cache knows it.",
    )
    affinity_load: float = Field(
        2.0, ge=1, le=100, description="But not with one that has so many times the mean load."
    )
    slow_start_seconds: Positive = Field(
        10, description="Until a replica that came back has its full share."
    )


class LedgerConfig(Strict):
    """How long it is known who used what; where there is a database."""

    retention_days: int = Field(
        400, ge=1, le=36_500, description="Months that ended so long ago are dropped."
    )
    spool_mib: int = Field(
        1024, ge=1, description="Rows that wait for PostgreSQL may take so much of the disk."
    )


class LocalConfig(Strict):
    """The engines that `make local` starts."""

    model: Path = Field(
        Path("models/tiny/tiny-q8_0.gguf"), description="GGUF file; MODEL overrides it."
    )
    slots: int = Field(4, ge=1, le=64, description="Generations at the same time.")
    context_tokens: int = Field(
        4096, ge=256, description="Per slot; less where the model was trained on less."
    )
    threads: int = Field(0, ge=0, description="0: one less than the cores, at least 1.")
    context_overflow: Literal["error", "drop_oldest"] = Field(
        "error", description="As in a model's entry."
    )
    defaults: RequestFields = Field({"temperature": 0.7}, description="As in a model's entry.")
    tiny_defaults: RequestFields = Field(
        {"temperature": 0.0}, description="The same for the shipped tiny model."
    )
    embeddings: bool = Field(
        False,  # noqa: FBT003 - pydantic's way to say a default
        description="Start a second engine, for embeddings; EMBEDDINGS overrides it.",
    )
    embedding_slots: int = Field(2, ge=1, le=64, description="Texts embedded at the same time.")
    embedding_context_tokens: int = Field(
        512, ge=64, description="Of one text; less where the model was trained on less."
    )
    start_seconds: Positive = Field(300, description="For an engine to load its model.")
    hang_seconds: Positive = Field(
        15, description="An engine silent on /health for this long is restarted."
    )


class JobsConfig(Strict):
    """Requests that are accepted now and answered later (`POST /ai_request`)."""

    queue_size: int = Field(
        10_000, ge=1, le=1_000_000, description="Jobs that may wait; QUEUE_MAX_SIZE overrides it."
    )
    workers: int = Field(
        4, ge=0, le=1024, description="Jobs that each gateway process does at once; 0: none."
    )
    worker_slots: int = Field(
        16, ge=1, le=1024, description="The same of each `python -m api_server worker`."
    )
    timeout_seconds: Positive = Field(
        300, description="How long a job waits, and then runs; REQUEST_TIMEOUT overrides it."
    )
    max_attempts: int = Field(
        3, ge=1, le=100, description="Times a job is begun whose workers die of it."
    )
    lease_seconds: float = Field(
        15, ge=1, le=3600, description="A worker silent for so long loses its jobs to others."
    )
    retention_days: float = Field(
        7, gt=0, le=3650, description="Results are kept for so long, then they are a 404."
    )
    polling_needs_owner: bool = Field(
        False,  # noqa: FBT003 - pydantic's way to say a default
        description="true: the id alone is not enough to read a result.",
    )
    default_model: ModelId | None = Field(
        None, description="For request types that name none; else the first that serves text."
    )
    most_sockets: int = Field(
        1000, ge=0, le=100_000, description="WebSockets of a gateway process that watch jobs."
    )
    max_request_bytes: int = Field(
        262_144, ge=1, le=100_000_000, description="The longest text of a job; longer ones get 413."
    )
