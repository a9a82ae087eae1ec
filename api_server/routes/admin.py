"""`/admin`: shows and drives the models. Closed unless the operator has set a key."""

import hmac
from typing import Annotated, Literal

from fastapi import APIRouter, Depends, Request
from fastapi.security import HTTPAuthorizationCredentials, HTTPBearer
from pydantic import BaseModel, ConfigDict

from api_server.errors import AdminClosedError, InvalidKeyError
from api_server.services.models import Models


class ReplicaState(BaseModel):
    """One engine: whether it gets requests now, and how many answers it works on. `problem` says
    why one that is there gets none.
    """

    model_config = ConfigDict(from_attributes=True)

    url: str
    is_usable: bool
    state: str
    in_flight: int
    problem: str | None = None


class ModelState(BaseModel):
    """A model as the gateway's process that answers sees it; times in seconds, `last_used_at` in
    Unix time. `error` says why the last load failed.
    """

    model_config = ConfigDict(from_attributes=True)

    id: str
    state: Literal["unloaded", "loading", "ready", "failed"]
    engine: str
    location: str
    is_in_process: bool
    users: int
    last_used_at: float | None
    load_seconds: float | None
    needed_bytes: int | None
    error: str | None
    replicas: list[ReplicaState] = []


class ModelStates(BaseModel):
    """All models of the catalogue."""

    object: Literal["list"] = "list"
    data: list[ModelState]


_bearer = HTTPBearer(auto_error=False, description="ADMIN_API_KEY")


def check_key(
    request: Request,
    credentials: Annotated[HTTPAuthorizationCredentials | None, Depends(_bearer)],
) -> None:
    """Raise unless the operator's key was sent; how long that takes tells nothing about it."""
    key: str | None = request.app.state.admin_key
    if key is None:
        raise AdminClosedError(
            "The /admin routes are closed. To open them, set ADMIN_API_KEY in the environment or "
            "in .env, start the gateway again, and send it as 'Authorization: Bearer ...'."
        )
    sent = credentials.credentials if credentials is not None else ""
    if not hmac.compare_digest(sent.encode(), key.encode()):
        raise InvalidKeyError(
            "This route wants the operator's key: 'Authorization: Bearer ' and ADMIN_API_KEY."
        )


router = APIRouter(prefix="/admin", tags=["admin"], dependencies=[Depends(check_key)])


def _models(request: Request) -> Models:
    models: Models = request.app.state.models
    return models


def _states(models: Models) -> list[ModelState]:
    states = [ModelState.model_validate(status) for status in models.states()]
    for state in states:
        replicas = models.replicas(state.id)
        state.replicas = [ReplicaState.model_validate(replica) for replica in replicas]
    return states


def _state(models: Models, model_id: str) -> ModelState:
    return next(state for state in _states(models) if state.id == model_id)


@router.get("/models")
async def list_model_states(request: Request) -> ModelStates:
    """What state each model is in, and each of its engines."""
    return ModelStates(data=_states(_models(request)))


@router.post("/models/{model_id:path}/load")
async def load_model(model_id: str, request: Request) -> ModelState:
    """Load a model if it is not; answers when it is ready, which may take minutes."""
    models = _models(request)
    await models.load(model_id)
    return _state(models, model_id)


@router.post("/models/{model_id:path}/unload")
async def unload_model(model_id: str, request: Request) -> ModelState:
    """Unload a model of the gateway's own process; waits for its requests, for 30 s at most."""
    models = _models(request)
    await models.unload(model_id)
    return _state(models, model_id)
