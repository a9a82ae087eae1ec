"""Folds the chunks of a stream into the one answer that a plain request expects. Pure.

Text is joined, tool calls are joined by their index, log probabilities are appended; fields that
OpenAI does not know are kept, the last value wins.
"""

from api_server.errors import InferenceError
from api_server.inference.chunks import merge_tool_call
from api_server.services.requests import Kind
from api_server.services.usage import Json, UsageTally, has_content

_OBJECTS = {Kind.CHAT: "chat.completion", Kind.TEXT: "text_completion"}


class Fold:
    """Feed it every chunk of one stream, then take `answer()`.

    `content_events` is how many pieces of an answer came, for streams that break off.
    """

    def __init__(self, kind: Kind, *, choices_per_prompt: int = 1) -> None:
        self.tally = UsageTally(choices_per_prompt)
        self.finish_reason: str | None = None
        self.content_events = 0
        self._kind = kind
        self._head: Json = {}
        self._choices: dict[int, Json] = {}
        self._texts: dict[tuple[int, str], list[str]] = {}

    def add(self, chunk: Json) -> None:
        """Take in one chunk (a decoded `data` payload)."""
        for key, value in chunk.items():
            if key == "usage" and value is not None:
                self.tally.add(value)
            elif key not in ("choices", "object") and value is not None:
                if key in ("id", "created"):
                    self._head.setdefault(key, value)
                else:
                    self._head[key] = value
        for choice in chunk.get("choices") or ():
            self.content_events += has_content(choice)
            self._add_choice(choice)

    def answer(self) -> Json:
        """The whole answer; choices in the order of their index.

        Raises `InferenceError` where the engine gave none.
        """
        if not self._choices:
            raise InferenceError("The model's engine ended its answer without having begun it.")
        for (index, key), pieces in self._texts.items():
            choice = self._choices[index]
            (choice["message"] if self._kind is Kind.CHAT else choice)[key] = "".join(pieces)
        choices = [self._choices[index] for index in sorted(self._choices)]
        answer = {**self._head, "object": _OBJECTS[self._kind], "choices": choices}
        usage = self.tally.total()
        return answer if usage is None else {**answer, "usage": usage}

    def _add_choice(self, piece: Json) -> None:
        index = piece.get("index", 0)
        choice = self._choices.get(index)
        if choice is None:
            choice = {"index": index, "logprobs": None, "finish_reason": None}
            if self._kind is Kind.CHAT:
                choice["message"] = {"role": "assistant", "content": None, "refusal": None}
            else:
                choice["text"] = ""
            self._choices[index] = choice
        if self._kind is Kind.CHAT:
            self._add_delta(index, choice["message"], piece.get("delta") or {})
        else:
            self._add_text(index, "text", piece.get("text") or "")
        if piece.get("logprobs"):
            choice["logprobs"] = _merge_logprobs(choice["logprobs"], piece["logprobs"])
        if piece.get("finish_reason"):
            self.finish_reason = choice["finish_reason"] = piece["finish_reason"]

    def _add_delta(self, index: int, message: Json, delta: Json) -> None:
        for key, value in delta.items():
            if value is None or key == "role":
                continue
            if key == "tool_calls":
                calls = message.setdefault("tool_calls", [])
                for piece in value:
                    merge_tool_call(calls, piece)
            elif isinstance(value, str):
                self._add_text(index, key, value)
            else:
                message[key] = value

    def _add_text(self, index: int, key: str, text: str) -> None:
        """Pieces are joined once, at the end: each time would take the square of their number."""
        self._texts.setdefault((index, key), []).append(text)


def _merge_logprobs(so_far: Json | None, piece: Json) -> Json:
    merged = dict(so_far or {})
    for key, value in piece.items():
        if isinstance(value, list):
            merged[key] = [*(merged.get(key) or []), *value]
        elif value is not None or key not in merged:
            merged[key] = value
    return merged
