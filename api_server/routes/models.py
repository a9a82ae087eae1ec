"""`GET /v1/models` and `GET /v1/models/{id}`."""

from typing import Literal

from fastapi import APIRouter, Request
from pydantic import BaseModel

from api_server.inference.catalogue import Catalogue, Model
from api_server.schemas.apps import ANYONE, CALLER, Caller
from api_server.services.access.permissions import allows_model, check_model

router = APIRouter(tags=["models"])


class ModelObject(BaseModel):
    """OpenAI's model object; `created` in Unix seconds."""

    id: str
    object: Literal["model"] = "model"
    created: int
    owned_by: str


class ModelList(BaseModel):
    """OpenAI's list of models."""

    object: Literal["list"] = "list"
    data: list[ModelObject]


def _shape(model: Model) -> ModelObject:
    return ModelObject(id=model.id, created=model.created, owned_by=model.owned_by)


def _caller(request: Request) -> Caller:
    caller: Caller = request.scope.get(CALLER, ANYONE)
    return caller


@router.get("/v1/models")
async def list_models(request: Request) -> ModelList:
    """All models that this gateway serves, as far as the caller may use them."""
    catalogue: Catalogue = request.app.state.catalogue
    caller = _caller(request)
    return ModelList(data=[_shape(each) for each in catalogue if allows_model(caller, each.id)])


@router.get("/v1/models/{model_id:path}")
async def get_model(model_id: str, request: Request) -> ModelObject:
    """One model; 404 `model_not_found` when there is none of that name."""
    check_model(_caller(request), model_id)
    catalogue: Catalogue = request.app.state.catalogue
    return _shape(catalogue.find(model_id))
