"""`/admin/apps`: who may use the stack. Secrets are answered once, when they are made."""

from typing import Any

from fastapi import APIRouter, Depends, Request

from api_server.errors import DependencyDownError
from api_server.routes.admin import check_key
from api_server.routes.token_path import read_body as read_bytes
from api_server.services.access.managing import ManagedApps
from api_server.services.access.policies import Rotation, read_body, read_new_app
from api_server.services.access.shapes import app_as_json, issued_as_json

MAX_BODY_BYTES = 1024 * 1024
BODY_SECONDS = 10.0

router = APIRouter(prefix="/admin/apps", tags=["admin"], dependencies=[Depends(check_key)])


def _apps(request: Request) -> ManagedApps:
    apps: ManagedApps | None = request.app.state.apps
    if apps is None:
        raise DependencyDownError("PostgreSQL (POSTGRES_URL is not set)", retry_after_seconds=60)
    return apps


async def _body(request: Request) -> bytes:
    return await read_bytes(request.scope, request.receive, MAX_BODY_BYTES, BODY_SECONDS)


@router.post("", status_code=201)
async def create_app(request: Request) -> dict[str, Any]:
    """A new app: `{"name": ..., "policy": {...}}`. Answers its `key` and `app_code`, once."""
    new = read_new_app(await _body(request))
    return issued_as_json(await _apps(request).create(new.name, new.policy))


@router.get("")
async def list_apps(request: Request) -> dict[str, Any]:
    """All apps, revoked ones too."""
    apps = await _apps(request).apps()
    return {"object": "list", "data": [app_as_json(app) for app in apps]}


@router.get("/{app}")
async def get_app(app: str, request: Request) -> dict[str, Any]:
    """One app, by name or id."""
    return app_as_json(await _apps(request).find(app))


@router.patch("/{app}")
async def change_policy(app: str, request: Request) -> dict[str, Any]:
    """Change some keys of its policy: the body has those keys, null for as if never set."""
    return app_as_json(await _apps(request).change_policy(app, await _body(request)))


@router.post("/{app}/rotate")
async def rotate(app: str, request: Request) -> dict[str, Any]:
    """A new key, or app code: `{"kind": "key", "grace_seconds": 0}`, or nothing for these."""
    rotation = read_body(await _body(request), Rotation)
    apps = _apps(request)
    return issued_as_json(await apps.rotate(app, rotation.kind, rotation.grace_seconds))


@router.delete("/{app}")
async def revoke(app: str, request: Request, key: str | None = None) -> dict[str, Any]:
    """End an app with all its credentials; with `?key=` one of these alone, by id or hint."""
    return app_as_json(await _apps(request).revoke(app, key))
