"""Writes answers of models in this process as OpenAI does, event by event or whole. Pure."""

from collections.abc import Mapping

import msgspec

from api_server.inference.in_process.body import CHAT_PATH
from api_server.inference.schemas import FinishReason, InferenceResponse

DONE = b"data: [DONE]\n\n"

_REASONS: Mapping[FinishReason | None, str] = {"length": "length", "tool_calls": "tool_calls"}
"""All others are a stop."""


class AnswerEvents:
    """The events of one answer. `created` is Unix time; `answer_id` without a prefix."""

    def __init__(self, path: str, model_id: str, answer_id: str, created: int) -> None:
        self._is_chat = path == CHAT_PATH
        self._head: dict[str, object] = {
            "id": ("chatcmpl-" if self._is_chat else "cmpl-") + answer_id,
            "object": "chat.completion.chunk" if self._is_chat else "text_completion",
            "created": created,
            "model": model_id,
        }

    def opening(self) -> bytes:
        """What comes before the first text; nothing for a text completion."""
        if not self._is_chat:
            return b""
        return self._event(self._choice({"role": "assistant", "content": ""}, None))

    def text(self, piece: str) -> bytes:
        """One piece of text."""
        return self._event(self._choice({"content": piece} if self._is_chat else piece, None))

    def ending(self, summary: InferenceResponse, *, with_usage: bool) -> bytes:
        """Why the text ended, its usage if that is wanted and known, and `[DONE]`."""
        reason = _REASONS.get(summary.finish_reason, "stop")
        last = self._event(self._choice({} if self._is_chat else "", reason))
        usage = _usage(summary)
        if with_usage and usage is not None:
            last += self._event(None, usage)
        return last + DONE

    def whole(self, text: str, summary: InferenceResponse) -> bytes:
        """The answer in one piece, as JSON."""
        reason = _REASONS.get(summary.finish_reason, "stop")
        choice: dict[str, object] = {"index": 0, "logprobs": None, "finish_reason": reason}
        if self._is_chat:
            choice["message"] = {"role": "assistant", "content": text, "refusal": None}
        else:
            choice["text"] = text
        kind = "chat.completion" if self._is_chat else "text_completion"
        answer = {**self._head, "object": kind, "choices": [choice]}
        if (usage := _usage(summary)) is not None:
            answer["usage"] = usage
        return msgspec.json.encode(answer)

    def _choice(self, content: object, reason: str | None) -> dict[str, object]:
        name = "delta" if self._is_chat else "text"
        return {"index": 0, name: content, "logprobs": None, "finish_reason": reason}

    def _event(self, choice: object | None, usage: object | None = None) -> bytes:
        chunk = {**self._head, "choices": [] if choice is None else [choice]}
        if usage is not None:
            chunk["usage"] = usage
        return b"data: " + msgspec.json.encode(chunk) + b"\n\n"


def _usage(summary: InferenceResponse) -> dict[str, int] | None:
    prompt, generated = summary.prompt_tokens, summary.generated_tokens
    if prompt is None or generated is None:
        return None
    return {
        "prompt_tokens": prompt,
        "completion_tokens": generated,
        "total_tokens": prompt + generated,
    }
