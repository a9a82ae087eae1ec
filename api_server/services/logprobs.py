"""Puts llama-server's log probabilities into OpenAI's shapes, chunk by chunk. Pure.

llama-server answers both kinds of completions in the shape of chats and always gives alternatives.
"""

from api_server.services.requests import Kind
from api_server.services.usage import Json


class LogprobsShape:
    """Translates the chunks of one stream in place. `top` is how many alternatives were asked."""

    def __init__(self, kind: Kind, top: int) -> None:
        self._kind = kind
        self._top = top
        self._offsets: dict[int, int] = {}

    def reshape(self, chunk: Json) -> None:
        """Rewrite the `logprobs` of every choice."""
        for choice in chunk.get("choices") or ():
            logprobs = choice.get("logprobs")
            if logprobs is None:
                continue
            tokens = [self._token(token) for token in logprobs.get("content") or ()]
            if self._kind is Kind.CHAT:
                choice["logprobs"] = {"content": tokens, "refusal": None}
            else:
                choice["logprobs"] = self._legacy(choice.get("index") or 0, tokens)

    def _token(self, token: Json) -> Json:
        alternatives = (token.get("top_logprobs") or [])[: self._top]
        return {**_plain(token), "top_logprobs": [_plain(other) for other in alternatives]}

    def _legacy(self, index: int, tokens: list[Json]) -> Json:
        """Text completions have parallel lists; offsets count characters of the answer."""
        offsets = []
        for token in tokens:
            offsets.append(self._offsets.get(index, 0))
            self._offsets[index] = offsets[-1] + len(token["token"])
        return {
            "tokens": [token["token"] for token in tokens],
            "token_logprobs": [token["logprob"] for token in tokens],
            "top_logprobs": [
                {other["token"]: other["logprob"] for other in token["top_logprobs"]}
                for token in tokens
            ],
            "text_offset": offsets,
        }


def _plain(token: Json) -> Json:
    return {
        "token": token.get("token") or "",
        "logprob": token.get("logprob") or 0.0,
        "bytes": token.get("bytes"),
    }
