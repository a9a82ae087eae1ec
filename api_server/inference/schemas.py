"""What goes into the inference service and what comes out of it."""

import uuid
from collections.abc import Mapping, Sequence
from typing import Annotated, Any, Literal, Self

from pydantic import BaseModel, ConfigDict, Field, field_validator, model_validator

FinishReason = Literal["stop", "length", "stop_sequence", "tool_calls", "error"]

StopSequence = Annotated[str, Field(min_length=1)]


class GenerationParams(BaseModel):
    """How text is generated. None leaves a choice to the engine.

    `do_sample=False` is greedy decoding, whatever the sampling parameters say. `num_beams` above 1
    is a `ConfigurationError` where the handler has no beam search.
    """

    model_config = ConfigDict(extra="forbid", allow_inf_nan=False)

    max_new_tokens: int | None = Field(256, ge=1)
    temperature: float | None = Field(0.7, ge=0.0, le=2.0)
    top_p: float | None = Field(None, ge=0.0, le=1.0)
    top_k: int | None = Field(None, ge=0)
    repetition_penalty: float | None = Field(None, ge=1.0)
    do_sample: bool | None = True
    num_beams: int | None = Field(1, ge=1)
    early_stopping: bool | None = False

    @property
    def is_greedy(self) -> bool:
        """Whether always the likeliest token is taken."""
        return self.do_sample is False or self.temperature == 0.0


class InferenceRequest(BaseModel):
    """One generation: a `prompt` that is continued as it stands, or `messages` of a chat.

    `tools` are OpenAI's, for chats on engines that know them. `request_id` is in every log line of
    the request; it must be printable ASCII.
    """

    model_config = ConfigDict(extra="forbid")

    model_id: str
    prompt: str | None = None
    messages: Sequence[Mapping[str, Any]] | None = None
    tools: Sequence[Mapping[str, Any]] | None = None
    params: GenerationParams = Field(default_factory=GenerationParams)
    stream: bool = False
    request_id: str = Field(
        default_factory=lambda: str(uuid.uuid4()), pattern=r"^[\x21-\x7e]{1,128}$"
    )
    stop_sequences: list[StopSequence] | None = None

    @field_validator("params", mode="before")
    @classmethod
    def _are_never_none(cls, value: object) -> object:
        return GenerationParams() if value is None else value

    @model_validator(mode="after")
    def _has_one_input(self) -> Self:
        if (self.prompt is None) == (self.messages is None):
            raise ValueError("a request has either a prompt or messages")
        if self.tools and self.messages is None:
            raise ValueError("tools need messages")
        return self


class ToolCall(BaseModel):
    """A function that the model wants to be called; `arguments` is JSON as the model wrote it."""

    id: str
    name: str
    arguments: str


class InferenceResponse(BaseModel):
    """What became of a request: text and why it ended, or an error in a sentence.

    Counts are in tokens, None where the engine tells none. `inference_time_ms` is in milliseconds.
    """

    request_id: str
    model_id: str
    generated_text: str | None = None
    tool_calls: list[ToolCall] = Field(default_factory=list)
    error_message: str | None = None
    finish_reason: FinishReason | None = None
    prompt_tokens: int | None = None
    generated_tokens: int | None = None
    inference_time_ms: float | None = None
