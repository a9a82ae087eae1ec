"""What a handler is: the way to one kind of model. Custom handlers inherit from it."""

from abc import ABC, abstractmethod
from collections.abc import AsyncGenerator
from contextlib import aclosing
from dataclasses import dataclass
from typing import Any

from api_server.errors import ConfigurationError
from api_server.inference.catalogue import Model
from api_server.inference.schemas import InferenceRequest, InferenceResponse
from api_server.inference.stop_sequences import summary_of, until_stop


@dataclass(frozen=True, eq=False)
class LoadedModel:
    """A model ready for use: its entry in the catalogue, and what its handler loaded for it."""

    config: Model
    model_object: Any

    @property
    def model_id(self) -> str:
        return self.config.id


class InferenceHandler(ABC):
    """Serves models of one kind. One object serves many models and requests at the same time.

    Errors of a library or an engine are raised as `ApiError`s (`InferenceError`,
    `ResourceNotAvailableError`, ...), what cannot work as the model is configured or the request is
    made as `ConfigurationError`.
    """

    @abstractmethod
    def can_handle(self, loaded_model: LoadedModel) -> bool:
        """Whether this handler serves that model; look at its `model_object` or `config`."""

    @abstractmethod
    def stream_infer(
        self, loaded_model: LoadedModel, request: InferenceRequest
    ) -> AsyncGenerator[str | InferenceResponse, None]:
        """Pieces of text, none empty; then, at most once and last, a response that sums up.

        The summary has no `generated_text`. Without one the reason is taken to be `stop` and the
        counts stay unknown. Stop sequences are looked after by the service: what a handler knows
        better (an engine that stops by itself) only saves time. Closing the generator, or
        cancelling the task, ends the generation.
        """

    async def infer(
        self, loaded_model: LoadedModel, request: InferenceRequest
    ) -> InferenceResponse:
        """The whole answer: here, all pieces of a stream up to a stop sequence."""
        pieces: list[str] = []
        summary = summary_of(request, "stop")
        async with aclosing(until_stop(self.stream_infer(loaded_model, request), request)) as text:
            async for piece in text:
                if isinstance(piece, str):
                    pieces.append(piece)
                else:
                    summary = piece
        return summary.model_copy(update={"generated_text": "".join(pieces)})

    async def count_tokens(
        self,
        loaded_model: LoadedModel,  # noqa: ARG002 - for those who override it
        request: InferenceRequest,  # noqa: ARG002
    ) -> int | None:
        """How many tokens the prompt has, without answering it; None where nobody can tell."""
        return None

    def needed_bytes(self, model: Model) -> int:  # noqa: ARG002 - for those who override it
        """How much memory `load` will take, estimated without loading; 0 for next to nothing."""
        return 0

    async def load(self, model: Model) -> Any:
        """Make the `model_object`; slow work belongs into a thread. Here: the model's entry."""
        return model

    async def unload(self, loaded_model: LoadedModel) -> None:  # noqa: B027 - may do nothing
        """Give back what `load` took; no request is running."""


def refuse_beams(request: InferenceRequest, what: str) -> None:
    """Raise `ConfigurationError` for a beam search where there is none."""
    if (request.params.num_beams or 1) > 1:
        raise ConfigurationError(
            f"num_beams is {request.params.num_beams}, and {what} has no beam search; leave it at "
            "1, or use a model that transformers serves in process."
        )
