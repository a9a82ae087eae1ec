"""One llama-server of `make local`: what it is asked for, how it is watched, how it is listed."""

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from api_server.errors import ApiError, SetupError
from api_server.inference.catalogue import Model
from api_server.inference.engines import LLAMA_SERVER
from api_server.inference.handlers.engine_client import EngineClient
from api_server.local.plan import EnginePlan
from api_server.local.process import Command
from api_server.local.supervisor import Supervisor, Watch
from api_server.local.terminal import Say
from api_server.settings import LocalConfig, engine_environment

ENGINE_STOP_SECONDS = 1.0


@dataclass(frozen=True)
class LocalEngine:
    """An engine of one run, on a loopback port. `key` is what it wants as bearer token."""

    plan: EnginePlan
    port: int
    key: str = field(repr=False)

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    @property
    def name(self) -> str:
        return "the engine" if self.plan.serves == "text" else "the embedding engine"

    @property
    def log_name(self) -> str:
        return "engine.log" if self.plan.serves == "text" else "embedding_engine.log"

    def entry(self, **more: Any) -> dict[str, Any]:
        """Its entry in the stack file, with more of the keys of `settings.ModelConfig`."""
        return {
            "id": self.plan.model_id,
            "engine": LLAMA_SERVER.name,
            "serves": self.plan.serves,
            "replicas": [self.url],
            "slots": self.plan.slots,
            **more,
        }

    def supervisor(self, binary: Path, config: LocalConfig, logs: Path, say: Say) -> Supervisor:
        """What starts it and keeps it up. `binary` is a llama-server."""
        model = Model(
            id=self.plan.model_id,
            engine=LLAMA_SERVER,
            serves=self.plan.serves,
            replicas=(self.url,),
            api_key=self.key,
        )
        handler = EngineClient(model)
        command = Command(
            name=self.name,
            argv=[str(binary), *self.plan.arguments(self.port)],
            environment=engine_environment() | {"LLAMA_API_KEY": self.key},
            log_path=logs / self.log_name,
        )
        watch = Watch(
            is_ready=handler.is_ready,
            verify=lambda: self._verify(handler),
            start_seconds=config.start_seconds,
            hang_seconds=config.hang_seconds,
            stop_seconds=ENGINE_STOP_SECONDS,
        )
        return Supervisor(command, watch, say)

    async def _verify(self, handler: EngineClient) -> None:
        """The engine must have the slots and the context that we asked for."""
        plan = self.plan
        try:
            props = await handler.get_json("/props")
        except ApiError as exc:
            raise SetupError(f"{self.name} does not tell its slots: {exc.message}") from exc
        slots = props.get("total_slots")
        generation = props.get("default_generation_settings")
        context = generation.get("n_ctx") if isinstance(generation, dict) else None
        if slots != plan.slots or not isinstance(context, int) or context < plan.context_tokens:
            prefix = plan.settings_prefix
            raise SetupError(
                f"{self.name} runs {slots} slots of {context} tokens, not the {plan.slots} of "
                f"{plan.context_tokens} asked for. Change {prefix}slots or {prefix}context_tokens."
            )
