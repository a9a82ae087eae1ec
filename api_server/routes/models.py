"""`GET /v1/models` and `GET /v1/models/{id}`."""

from typing import Literal

from fastapi import APIRouter, Request
from pydantic import BaseModel

from api_server.inference.catalogue import Catalogue, Model

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


@router.get("/v1/models")
async def list_models(request: Request) -> ModelList:
    """All models that this gateway serves."""
    catalogue: Catalogue = request.app.state.catalogue
    return ModelList(data=[_shape(model) for model in catalogue])


@router.get("/v1/models/{model_id:path}")
async def get_model(model_id: str, request: Request) -> ModelObject:
    """One model; 404 `model_not_found` when there is none of that name."""
    catalogue: Catalogue = request.app.state.catalogue
    return _shape(catalogue.find(model_id))
