"""Flags and errors that come of an engine's file; tests/e2e and tests/max ask the real engines."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from pydantic import BaseModel

from api_server.errors import ConfigurationError, SetupError
from api_server.planning.flags import (
    GATEWAY,
    KEYS,
    LlamaCppPlan,
    MaxPlan,
    check_llama_cpp,
    check_max,
    check_name,
    llama_cpp_flags,
    max_encoding,
    max_flags,
)
from api_server.planning.max_sizing import LLAMA_8B_BF16, MaxShape, choose_on_cpu, choose_on_gpu
from api_server.planning.model_size import measure
from api_server.planning.planner import Machine, ModelNames, plan_llama_cpp, plan_max
from api_server.planning.sizing import LLAMA_8B_Q4, ModelSize, Shape, Wishes
from api_server.settings.engine_file import EngineConfig, load_engine_config
from tests.local_stack import REPOSITORY

GPU = Machine((24576,), 64_000, 16)
CPU = Machine((), 64_000, 16)
LLAMA = ModelNames("llama", "llama-q4_k_m.gguf")
FOLDER = ModelNames("llama", "llama-bf16")


def leaves(model: type[BaseModel], prefix: str = "") -> Iterator[str]:
    for name, field in model.model_fields.items():
        kind = field.annotation
        if isinstance(kind, type) and issubclass(kind, BaseModel):
            yield from leaves(kind, f"{prefix}{name}.")
        else:
            yield prefix + name


def config_of(**sections: dict[str, Any]) -> EngineConfig:
    return EngineConfig.model_validate(sections)


def shipped(name: str) -> EngineConfig:
    return load_engine_config(REPOSITORY / "configs" / name)


def test_every_key_is_somebodys_for_each_engine() -> None:
    assert set(KEYS) == set(leaves(EngineConfig))
    assert all(set(engines) == {"llama-cpp", "max"} for engines in KEYS.values())
    text = (REPOSITORY / "docs/engine-plan.md").read_text(encoding="utf-8")
    for key, engines in KEYS.items():
        row = next(line for line in text.splitlines() if line.startswith(f"| `{key}`"))
        assert all(words in row.replace("`", "") for words in engines.values()), key


CHANGES = {
    "batching.max_batch_size": 2,
    "inference.context_length": 2048,
    "memory.kv_cache_type": "f16",
    "memory.prompt_cache_mib": 17,
    "batching.max_wait_time_ms": 10,
    "batching.timeout_ms": 5000,
    "inference.max_tokens": 5,
    "inference.temperature": 0.1,
}


@pytest.mark.parametrize("key", KEYS)
@pytest.mark.parametrize("engine", ["llama-cpp", "max"])
def test_a_change_of_a_key_changes_the_flag_that_is_named_or_is_refused(
    engine: str, key: str
) -> None:
    def flags(config: EngineConfig) -> list[str]:
        if engine == "llama-cpp":
            return plan_llama_cpp(config, LLAMA_8B_Q4, LLAMA, GPU).values["LLAMA_CPP_FLAGS"].split()
        return plan_max(config, LLAMA_8B_BF16, FOLDER, GPU).values["MAX_FLAGS"].split()

    section, _, name = key.partition(".")
    config = config_of(**{section: {name: CHANGES[key]}})
    said = KEYS[key][engine]
    before = flags(EngineConfig())
    if said.endswith(" only"):
        with pytest.raises(ConfigurationError, match=f"^{key}: "):
            flags(config)
        return
    after = flags(config)
    if said == GATEWAY:
        assert after == before
        return
    for flag in said.split(", "):
        assert after[after.index(flag) + 1] != before[before.index(flag) + 1]


def test_the_shipped_files_are_planned() -> None:
    assert plan_llama_cpp(shipped("llama-cpp-config.yaml"), LLAMA_8B_Q4, LLAMA, GPU)
    planned = plan_max(shipped("max-serve-config.yaml"), LLAMA_8B_BF16, FOLDER, GPU)
    assert planned.values["ENGINE_SLOTS"] == "32"
    assert planned.values["ENGINE_CONTEXT_TOKENS"] == "8192"
    assert "Only 5 of them can be that long at once; further ones wait in MAX." in planned.said


def test_llama_server_on_a_gpu() -> None:
    flags = " ".join(llama_cpp_flags(LlamaCppPlan(Shape(32, 4096, "q8_0"), 2048)))
    assert flags == (
        "-ngl all -fit off -fa on --parallel 32 --ctx-size 131072 --cache-type-k q8_0 "
        "--cache-type-v q8_0 --cache-ram 2048 --metrics --slots --jinja --no-webui"
    )


def test_llama_server_on_the_cpu_has_threads_and_nothing_of_a_gpu() -> None:
    flags = llama_cpp_flags(LlamaCppPlan(Shape(4, 4096, "f16"), 0, threads=7))
    assert flags[:2] == ["--threads", "7"]
    assert "-ngl" not in flags
    for cores, threads in {1: 1, 2: 1, 8: 7}.items():
        machine = Machine((), 64_000, cores)
        planned = plan_llama_cpp(EngineConfig(), LLAMA_8B_Q4, LLAMA, machine)
        assert f"--threads {threads} " in planned.values["LLAMA_CPP_FLAGS"]


def test_several_gpus_are_planned_for_the_smallest_and_share_the_machines_memory() -> None:
    machine = Machine((24576, 16376, 24576, 24576), 16_000, 16)
    planned = plan_llama_cpp(EngineConfig(), LLAMA_8B_Q4, LLAMA, machine)
    assert planned.values["ENGINE_SLOTS"] == "16"
    assert "--cache-ram 1280 " in planned.values["LLAMA_CPP_FLAGS"]
    assert "They differ (24 GiB, 16 GiB, 24 GiB, 24 GiB): all are planned for the smallest." in (
        planned.said
    )
    alike = Machine((24576, 24564), 16_000, 16)
    said = plan_llama_cpp(EngineConfig(), LLAMA_8B_Q4, LLAMA, alike).said
    assert not any("differ" in sentence for sentence in said)
    unlike = Machine((81559, 49140), 64_000, 16)
    planned = plan_max(EngineConfig(), LLAMA_8B_BF16, FOLDER, unlike)
    assert any("share a cache of 223083 tokens" in sentence for sentence in planned.said)


def test_an_engine_that_needs_more_of_the_machine_is_given_more() -> None:
    config = config_of(memory={"prompt_cache_mib": 20_480})
    values = plan_llama_cpp(config, LLAMA_8B_Q4, LLAMA, GPU).values
    assert values["ENGINE_MEMORY"] == "24g"
    assert "ENGINE_MEMORY" not in plan_llama_cpp(EngineConfig(), LLAMA_8B_Q4, LLAMA, GPU).values


@pytest.mark.parametrize(("dtype", "weight_bytes"), [("auto", 128), ("float32", 256)])
def test_a_folder_is_measured_with_its_cache_in_16_bits(
    tmp_path: Path, dtype: str, weight_bytes: int
) -> None:
    config = {"num_hidden_layers": 2, "num_attention_heads": 4, "num_key_value_heads": 2}
    config |= {"hidden_size": 32, "max_position_embeddings": 512}
    (tmp_path / "config.json").write_text(json.dumps(config))
    head = {"w": {"dtype": "BF16", "shape": [8, 8], "data_offsets": [0, 128]}}
    text = json.dumps(head).encode()
    weights = len(text).to_bytes(8, "little") + text + bytes(128)
    (tmp_path / "m.safetensors").write_bytes(weights)
    expected = ModelSize(weight_bytes, 2 * 2 * 2 * 8 * 2, 512, is_measured=True)
    assert measure(tmp_path, dtype) == expected


def test_max_on_a_gpu() -> None:
    plan = MaxPlan(MaxShape(32, 8192, 46_000), "gpu", "llama-bf16", "llama")
    assert " ".join(max_flags(plan)) == (
        "--model /models/llama-bf16 --served-model-name llama --devices gpu:0 --max-length 8192 "
        "--max-batch-size 32 --enable-penalties --enable-structured-output"
    )


def test_max_on_the_cpu() -> None:
    plan = MaxPlan(MaxShape(4, 4096, 16_384), "cpu", "a-Q4_K_M.gguf", "llama", "tokenizer")
    assert " ".join(max_flags(plan)) == (
        "--model /models/tokenizer --weight-path /models/a-Q4_K_M.gguf "
        "--quantization-encoding q4_k --served-model-name llama --devices cpu --max-length 4096 "
        "--max-batch-size 4 --enable-penalties"
    )


@pytest.mark.parametrize(
    ("file", "device", "said"),
    [
        ("a-Q4_K_M.gguf", "gpu", "would leave the GPU idle"),
        ("a-q6_k.gguf", "gpu", "on the CPU only"),
        ("a-BF16.gguf", "cpu", "on a GPU only"),
        ("a-Q8_0.gguf", "cpu", "knows of GGUF files"),
        ("a-Q5_K_M.gguf", "gpu", "knows of GGUF files"),
    ],
)
def test_max_runs_few_forms_of_gguf(file: str, device: Any, said: str) -> None:
    with pytest.raises(ConfigurationError, match=said):
        max_encoding(file, device)
    with pytest.raises(ConfigurationError, match=said):
        plan_max(
            EngineConfig(), LLAMA_8B_Q4, ModelNames("m", file), GPU if device == "gpu" else CPU
        )


@pytest.mark.parametrize(
    ("file", "device", "encoding"),
    [
        ("a-Q4_K_M.gguf", "cpu", "q4_k"),
        ("a-Q4_0.gguf", "cpu", "q4_0"),
        ("a.q6_k.gguf", "cpu", "q6_k"),
        ("a-f32.gguf", "cpu", "float32"),
        ("a-f32.gguf", "gpu", "bfloat16"),
        ("a-BF16.gguf", "gpu", "bfloat16"),
    ],
)
def test_what_max_calls_the_forms_it_runs(file: str, device: Any, encoding: str) -> None:
    assert max_encoding(file, device) == encoding


def test_max_takes_a_gguf_with_a_folder_only() -> None:
    with pytest.raises(ConfigurationError, match=r"config\.json and the tokenizer"):
        plan_max(EngineConfig(), LLAMA_8B_Q4, LLAMA, CPU)


def test_llama_cpp_takes_no_folder() -> None:
    with pytest.raises(ConfigurationError, match="ENGINE=max takes folders"):
        plan_llama_cpp(EngineConfig(), LLAMA_8B_BF16, FOLDER, GPU)


def test_a_context_that_llama_cpp_would_round_is_refused() -> None:
    check_llama_cpp(config_of(inference={"context_length": 4096}))
    with pytest.raises(ConfigurationError, match="Set 768 or 1024"):
        check_llama_cpp(config_of(inference={"context_length": 1000}))


def test_max_may_be_told_of_no_prompt_cache() -> None:
    check_max(config_of(memory={"prompt_cache_mib": 0}))


def test_max_must_have_room_for_one_whole_context() -> None:
    with pytest.raises(SetupError, match=r"room for 0 tokens.*ENGINE=llama-cpp"):
        choose_on_gpu(Wishes(), LLAMA_8B_BF16, 16384)
    with pytest.raises(SetupError, match=r"This would fit: inference\.context_length: 4096"):
        choose_on_gpu(Wishes(context_tokens=8192), LLAMA_8B_BF16, 19_000)
    assert choose_on_gpu(Wishes(), LLAMA_8B_BF16, 19_000).context_tokens == 4096
    slots = [choose_on_gpu(Wishes(), LLAMA_8B_BF16, mib).slots for mib in range(19_000, 99_000, 99)]
    assert slots == sorted(slots)
    assert slots[-1] == 32


def test_max_on_the_cpu_must_have_room_for_the_whole_batch() -> None:
    assert choose_on_cpu(Wishes(), LLAMA_8B_Q4, 64_000) == MaxShape(4, 4096, 16384)
    assert choose_on_cpu(Wishes(), LLAMA_8B_Q4, 13_000).slots == 3
    message = "max_batch_size: 26, or inference.context_length: 6656"
    with pytest.raises(SetupError, match=message):
        choose_on_cpu(Wishes(32, 8192), LLAMA_8B_Q4, 64_000)
    assert choose_on_cpu(Wishes(26, 8192), LLAMA_8B_Q4, 64_000)
    assert choose_on_cpu(Wishes(32, 6656), LLAMA_8B_Q4, 64_000)
    with pytest.raises(SetupError, match="Choose a smaller model"):
        choose_on_cpu(Wishes(), LLAMA_8B_Q4, 8_000)


@pytest.mark.parametrize("name", ["", "a b", "$(x)", "../x", "-x", "/x", "a'b", "a#b", "a\nb"])
def test_a_name_cannot_become_a_flag_or_leave_the_folder(name: str) -> None:
    with pytest.raises(ConfigurationError):
        check_name("--model-file", name)
    assert check_name("--model-file", "a/B_1.gguf") == "a/B_1.gguf"


def test_a_wrong_key_names_its_file(tmp_path: Path) -> None:
    path = tmp_path / "x.yaml"
    path.write_text("batching: {max_batch: 3}")
    with pytest.raises(ConfigurationError, match=r"x\.yaml: .*max_batch_size"):
        load_engine_config(path)
