"""Which requests may share an answer: what is deterministic, and what makes two the same. Pure."""

import hashlib
from typing import NamedTuple

import msgspec

from api_server.inference.catalogue import Model
from api_server.services.requests import Generation

VERSION = 1
"""Of what is stored and how; another number, and nothing stored before is found."""

DO_NOT_COUNT = frozenset({"model", "stream", "stream_options", "user", "metadata"})
"""Fields that change nothing in what is answered; the model counts by its id and revision."""

_IN_ORDER = msgspec.json.Encoder(order="sorted")


class Key(NamedTuple):
    """One app's requests with one answer; `digest` is of the app too."""

    app_id: str
    digest: str


def is_deterministic(generation: Generation, model: Model) -> bool:
    """Whether it would be answered alike each time: by its seed, or at temperature 0, be that the
    client's or what applies where it sends none.
    """
    if generation.seed is not None or "seed" in model.defaults:
        return True
    sent = generation.fields.get("temperature")
    if sent is not None:
        return msgspec.json.decode(sent, type=float) == 0
    return model.defaults.get("temperature", model.engine.sampling.get("temperature")) == 0


def revision_of(model: Model, stamp: str) -> str:
    """Changes with whatever decides what a model answers, as far as its entry tells; `stamp` is of
    its file. An engine behind the same URL that gets another model is not seen.
    """
    parts = (
        *(model.id, model.engine.name, model.name_at_engine, model.replicas),
        *(str(model.path or ""), stamp, model.context_tokens, model.handler, model.options),
        *(model.max_input_tokens, model.max_output_tokens, model.context_overflow, model.defaults),
    )
    return hashlib.sha256(_IN_ORDER.encode(parts)).hexdigest()


def key_of(generation: Generation, app_id: str, revision: str) -> Key:
    """Equal for requests that differ in nothing but the order of fields, at any depth, and in
    those that do not count.
    """
    fields = {
        name: msgspec.json.decode(raw)
        for name, raw in generation.fields.items()
        if name not in DO_NOT_COUNT
    }
    limit = generation.most_tokens  # the app's, which may change
    all_of_it = (VERSION, app_id, revision, generation.kind.value, limit, fields)
    return Key(app_id, hashlib.sha256(_IN_ORDER.encode(all_of_it)).hexdigest())
