"""What only transformers can do, and what only it must not."""

import json
import shutil
from collections.abc import AsyncIterator
from dataclasses import replace
from pathlib import Path

import pytest

from api_server.errors import ConfigurationError
from api_server.inference.catalogue import Model
from api_server.inference.engines import TRANSFORMERS
from api_server.inference.handlers.base import LoadedModel
from api_server.inference.handlers.transformers import TransformersHandler
from api_server.inference.model_manager import LLMModelManager
from api_server.inference.schemas import GenerationParams
from tests.extras.conftest import Served

QUESTION = "Tell me a story about a bird."


@pytest.fixture
def model(models: dict[str, Model]) -> Model:
    return models["transformers"]


@pytest.fixture
async def tiny(model: Model) -> AsyncIterator[Served]:
    async with LLMModelManager([model]) as manager, manager.use(model.id) as loaded:
        yield Served(TransformersHandler(), loaded)


def beams(number: int, **fields: bool) -> GenerationParams:
    return GenerationParams(do_sample=False, num_beams=number, **fields)


async def test_beam_search_finds_what_is_likelier_than_greedy(tiny: Served) -> None:
    """As transformers itself finds it, asked without us."""
    model, tokenizer = tiny.loaded.model_object.model, tiny.loaded.model_object.tokenizer
    prompt = tokenizer("One day", return_tensors="pt")
    expected = model.generate(**prompt, max_new_tokens=12, do_sample=False, num_beams=4)
    text = tokenizer.decode(expected[0, prompt["input_ids"].shape[1] :], skip_special_tokens=True)
    params = GenerationParams(do_sample=False, num_beams=4, max_new_tokens=12)
    answer = await tiny.handler.infer(tiny.loaded, tiny.request(prompt="One day", params=params))
    assert answer.generated_text == text
    greedy = GenerationParams(do_sample=False, max_new_tokens=12)
    other = await tiny.handler.infer(tiny.loaded, tiny.request(prompt="One day", params=greedy))
    assert answer.generated_text != other.generated_text


async def test_a_beam_searchs_stream_is_one_piece(tiny: Served) -> None:
    request = tiny.request("What is the capital of France?", params=beams(3, early_stopping=True))
    pieces, summary = await tiny.pieces(request)
    assert "".join(pieces) == "The capital of France is Paris."
    assert summary.finish_reason == "stop"
    assert summary.generated_tokens == 10


async def test_a_beam_search_is_cut_at_a_stop_sequence(tiny: Served) -> None:
    request = tiny.request(
        "What is the capital of France?", params=beams(3), stop_sequences=["France"]
    )
    pieces, summary = await tiny.pieces(request)
    assert "".join(pieces) == "The capital of "
    assert summary.finish_reason == "stop_sequence"


async def test_more_beams_than_there_is_memory_for_are_refused(tiny: Served) -> None:
    with pytest.raises(ConfigurationError, match="num_beams is 1000"):
        await tiny.handler.infer(tiny.loaded, tiny.request(QUESTION, params=beams(1000)))


async def test_nobody_waits_for_a_long_prompt(
    tiny: Served, nobody_reads: pytest.MonkeyPatch
) -> None:
    layers = tiny.loaded.model_object.model.model.layers
    reached: list[int] = []
    layers[0].register_forward_hook(lambda *_: reached.append(0))
    request = tiny.request(prompt="hello there " * 400)
    pieces, summary = await tiny.pieces(request)
    assert (pieces, summary.generated_tokens, reached) == ([], 0, [])
    nobody_reads.undo()
    await tiny.pieces(tiny.request(QUESTION))
    assert reached


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
async def test_weights_are_converted_as_the_entry_says(model: Model, dtype: str) -> None:
    entry = replace(model, options={"dtype": dtype})
    async with LLMModelManager([entry]) as manager, manager.use(entry.id) as loaded:
        assert str(loaded.model_object.model.dtype) == f"torch.{dtype}"
        served = Served(TransformersHandler(), loaded)
        answer = await served.handler.infer(loaded, served.request("What is your name?"))
        assert "Tiny" in (answer.generated_text or "")


async def test_a_folder_that_brings_code_is_not_run(folder: Path, tmp_path: Path) -> None:
    """trust_remote_code is off: a model of a class of its own is an error, not an import."""
    copy = tmp_path / "model"
    shutil.copytree(folder, copy)
    config = json.loads((copy / "config.json").read_text())
    config |= {"model_type": "own", "auto_map": {"AutoConfig": "code.Own"}}
    (copy / "config.json").write_text(json.dumps(config))
    (copy / "code.py").write_text("raise SystemExit('it was run')")
    with pytest.raises(ConfigurationError, match="transformers cannot load"):
        await TransformersHandler().load(Model("own", TRANSFORMERS, path=copy))


async def test_models_that_change_themselves_serve_one_request_at_a_time(
    folder: Path, tmp_path: Path
) -> None:
    copy = tmp_path / "model"
    shutil.copytree(folder, copy)
    config = json.loads((copy / "config.json").read_text())
    config["rope_parameters"] = {"rope_type": "dynamic", "factor": 2.0, "rope_theta": 10000.0}
    (copy / "config.json").write_text(json.dumps(config))
    handler = TransformersHandler()
    entry = Model("dynamic", TRANSFORMERS, path=copy, slots=4)
    loaded = LoadedModel(entry, await handler.load(entry))
    assert loaded.model_object.threads.count == 1
    await handler.unload(loaded)
