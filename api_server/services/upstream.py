"""Writes the body that goes up to an engine: what the client sent, translated where it must. Pure.

Fields that nobody here knows reach the engine untouched.
"""

import msgspec

from api_server.errors import InvalidRequestError
from api_server.inference.catalogue import Model
from api_server.inference.engines import Engine
from api_server.services.requests import EmbeddingJob, Fields, Generation, Kind

DEFAULT_TEXT_TOKENS = 16
"""OpenAI's `max_tokens` of text completions. A chat goes on until the model ends it."""

MAX_GRAMMAR_GROUPS = 1000
"""100,000 nested ones were seen to crash llama-server."""

_ANSWER_LIMITS = ("max_tokens", "max_completion_tokens")
_TRUE = msgspec.Raw(b"true")
_REQUIRED = msgspec.Raw(b'"required"')
_WITH_USAGE = msgspec.Raw(b'{"include_usage":true}')


class _Tool(msgspec.Struct):
    class Function(msgspec.Struct):
        name: str

    function: Function


class _Part(msgspec.Struct):
    type: str


class _Contents(msgspec.Struct):
    content: str | list[_Part] | None = None


def generation_body(generation: Generation, model: Model, *, as_stream: bool) -> bytes:
    """Defaults below, the client's fields on top. Raises `InvalidRequestError` for what the engine
    cannot honour, which names the parameter.
    """
    engine = model.engine
    fields = generation.fields
    if engine.refused_fields or engine.unsupported:
        _refuse_what_cannot_be_honoured(fields, model)
    if engine.prompt_is_one_text and generation.kind is Kind.TEXT:
        _check_prompt(fields, model)
    if engine.parts is not None and generation.kind is Kind.CHAT:
        _check_parts(fields, engine.parts, model)
    body: dict[str, object] = {**engine.sampling}
    if generation.kind is Kind.TEXT:
        body["max_tokens"] = DEFAULT_TEXT_TOKENS
    body.update(model.defaults)
    body.update(fields)
    body["model"] = model.name_at_engine or model.id
    for name, known_as in engine.renamed_fields.items():
        if name in fields:
            body[known_as] = body.pop(name)
    bounds = [each for each in (model.max_output_tokens, generation.most_tokens) if each]
    if bounds:
        _cap_answer(generation.kind, body, min(bounds), engine)
    if not engine.has_openai_details:
        _translate_details(generation, body)
    if engine.seeds is not None and generation.seed is not None:
        body["seed"] = _seed_among(engine.seeds, generation.seed)
    if as_stream:
        body["stream"] = _TRUE
        body["stream_options"] = _WITH_USAGE
    return msgspec.json.encode(body)


def embeddings_bodies(job: EmbeddingJob, model: Model) -> list[bytes]:
    """The request in parts of as many inputs as the engine has slots: it does no more at once.

    `dimensions` stays here: it is checked against what comes back.
    """
    fields: dict[str, object] = {**job.fields, "model": model.name_at_engine or model.id}
    fields.pop("dimensions", None)
    if job.inputs <= model.slots:
        return [msgspec.json.encode(fields)]
    inputs = msgspec.json.decode(job.fields["input"], type=list[msgspec.Raw])
    parts = (inputs[start : start + model.slots] for start in range(0, len(inputs), model.slots))
    return [msgspec.json.encode({**fields, "input": part}) for part in parts]


def _cap_answer(kind: Kind, body: dict[str, object], most: int, engine: Engine) -> None:
    """The smaller of our limit and what is asked for, under whichever name; ours where nothing is.

    Text completions know `max_tokens` only, and always have it by now.
    """
    names = [name for name in _ANSWER_LIMITS if name in body]
    for name in names:
        asked = body[name]
        tokens = msgspec.json.decode(asked) if isinstance(asked, msgspec.Raw) else asked
        if not isinstance(tokens, int | float) or tokens > most:
            body[name] = most
    if not names:
        name = "max_completion_tokens" if kind is Kind.CHAT else "max_tokens"
        body[engine.renamed_fields.get(name, name)] = most


def _check_grammar(fields: Fields) -> None:
    """Deeper ones overflow the stack of llama-server's parser, and end it for everybody."""
    grammar = fields.get("grammar")
    if grammar is not None and bytes(grammar).count(b"(") > MAX_GRAMMAR_GROUPS:
        raise InvalidRequestError(
            f"grammar: {MAX_GRAMMAR_GROUPS} groups in parentheses are the most here.",
            param="grammar",
        )


def _refuse_what_cannot_be_honoured(fields: Fields, model: Model) -> None:
    engine = model.engine
    _check_grammar(fields)
    refused = engine.refused_fields.intersection(fields)
    if refused:
        name = min(refused)
        raise InvalidRequestError(f"{name} is not available here; leave it out.", param=name)
    for name in sorted(engine.unsupported.keys() & fields.keys()):
        allowed = engine.unsupported[name]
        if not _is_among(allowed, msgspec.json.decode(fields[name])):
            only = " or ".join(msgspec.json.encode(value).decode() for value in allowed)
            hint = f"only {only} is" if only else "it is not"
            raise InvalidRequestError(
                f"{name}: {hint} supported by the engine of '{model.id}'; leave it out.", param=name
            )


def _is_among(allowed: tuple[object, ...], value: object) -> bool:
    """`in`, but for Python's belief that 1 is True."""
    is_truth = isinstance(value, bool)
    return any(value == each and isinstance(each, bool) is is_truth for each in allowed)


def _check_prompt(fields: Fields, model: Model) -> None:
    prompt = msgspec.json.decode(fields["prompt"])
    is_text = isinstance(prompt, str)
    if not is_text and not (len(prompt) == 1 and isinstance(prompt[0], str)):
        raise InvalidRequestError(
            f"prompt: the engine of '{model.id}' takes one text in a request, no token ids; send "
            "several requests.",
            param="prompt",
        )


def _check_parts(fields: Fields, known: frozenset[str], model: Model) -> None:
    for message in msgspec.json.decode(fields["messages"], type=list[_Contents]):
        if isinstance(message.content, list):
            for part in message.content:
                if part.type not in known:
                    raise InvalidRequestError(
                        f"messages: the engine of '{model.id}' takes no content of type "
                        f"'{part.type[:50]}'.",
                        param="messages",
                    )


def _seed_among(seeds: range, seed: int) -> int:
    return seed if seed in seeds else seeds[seed % len(seeds)]


def _translate_details(generation: Generation, body: dict[str, object]) -> None:
    """What engines say differently: whether tools may be called, log probabilities."""
    fields = generation.fields
    if generation.calls_no_tools:  # a model that sees tools calls them, if only in its text
        body.pop("tools", None)
        body.pop("tool_choice", None)
        body.pop("parallel_tool_calls", None)
    if generation.named_tool is not None:
        tools = msgspec.json.decode(fields["tools"], type=list[msgspec.Raw])
        body["tools"] = [tool for tool in tools if _name_of(tool) == generation.named_tool]
        body["tool_choice"] = _REQUIRED
    if generation.top_logprobs is not None:
        # The engine gives none at all for 0, so that 1 is the least to ask for.
        name = "top_logprobs" if generation.kind is Kind.CHAT else "n_probs"
        body[name] = max(1, generation.top_logprobs)
        if generation.kind is Kind.TEXT:
            body.pop("logprobs", None)


def _name_of(tool: msgspec.Raw) -> str:
    return msgspec.json.decode(tool, type=_Tool).function.name
