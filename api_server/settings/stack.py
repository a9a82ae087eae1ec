"""`configs/stack.yaml` as a whole, and what stands in a model's entry."""

from pathlib import Path
from typing import Literal, Self

from pydantic import Field, field_validator, model_validator

from api_server.inference.engines import ENGINES
from api_server.settings.sections import (
    AdmissionConfig,
    AppsConfig,
    BalancingConfig,
    BreakerConfig,
    CacheConfig,
    GatewayConfig,
    HealthConfig,
    JobsConfig,
    LedgerConfig,
    LocalConfig,
    RetryConfig,
    TimeoutConfig,
)
from api_server.settings.state_sections import AssistantsConfig, FilesConfig, RetrievalConfig
from api_server.settings.values import (
    BaseUrls,
    EngineName,
    ImportPath,
    KeyName,
    ModelId,
    Positive,
    RequestFields,
    Strict,
    Tokens,
)

ONLY_IN_PROCESS = ("path", "context_tokens", "load", "idle_seconds", "handler", "options")
ONLY_OVER_HTTP = (
    *("replicas", "name_at_engine", "api_key_env", "retries", "breaker", "health", "balancing"),
)


class ModelConfig(Strict):
    """One model that clients can name.

    Over HTTP it has `replicas`; an engine that runs in the gateway's own process has a `path`.
    """

    id: ModelId = Field(description="The name clients send as `model`.")
    engine: EngineName = Field("llama-server", description="The kind of program that serves it.")
    serves: Literal["text", "embeddings"] = Field(
        "text", description="text: chats and completions; embeddings: vectors."
    )
    location: Literal["local", "cloud"] = Field(
        "local", description="cloud: somebody else's machines, which get no key but their own."
    )
    replicas: BaseUrls = Field(
        [], max_length=256, description="Base URLs of its engines, without /v1."
    )
    name_at_engine: str | None = Field(
        None, min_length=1, max_length=256, description="What they call it; else they get the id."
    )
    api_key_env: KeyName | None = Field(
        None,
        description="The variable (environment or .env) that holds their key, such as "
        "TOGETHER_API_KEY; it ends in _KEY or _TOKEN. Else ENGINE_API_KEY, for local ones.",
    )
    path: Path | None = Field(
        None, description="In process: a GGUF file or a folder with a model's files."
    )
    context_tokens: Tokens | None = Field(
        None, description="In process: context to allocate; else what it was trained on."
    )
    load: Literal["at_start", "on_demand"] = Field("at_start", description="In process: when.")
    idle_seconds: Positive | None = Field(
        None, description="In process: unloaded after this long without a request; else never."
    )
    handler: ImportPath | None = Field(
        None, description="In process: a class of your own, as package.module:Class."
    )
    options: dict[str, bool | int | float | str] = Field(
        {}, description="In process: what its handler understands."
    )
    slots: int = Field(
        4, ge=1, le=4096, description="What one of its engines does at the same time."
    )
    max_input_tokens: Tokens | None = Field(
        None, description="The longest prompt; `context_overflow` says what becomes of longer ones."
    )
    max_output_tokens: Tokens | None = Field(None, description="The longest answer.")
    context_overflow: Literal["error", "drop_oldest"] = Field(
        "error",
        description="A chat that does not fit: a 400, or its oldest messages are left out.",
    )
    fallbacks: list[ModelId] = Field(
        [], max_length=16, description="Ids of models that answer, in order, when this one cannot."
    )
    defaults: RequestFields = Field(
        {}, description="Request fields that apply where a client sends none."
    )
    timeouts: TimeoutConfig | None = Field(None, description="Over the common ones.")
    retries: RetryConfig | None = Field(None, description="Over the common ones.")
    breaker: BreakerConfig | None = Field(None, description="Over the common one.")
    health: HealthConfig | None = Field(None, description="Over the common one.")
    balancing: BalancingConfig | None = Field(None, description="Over the common one.")

    @property
    def is_in_process(self) -> bool:
        """Whether the gateway's own process runs it."""
        return ENGINES[self.engine].is_in_process

    @model_validator(mode="after")
    def _fits_its_engine(self) -> Self:
        unfit = ONLY_OVER_HTTP if self.is_in_process else ONLY_IN_PROCESS
        wrong = [name for name in unfit if name in self.model_fields_set and getattr(self, name)]
        if self.is_in_process:
            if wrong:
                raise ValueError(
                    f"{wrong[0]} is for engines behind HTTP, and {self.engine} runs in the "
                    "gateway's process: leave it out"
                )
            if self.location == "cloud":
                raise ValueError(f"{self.engine} runs here, so that location cannot be cloud")
            is_custom = ENGINES[self.engine].handler == "custom"
            if is_custom and self.handler is None:
                raise ValueError(
                    f"{self.engine} needs handler: a class of your own, as package.module:Class"
                )
            if self.path is None and not is_custom:
                raise ValueError(
                    f"{self.engine} runs in the gateway's process and needs path: where the "
                    "model's files are"
                )
            return self
        if wrong:
            raise ValueError(
                f"{wrong[0]} is for engines in the gateway's process, and {self.engine} is reached "
                "over HTTP: leave it out"
            )
        if not self.replicas:
            raise ValueError(
                f"{self.engine} is reached over HTTP and needs replicas: a list of base URLs such "
                "as http://127.0.0.1:8080"
            )
        return self

    @model_validator(mode="after")
    def _has_slots(self) -> Self:
        most = ENGINES[self.engine].most_slots
        if most is not None and "slots" in self.model_fields_set and self.slots > most:
            raise ValueError(f"slots: {self.engine} does {most} request at a time: leave it out")
        return self

    @property
    def own_slots(self) -> int:
        """`slots`, or what the engine can do at most."""
        return min(self.slots, ENGINES[self.engine].most_slots or self.slots)

    @model_validator(mode="after")
    def _falls_back_on_others(self) -> Self:
        if self.fallbacks and self.serves == "embeddings":
            raise ValueError(
                "fallbacks: vectors of different models cannot be compared, so that embeddings "
                "have none: leave it out"
            )
        if self.id in self.fallbacks:
            raise ValueError(f"fallbacks: {self.id!r} cannot stand in for itself: leave it out")
        if len(set(self.fallbacks)) < len(self.fallbacks):
            raise ValueError("fallbacks: each model can stand there once")
        return self


