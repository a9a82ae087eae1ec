"""What models in this process make of prompts, defaults and options before they are asked."""

import json
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from safetensors.numpy import save_file

from api_server.errors import ConfigurationError, ContextLengthError, InvalidRequestError
from api_server.inference.catalogue import Model
from api_server.inference.engines import LLAMA_CPP, TRANSFORMERS
from api_server.inference.handlers.base import LoadedModel
from api_server.inference.handlers.defaults import completed
from api_server.inference.handlers.llama_cpp import LlamaCppHandler
from api_server.inference.handlers.options import Option, read_options
from api_server.inference.handlers.prompts import (
    answer_tokens,
    plain_messages,
    without_doubled_start,
)
from api_server.inference.handlers.transformers import (
    HuggingFaceTransformersHandler,
    TransformersHandler,
)
from api_server.inference.in_process.hugging_face import read_folder
from api_server.inference.schemas import GenerationParams, InferenceRequest
from tests.local_stack import REPOSITORY

SHIPPED = REPOSITORY / "models/tiny/tiny-q8_0.gguf"
KV_BYTES_OF_TINY = 4 * 2 * (64 + 64) * 2
"""Layers, key and value heads, their widths, 16 bits."""

MODEL = Model("m", TRANSFORMERS)
MIB = 1024 * 1024


def chat(*messages: dict[str, Any], **fields: Any) -> InferenceRequest:
    return InferenceRequest(model_id="m", messages=messages, **fields)


def test_messages_are_text_and_developers_are_the_system() -> None:
    parts = [{"type": "text", "text": "a"}, {"type": "text", "text": "b"}]
    request = chat(
        {"role": "developer", "content": "be brief"},
        {"role": "user", "content": parts},
        {"role": "assistant", "content": None},
    )
    assert plain_messages(request) == [
        {"role": "system", "content": "be brief"},
        {"role": "user", "content": "a\nb"},
        {"role": "assistant", "content": ""},
    ]


@pytest.mark.parametrize("content", [[{"type": "image_url", "image_url": {}}], 5, [1]])
def test_what_is_no_text_is_refused(content: Any) -> None:
    with pytest.raises(InvalidRequestError, match=r"messages\[0\]"):
        plain_messages(chat({"role": "user", "content": content}))


def test_tools_are_refused() -> None:
    request = chat({"role": "user", "content": "a"}, tools=[{"type": "function"}])
    with pytest.raises(ConfigurationError, match="tools"):
        plain_messages(request)


@pytest.mark.parametrize(
    ("tokens", "start", "expected"),
    [
        ([1, 1, 5], 1, [1, 5]),
        ([1, 5], 1, [1, 5]),
        ([5, 5], 1, [5, 5]),
        ([1], 1, [1]),
        ([7, 7], None, [7, 7]),
    ],
)
def test_a_start_token_stands_once(
    tokens: list[int], start: int | None, expected: list[int]
) -> None:
    assert without_doubled_start(tokens, start) == expected


def test_an_answer_has_the_room_that_is_left() -> None:
    assert answer_tokens(10, 5, 100, MODEL) == 5
    assert answer_tokens(10, None, 100, MODEL) == 90
    assert answer_tokens(99, 5, 100, MODEL) == 1
    with pytest.raises(InvalidRequestError, match="empty"):
        answer_tokens(0, 5, 100, MODEL)


@pytest.mark.parametrize(("prompt_tokens", "most", "context"), [(100, None, 100), (51, 50, 50)])
def test_a_prompt_that_is_too_long_is_told_both_numbers(
    prompt_tokens: int, most: int | None, context: int
) -> None:
    model = Model("m", TRANSFORMERS, max_input_tokens=most)
    with pytest.raises(ContextLengthError) as raised:
        answer_tokens(prompt_tokens, 1, 100, model)
    assert (raised.value.prompt_tokens, raised.value.context_tokens) == (prompt_tokens, context)


def test_a_models_defaults_stand_below_the_request() -> None:
    model = Model(
        "m", TRANSFORMERS, defaults={"temperature": 0.1, "max_tokens": 9}, max_output_tokens=100
    )
    left_open = completed(InferenceRequest(model_id="m", prompt="p"), model).params
    assert (left_open.temperature, left_open.max_new_tokens) == (0.1, 9)
    wanted = GenerationParams(temperature=1.5, max_new_tokens=500)
    asked = completed(InferenceRequest(model_id="m", prompt="p", params=wanted), model).params
    assert (asked.temperature, asked.max_new_tokens) == (1.5, 100)


@pytest.mark.parametrize("defaults", [{"min_p": 0.1}, {"temperature": 3.0}])
def test_a_default_that_cannot_be_is_a_configuration_error(defaults: dict[str, float]) -> None:
    request = InferenceRequest(model_id="m", prompt="p")
    with pytest.raises(ConfigurationError, match=rf"models\.m\.defaults.*{min(defaults)}"):
        completed(request, Model("m", TRANSFORMERS, defaults=defaults))


@pytest.mark.parametrize(
    "fields", [{"prompt": "\ud800"}, {"messages": [{"role": "user", "content": "\ud800"}]}]
)
def test_half_a_surrogate_pair_is_the_callers_error(fields: dict[str, Any]) -> None:
    with pytest.raises(InvalidRequestError, match=r"UTF-8: '\\ud800' is no letter"):
        completed(InferenceRequest(model_id="m", **fields), Model("m", TRANSFORMERS))


