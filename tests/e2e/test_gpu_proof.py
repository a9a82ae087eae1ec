"""The GPU proof with a small shape on the CPU: every step but CUDA's own, with the real engine."""

import json
import subprocess
import sys
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import gguf
import httpx
import numpy as np
import pytest
import pytest_asyncio

from gpu_proof.loads import FULL
from gpu_proof.model import write_model
from gpu_proof.serving import Stack, serving
from gpu_proof.shapes import SMALL, Shape, tensors_of

STEP_SECONDS = 110
TEXTS = (
    "Hello world, the morning's company changes 12345 times.",
    "Zażółć gęślą jaźń, 日本語, émigré 🙂\n\n\tindented   text",
)


@pytest.fixture(scope="module")
def server() -> Path:
    """The compiled llama-server."""
    said = subprocess.run(
        [sys.executable, "-m", "api_server", "engine"],
        capture_output=True,
        text=True,
        check=True,
        timeout=45 * 60,
    )
    return Path(said.stdout.strip())


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("model") / SMALL.file_name
    write_model(SMALL, path, lambda _: None)
    return path


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def stack(
    server: Path, model: Path, tmp_path_factory: pytest.TempPathFactory
) -> AsyncIterator[Stack]:
    async with serving(server, model, 4, None, tmp_path_factory.mktemp("stack")) as running:
        yield running


@pytest.mark.asyncio(loop_scope="module")
async def test_text_survives_the_made_vocabulary(stack: Stack) -> None:
    async with httpx.AsyncClient(base_url=stack.engine) as engine:
        for text in TEXTS:
            tokens = (await engine.post("/tokenize", json={"content": text})).json()["tokens"]
            back = (await engine.post("/detokenize", json={"tokens": tokens})).json()["content"]
            assert back.lstrip() == text


@pytest.mark.asyncio(loop_scope="module")
async def test_the_chat_is_framed_as_llama_3_does(stack: Stack) -> None:
    messages = [{"role": "system", "content": "A"}, {"role": "user", "content": "B"}]
    async with httpx.AsyncClient(base_url=stack.engine) as engine:
        answer = await engine.post("/apply-template", json={"messages": messages})
        tokens = await engine.post(
            "/tokenize", json={"content": "<|eot_id|><|start_header_id|>", "parse_special": True}
        )
    assert answer.json()["prompt"].removeprefix("<|begin_of_text|>") == (
        "<|start_header_id|>system<|end_header_id|>\n\nA<|eot_id|>"
        "<|start_header_id|>user<|end_header_id|>\n\nB<|eot_id|>"
        "<|start_header_id|>assistant<|end_header_id|>\n\n"
    )
    assert len(tokens.json()["tokens"]) == 2


@pytest.mark.asyncio(loop_scope="module")
async def test_the_engines_log_tells_of_the_loading_of_layers(stack: Stack) -> None:
    """Among these lines stands how many are on the GPU, where there is one."""
    assert "load_tensors: loading model tensors" in stack.engine_log.read_text()


@pytest.mark.asyncio(loop_scope="module")
async def test_random_weights_say_as_much_as_they_are_asked_for(stack: Stack) -> None:
    body: dict[str, Any] = {"model": "proof", "messages": [{"role": "user", "content": "Hello"}]}
    body |= {"max_tokens": 40, "ignore_eos": True}
    async with httpx.AsyncClient(base_url=stack.gateway, timeout=30) as gateway:
        answer = (await gateway.post("/v1/chat/completions", json=body)).json()
    assert answer["usage"]["completion_tokens"] == 40
    assert answer["choices"][0]["finish_reason"] == "length"
    assert answer["choices"][0]["message"]["content"].strip()


def test_llama_quantize_chooses_the_same_types(server: Path, tmp_path: Path) -> None:
    """32 layers, as the 8B has: what is written by rule is what the tool itself would write."""
    quantize = server.with_name("llama-quantize")
    if not quantize.exists():
        pytest.skip("this llama-server came without llama-quantize")
    shape = Shape("deep", 32, 256, 4, 2, 512, 600)
    whole, made = tmp_path / "f32.gguf", tmp_path / "q4_k_m.gguf"
    _write_f32(shape, whole)
    subprocess.run([quantize, whole, made, "Q4_K_M"], check=True, capture_output=True, timeout=60)
    chosen = {each.name: each.tensor_type.name for each in gguf.GGUFReader(made).tensors}
    assert chosen == {each.name: each.type for each in tensors_of(shape)}


def _write_f32(shape: Shape, path: Path) -> None:
    writer = gguf.GGUFWriter(path, "llama")
    writer.add_block_count(shape.layers)
    writer.add_context_length(shape.context)
    writer.add_embedding_length(shape.hidden)
    writer.add_feed_forward_length(shape.ffn)
    writer.add_head_count(shape.heads)
    writer.add_head_count_kv(shape.kv_heads)
    writer.add_layer_norm_rms_eps(1e-5)
    writer.add_vocab_size(shape.vocabulary)
    random = np.random.default_rng(1)
    for tensor in tensors_of(shape):
        size = (tensor.columns,) if tensor.rows == 1 else (tensor.rows, tensor.columns)
        writer.add_tensor(tensor.name, random.standard_normal(size, dtype=np.float32) / 16)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


def _proof(work: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    argv = [sys.executable, "-m", "gpu_proof", *arguments, "--device", "cpu", "--shape", "small"]
    argv += ["--rates", "4", "--seconds", "1", "--knee-seconds", "0"]
    argv += ["--work", str(work), "--inputs", str(work / "none")]
    return subprocess.run(argv, capture_output=True, text=True, timeout=STEP_SECONDS, check=False)


def test_all_steps_make_a_report_and_go_on_where_they_were_stopped(
    server: Path, tmp_path: Path
) -> None:
    assert server.exists()
    work = tmp_path / "work"
    stopped = _proof(work, "run", "--within", "15")
    assert stopped.returncode == 75, stopped.stderr
    assert "Call the same again" in stopped.stderr
    (model,) = (work / "models").iterdir()
    made_at = model.stat().st_mtime_ns

    done = _proof(work, "all")
    assert done.returncode == 0, done.stderr
    assert model.stat().st_mtime_ns == made_at
    content = json.loads((work / "report" / "report.json").read_text())
    assert content["missing"] == []
    rows = {row["name"]: row for row in content["loads"]}
    assert {"short-4", "medium-4", "long-4"} <= set(rows)
    assert rows[FULL]["busy_per_decode"] > 16, "requests are not batched"
    assert all(row["failed"] == 0 for row in rows.values())
    assert {each["load"] for each in content["verdicts"]} == set(), "4/s is no promised rate"
    text = (work / "report" / "report.md").read_text()
    assert "Not a proof" in text
    assert "of 32 slots are busy per decode" in text

    before = (work / "steps.json").read_text()
    again = _proof(work, "run")
    assert again.returncode == 0, again.stderr
    assert json.loads(before).keys() == json.loads((work / "steps.json").read_text()).keys()
    assert "--scenario" not in again.stderr, "a load was run twice"


def test_without_a_gpu_and_its_inputs_it_says_what_to_do(tmp_path: Path) -> None:
    argv = [sys.executable, "-m", "gpu_proof", "build", "--work", str(tmp_path)]
    variables = {"PATH": "/usr/bin:/bin", "HOME": str(tmp_path)}
    said = subprocess.run(
        argv, capture_output=True, text=True, timeout=60, check=False, env=variables
    )
    if "nvidia-smi" not in said.stderr:
        pytest.skip("this machine has a GPU")
    assert said.returncode == 1
    assert "--device cpu" in said.stderr
