"""What is particular about llama-cpp-python: what it cannot do, and what it must not touch."""

import asyncio
import os
from collections.abc import AsyncIterator
from dataclasses import replace

import pytest

from api_server.errors import ConfigurationError
from api_server.inference.catalogue import Model
from api_server.inference.handlers.llama_cpp import LlamaCppHandler
from api_server.inference.model_manager import LLMModelManager
from api_server.inference.schemas import GenerationParams
from tests.extras.conftest import Served

FRANCE = "What is the capital of France?"


@pytest.fixture
def model(models: dict[str, Model]) -> Model:
    return models["llama-cpp"]


@pytest.fixture
async def tiny(model: Model) -> AsyncIterator[Served]:
    async with LLMModelManager([model]) as manager, manager.use(model.id) as loaded:
        yield Served(LlamaCppHandler(), loaded)


async def test_there_is_no_beam_search(tiny: Served) -> None:
    params = GenerationParams(num_beams=2)
    with pytest.raises(ConfigurationError, match=r"num_beams is 2, and llama\.cpp"):
        await tiny.handler.infer(tiny.loaded, tiny.request(FRANCE, params=params))


async def test_nobody_waits_for_a_long_prompt(
    tiny: Served, nobody_reads: pytest.MonkeyPatch
) -> None:
    request = tiny.request(prompt="hello there " * 400)
    pieces, summary = await tiny.pieces(request)
    assert (pieces, summary.generated_tokens) == ([], 0)
    assert tiny.loaded.model_object.llama.n_tokens == 0, "not one batch was read"
    nobody_reads.undo()
    answer = await tiny.handler.infer(tiny.loaded, tiny.request(FRANCE))
    assert answer.generated_text == "The capital of France is Paris."


async def test_a_reader_that_goes_late_does_not_end_the_next_answer(tiny: Served) -> None:
    """Each generation has a flag of its own: the outlet of the one before is closed after it."""
    for _ in range(20):
        answers = await asyncio.gather(
            *(tiny.handler.infer(tiny.loaded, tiny.request(FRANCE)) for _ in range(3))
        )
        assert {answer.generated_text for answer in answers} == {"The capital of France is Paris."}


async def test_loading_leaves_the_output_of_this_process_alone(
    model: Model, capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """The library points stdout at /dev/null meanwhile, for all threads, were it not for us."""
    import llama_cpp.llama_cpp as library  # noqa: PLC0415

    load = library.llama_model_load_from_file

    def load_and_write(*arguments: object) -> object:
        os.write(1, b"heard ")
        return load(*arguments)

    monkeypatch.setattr(library, "llama_model_load_from_file", load_and_write)
    entries = [replace(model, id=f"tiny-{number}") for number in range(4)]
    async with LLMModelManager(entries) as manager:
        await asyncio.gather(*(manager.load(entry.id) for entry in entries))
    assert capfd.readouterr().out == "heard " * 4


async def test_the_library_is_quiet(
    model: Model, capfd: pytest.CaptureFixture[str], nobody_reads: pytest.MonkeyPatch
) -> None:
    async with LLMModelManager([model]) as manager, manager.use(model.id) as loaded:
        served = Served(LlamaCppHandler(), loaded)
        await served.pieces(served.request(prompt="it is aborted " * 100))
        nobody_reads.undo()
        await served.handler.infer(loaded, served.request(FRANCE))
        await served.handler.infer(loaded, served.request(prompt="<|begin_of_text|>Hello"))
    captured = capfd.readouterr()
    assert (captured.out, captured.err) == ("", "")


async def test_what_a_prompt_shares_with_the_one_before_changes_no_answer(tiny: Served) -> None:
    first, _ = await tiny.pieces(tiny.request(FRANCE))
    await tiny.pieces(tiny.request("What is the capital of Italy?"))
    again, _ = await tiny.pieces(tiny.request(FRANCE))
    assert first == again
