"""What an operator can do with models of this process."""

from pathlib import Path

import pytest

from api_server.errors import (
    ConfigurationError,
    InvalidRequestError,
    ModelMisconfiguredError,
    ModelNotFoundError,
    ResourceNotAvailableError,
)
from api_server.inference.catalogue import Model
from api_server.inference.engines import LLAMA_SERVER
from api_server.inference.model_manager import LLMModelManager
from api_server.services.models import ManagedModels
from tests.fake_handler import FakeHandler, fake_model

OVER_HTTP = Model(id="far", engine=LLAMA_SERVER, replicas=("http://127.0.0.1:1", "http://[::1]:2"))


def models_of(handler: FakeHandler) -> ManagedModels:
    here = fake_model("here", path=Path("weights"))
    return ManagedModels(LLMModelManager([here, OVER_HTTP], [handler]))


def state_of(models: ManagedModels, model_id: str) -> str:
    return next(status.state for status in models.states() if status.id == model_id)


async def test_a_model_is_loaded_once_and_unloaded() -> None:
    handler = FakeHandler()
    models = models_of(handler)
    assert state_of(models, "here") == "unloaded"
    await models.load("here")
    await models.load("here")
    assert state_of(models, "here") == "ready"
    await models.unload("here")
    assert state_of(models, "here") == "unloaded"
    assert handler.diary == ["load here", "unload here"]
    assert models.replicas("here") == ()


async def test_what_the_operator_must_change_is_told() -> None:
    models = models_of(FakeHandler(load_fault=ConfigurationError("path: there is nothing.")))
    with pytest.raises(ModelMisconfiguredError, match="path: there is nothing"):
        await models.load("here")
    assert state_of(models, "here") == "failed"


async def test_what_does_not_fit_is_told_as_it_is() -> None:
    models = models_of(FakeHandler(load_fault=ResourceNotAvailableError("needs 9 GB")))
    with pytest.raises(ResourceNotAvailableError):
        await models.load("here")


async def test_replicas_are_those_of_the_catalogue() -> None:
    replicas = models_of(FakeHandler()).replicas("far")
    assert [each.url for each in replicas] == ["http://127.0.0.1:1", "http://[::1]:2"]
    assert all(each.is_usable and each.state == "up" and not each.in_flight for each in replicas)


async def test_engines_elsewhere_are_not_unloaded() -> None:
    with pytest.raises(InvalidRequestError, match="llama-server"):
        await models_of(FakeHandler()).unload("far")


async def test_unknown_models_are_not_found() -> None:
    models = models_of(FakeHandler())
    for verb in (models.load, models.unload):
        with pytest.raises(ModelNotFoundError):
            await verb("nobody")
    with pytest.raises(ModelNotFoundError):
        models.replicas("nobody")