def test_options_are_known_by_name_and_type() -> None:
    known: dict[str, Option] = {"device": "cpu", "threads": 0}
    assert read_options(Model("m", TRANSFORMERS, options={"threads": 3}), known) == {
        "device": "cpu",
        "threads": 3,
    }
    with pytest.raises(ConfigurationError, match=r"models\.m\.options\.speed.*device, threads"):
        read_options(Model("m", TRANSFORMERS, options={"speed": 3}), known)
    with pytest.raises(ConfigurationError, match=r"options\.threads: True is no int"):
        read_options(Model("m", TRANSFORMERS, options={"threads": True}), known)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """1000 weights in 16 bits, and a context of 100 tokens in two layers of 3 by 5."""
    (tmp_path / "config.json").write_text(
        json.dumps(
            {
                "num_hidden_layers": 2,
                "num_attention_heads": 6,
                "num_key_value_heads": 3,
                "head_dim": 5,
                "max_position_embeddings": 100,
            }
        )
    )
    save_file({"w": np.zeros((10, 100), np.float16)}, str(tmp_path / "model.safetensors"))
    return tmp_path


@pytest.mark.parametrize(("dtype", "item"), [("auto", 2), ("float32", 4), ("bfloat16", 2)])
def test_a_folder_tells_its_size_without_being_loaded(folder: Path, dtype: str, item: int) -> None:
    head = read_folder(folder, "m", dtype)
    assert head.weight_bytes == 1000 * item
    assert head.kv_bytes_per_token == 2 * 2 * 3 * 5 * item
    assert head.context_tokens == 100


def test_transformers_need_weights_and_a_cache_for_each_slot(folder: Path) -> None:
    handler = TransformersHandler()
    one = handler.needed_bytes(Model("m", TRANSFORMERS, path=folder, slots=1))
    three = handler.needed_bytes(Model("m", TRANSFORMERS, path=folder, slots=3))
    short = Model("m", TRANSFORMERS, path=folder, slots=1, context_tokens=10)
    assert three - one == 2 * 100 * 120
    assert one - handler.needed_bytes(short) == 90 * 120
    assert 0 < one - 1000 * 2 - 100 * 120 < 1024 * MIB


def test_llama_cpp_needs_the_file_and_one_cache() -> None:
    handler = LlamaCppHandler()
    whole = handler.needed_bytes(Model("m", LLAMA_CPP, path=SHIPPED))
    half = handler.needed_bytes(Model("m", LLAMA_CPP, path=SHIPPED, context_tokens=1024))
    assert whole - half == 1024 * KV_BYTES_OF_TINY
    assert 0 < half - SHIPPED.stat().st_size - 1024 * KV_BYTES_OF_TINY < 1024 * MIB


def test_what_is_missing_in_a_folder_is_named(folder: Path) -> None:
    handler = TransformersHandler()
    weights = folder / "model.safetensors"
    whole = weights.read_bytes()
    weights.write_bytes(whole[:-1])
    with pytest.raises(ConfigurationError, match=r"models\.m\.path.*cut short"):
        handler.needed_bytes(Model("m", TRANSFORMERS, path=folder))
    weights.write_bytes(b"\x00")
    with pytest.raises(ConfigurationError, match="no safetensors file"):
        handler.needed_bytes(Model("m", TRANSFORMERS, path=folder))
    weights.rename(folder / "pytorch_model.bin")
    with pytest.raises(ConfigurationError, match=r"no \*\.safetensors"):
        handler.needed_bytes(Model("m", TRANSFORMERS, path=folder))
    for path in (None, folder / "nowhere"):
        with pytest.raises(ConfigurationError, match="is no folder"):
            handler.needed_bytes(Model("m", TRANSFORMERS, path=path))


@pytest.mark.parametrize("path", [None, Path("/nowhere/model.gguf"), Path(__file__)])
def test_a_gguf_that_is_none_is_a_configuration_error(path: Path | None) -> None:
    with pytest.raises(ConfigurationError, match=r"models\.m\.path"):
        LlamaCppHandler().needed_bytes(Model("m", LLAMA_CPP, path=path))


def test_a_dtype_that_nobody_knows_is_a_configuration_error(folder: Path) -> None:
    model = Model("m", TRANSFORMERS, path=folder, options={"dtype": "float3"})
    with pytest.raises(ConfigurationError, match="float3"):
        TransformersHandler().needed_bytes(model)


async def test_without_the_extra_the_error_says_what_to_install(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "torch", None)
    monkeypatch.setitem(sys.modules, "llama_cpp", None)
    with pytest.raises(ConfigurationError, match=r"pip install '\.\[transformers\]'"):
        await TransformersHandler().load(Model("m", TRANSFORMERS, path=folder))
    with pytest.raises(ConfigurationError, match=r"pip install '\.\[llama-cpp\]'"):
        await LlamaCppHandler().load(Model("m", LLAMA_CPP, path=SHIPPED))


def test_the_guides_name_is_the_same_class() -> None:
    assert HuggingFaceTransformersHandler is TransformersHandler
    assert not TransformersHandler().can_handle(LoadedModel(MODEL, object()))
    assert not LlamaCppHandler().can_handle(LoadedModel(MODEL, object()))
