"""Apps as JSON, for `/admin/apps` and `--json`. Pure."""

from datetime import datetime

from api_server.services.access.managing import Issued
from api_server.stores.apps import AppRecord


def app_as_json(app: AppRecord) -> dict[str, object]:
    """All that may be known of an app; times in ISO 8601."""
    return {
        "object": "app",
        "id": app.id,
        "name": app.name,
        "source": app.source,
        "created_at": app.created_at.isoformat(),
        "updated_at": app.updated_at.isoformat(),
        "revoked_at": _iso(app.revoked_at),
        "policy": app.policy.model_dump(mode="json"),
        "credentials": [
            {
                "id": each.id,
                "kind": each.kind,
                "hint": each.hint,
                "created_at": each.created_at.isoformat(),
                "expires_at": _iso(each.expires_at),
                "revoked_at": _iso(each.revoked_at),
            }
            for each in app.credentials
        ],
    }


def issued_as_json(issued: Issued) -> dict[str, object]:
    """The same with the new secrets, which cannot be read again."""
    secrets = {"key": issued.key, "app_code": issued.app_code}
    return app_as_json(issued.app) | {name: value for name, value in secrets.items() if value}


def _iso(at: datetime | None) -> str | None:
    return at.isoformat() if at is not None else None