class Stack(Strict):
    """`configs/stack.yaml`: how the stack behaves and which models it serves."""

    gateway: GatewayConfig = GatewayConfig()
    timeouts: TimeoutConfig = TimeoutConfig()
    admission: AdmissionConfig = AdmissionConfig()
    retries: RetryConfig = RetryConfig()
    breaker: BreakerConfig = BreakerConfig()
    health: HealthConfig = HealthConfig()
    balancing: BalancingConfig = BalancingConfig()
    ledger: LedgerConfig = LedgerConfig()
    cache: CacheConfig = CacheConfig()
    apps: AppsConfig = AppsConfig()
    jobs: JobsConfig = JobsConfig()
    assistants: AssistantsConfig = AssistantsConfig()
    files: FilesConfig = FilesConfig()
    retrieval: RetrievalConfig = RetrievalConfig()
    models: list[ModelConfig] = Field(min_length=1)
    local: LocalConfig = LocalConfig()

    @field_validator("breaker")
    @classmethod
    def _pause_can_grow(cls, breaker: BreakerConfig) -> BreakerConfig:
        breaker.check_pauses()
        return breaker

    @model_validator(mode="after")
    def _ids_are_unique(self) -> Self:
        ids = [model.id for model in self.models]
        doubled = sorted({id_ for id_ in ids if ids.count(id_) > 1})
        if doubled:
            raise ValueError(f"two models have the id {doubled[0]!r}")
        return self

    @model_validator(mode="after")
    def _each_worker_has_a_place(self) -> Self:
        workers = self.gateway.workers
        for model in self.models:
            places = model.own_slots + self.admission.surplus  # also when one replica alone is left
            if places < workers:
                raise ValueError(
                    f"gateway.workers is {workers}, and they share the {places} "
                    f"places (slots and admission.surplus) of {model.id!r}: fewer workers, please"
                )
            if model.is_in_process and workers > 1:
                raise ValueError(
                    f"gateway.workers is {workers}, and each would load {model.id!r} into its own "
                    "memory: 1 worker, please, or serve that model with an engine behind HTTP"
                )
        return self
