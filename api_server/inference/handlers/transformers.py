"""Serves Hugging Face models in this process. Needs the extra `transformers`.

Loads local folders only, weights as safetensors only, and runs no code that comes with a model.
torch and transformers are imported when the first model is loaded.
"""

import asyncio
import gc
import logging
import threading
import time
from collections.abc import AsyncGenerator
from functools import partial
from typing import Any

from api_server.errors import ConfigurationError, ResourceNotAvailableError
from api_server.inference.catalogue import Model
from api_server.inference.handlers.base import InferenceHandler, LoadedModel
from api_server.inference.handlers.defaults import completed
from api_server.inference.handlers.options import missing_extra, read_options
from api_server.inference.handlers.threads import Threads
from api_server.inference.handlers.transformers_answer import (
    ReaderLeftError,
    TransformersModel,
    generate,
    is_out_of_memory,
    prompt_tokens,
)
from api_server.inference.in_process.hugging_face import HuggingFaceFolder, read_folder
from api_server.inference.schemas import InferenceRequest, InferenceResponse

OPTIONS = {"device": "cpu", "dtype": "auto"}
"""`device` is torch's name of where the model runs, `dtype` what its weights are converted to."""

DTYPES = ("auto", "float32", "bfloat16", "float16")
LIBRARY_BYTES = 400 * 1024 * 1024
"""An allowance for torch itself and what a forward pass needs beside weights and cache."""

MAX_BEAMS = 16
UNLOAD_SECONDS = 60.0
CHANGES_ITSELF = ("dynamic", "longrope")
"""Kinds of rotary embedding that are recomputed in the model for each request's length."""

log = logging.getLogger(__name__)


class TransformersHandler(InferenceHandler):
    """Hugging Face models, with beam search, `slots` requests at once in a thread each.

    That is safe, since a forward pass leaves nothing in the model: each request has a cache of its
    own. Models that recompute their rotary embedding are the exception: one request at a time.
    An answer found by beam search comes in one piece at its end, also when it is streamed, since no
    word of it is certain before. A generation whose reader leaves ends within one layer's work.
    """

    def can_handle(self, loaded_model: LoadedModel) -> bool:
        return isinstance(loaded_model.model_object, TransformersModel)

    def needed_bytes(self, model: Model) -> int:
        """Weights as loaded, a cache for as many requests as there are slots, and the library.

        Each beam beyond the first takes another cache, which is not counted.
        """
        folder = read_folder(model.path, model.id, _dtype(model))
        cached_tokens = model.slots * _context(model, folder)
        return folder.weight_bytes + folder.kv_bytes_per_token * cached_tokens + LIBRARY_BYTES

    async def load(self, model: Model) -> TransformersModel:
        return await asyncio.to_thread(_load, model)

    async def unload(self, loaded_model: LoadedModel) -> None:
        """Wait for requests that were left and have not ended yet, then let go of the weights."""
        loaded: TransformersModel = loaded_model.model_object
        if not await loaded.threads.aclose(UNLOAD_SECONDS):
            log.warning("a generation does not end", extra={"model": loaded_model.model_id})
        loaded.model = loaded.tokenizer = None
        await asyncio.to_thread(gc.collect)

    async def count_tokens(self, loaded_model: LoadedModel, request: InferenceRequest) -> int:
        """How many tokens the prompt of a request has."""
        tokens = await asyncio.to_thread(prompt_tokens, loaded_model.model_object, request)
        return len(tokens)

    async def stream_infer(
        self, loaded_model: LoadedModel, request: InferenceRequest
    ) -> AsyncGenerator[str | InferenceResponse, None]:
        request = completed(request, loaded_model.config)
        beams = request.params.num_beams or 1
        if beams > MAX_BEAMS:
            raise ConfigurationError(f"num_beams is {beams}; {MAX_BEAMS} is the most here.")
        loaded: TransformersModel = loaded_model.model_object
        work = partial(generate, loaded, loaded_model.config, request, time.monotonic())
        pieces = loaded.threads.stream(work)
        try:
            async for piece in pieces:
                yield piece
        finally:
            await pieces.aclose()


HuggingFaceTransformersHandler = TransformersHandler


def _dtype(model: Model) -> str:
    options = read_options(model, OPTIONS)
    if options["dtype"] not in DTYPES:
        raise ConfigurationError(
            f"models.{model.id}.options.dtype: {options['dtype']!r} is none of {', '.join(DTYPES)}."
        )
    return str(options["dtype"])


def _context(model: Model, folder: HuggingFaceFolder) -> int:
    return min(model.context_tokens or folder.context_tokens, folder.context_tokens)


def _load(model: Model) -> TransformersModel:
    """In a thread: takes seconds to minutes."""
    folder = read_folder(model.path, model.id, _dtype(model))
    try:
        import torch  # noqa: F401, PLC0415 - an extra, and slow; transformers would go on without
        import transformers  # noqa: PLC0415
    except ImportError as exc:
        raise missing_extra(model.id, "transformers", exc) from exc
    transformers.utils.logging.disable_progress_bar()
    local = {"local_files_only": True, "trust_remote_code": False}
    options = read_options(model, OPTIONS)
    try:
        tokenizer = transformers.AutoTokenizer.from_pretrained(folder.path, **local)
        network = transformers.AutoModelForCausalLM.from_pretrained(
            folder.path, dtype=_dtype(model), use_safetensors=True, **local
        )
        network = network.to(str(options["device"])).eval()
    except ImportError as exc:
        raise missing_extra(model.id, "transformers", exc) from exc
    except (OSError, ValueError, KeyError, RuntimeError, MemoryError) as exc:
        if is_out_of_memory(exc):
            raise ResourceNotAvailableError(f"'{model.id}' does not fit into memory.") from exc
        raise ConfigurationError(
            f"models.{model.id}.path: transformers cannot load {folder.path} ({exc})."
        ) from exc
    tokenizer("")  # settles what is set on first use, which is not for several threads
    network.generation_config.cache_implementation = None  # static ones are compiled, and shared
    threads: Threads[InferenceResponse] = Threads(
        1 if _changes_itself(network.config) else model.slots, f"transformers-{model.id}"
    )
    loaded = TransformersModel(
        network, tokenizer, _context(model, folder), threads, threading.local()
    )
    _watch_the_reader(network, loaded.working)
    return loaded


def _changes_itself(config: Any) -> bool:
    described = repr(getattr(config, "rope_parameters", None) or "") + repr(
        getattr(config, "rope_scaling", None) or ""
    )
    return any(kind in described for kind in CHANGES_ITSELF)


def _watch_the_reader(network: Any, working: threading.local) -> None:
    """Between two layers, see whether anybody still waits: a long prompt takes its time."""
    import torch  # noqa: PLC0415

    def check(*_: object) -> None:
        outlet = getattr(working, "outlet", None)
        if outlet is not None and outlet.is_closed:
            raise ReaderLeftError

    for module in network.modules():
        if isinstance(module, torch.nn.ModuleList):
            for layer in module:
                layer.register_forward_pre_hook(check)
