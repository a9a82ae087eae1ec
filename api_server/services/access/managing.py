"""What an operator does with apps, by command or through `/admin/apps`. Each deed is logged."""

import logging
from collections.abc import Sequence
from dataclasses import dataclass, field

from api_server.errors import InvalidRequestError
from api_server.schemas.apps import Policy
from api_server.services.access.policies import check_name, patched
from api_server.services.access.secrets import credential, new_id, new_secret
from api_server.stores.apps import AppRecord, AppStore, Kind

log = logging.getLogger("api_server.audit")


@dataclass(frozen=True, slots=True)
class Issued:
    """New secrets: the only moment at which they can be read."""

    app: AppRecord
    key: str | None = field(default=None, repr=False)
    app_code: str | None = field(default=None, repr=False)


class ManagedApps:
    """`by` is who does it, for the log. Every method raises `DependencyDownError`."""

    def __init__(self, store: AppStore, *, by: str) -> None:
        self._store = store
        self._by = by

    async def create(self, name: str, policy: Policy) -> Issued:
        """A new app with a key and an app code. Raises `AppExistsError`, `InvalidRequestError`."""
        check_name(name)
        key, code = new_secret("key"), new_secret("app_code")
        credentials = [credential(key, "key"), credential(code, "app_code")]
        await self._store.create(new_id("app"), name, policy, credentials)
        app = await self._store.find(name)
        self._note("an app was created", app)
        return Issued(app, key, code)

    async def apps(self) -> Sequence[AppRecord]:
        """All apps, revoked ones too."""
        return await self._store.apps()

    async def find(self, name_or_id: str) -> AppRecord:
        """One app. Raises `AppNotFoundError`."""
        return await self._store.find(name_or_id)

    async def rotate(self, name_or_id: str, kind: Kind, grace_seconds: float) -> Issued:
        """A new key, or app code. Those before it end now, or after the grace."""
        before = await self._store.find(name_or_id)
        if kind == "app_code" and before.source == "file":
            raise InvalidRequestError(
                f"The code of {before.name!r} stands in the file of app codes: change it there and "
                "start the gateway again."
            )
        secret = new_secret(kind)
        await self._store.rotate(before.id, credential(secret, kind), grace_seconds=grace_seconds)
        app = await self._store.find(before.id)
        self._note("an app got a new credential", app, kind=kind, grace_seconds=grace_seconds)
        return Issued(app, secret) if kind == "key" else Issued(app, None, secret)

    async def change_policy(self, name_or_id: str, patch: bytes | str) -> AppRecord:
        """Change some keys of its policy. Raises `InvalidRequestError` for what cannot be."""
        before = await self._store.find(name_or_id)
        if before.source == "file":
            raise InvalidRequestError(
                f"The app {before.name!r} comes from the file of app codes, which would undo this "
                "at the next start: change it there."
            )
        await self._store.set_policy(before.id, patched(before.policy, patch))
        app = await self._store.find(before.id)
        self._note("the policy of an app was changed", app)
        return app

    async def revoke(self, name_or_id: str, credential_id: str | None = None) -> AppRecord:
        """End one credential, by id or hint, or the app with all it has."""
        before = await self._store.find(name_or_id)
        if credential_id is None:
            await self._store.revoke(before.id)
        else:
            await self._store.revoke_credential(before.id, credential_id)
        app = await self._store.find(before.id)
        self._note(
            "an app was revoked" if credential_id is None else "a credential was revoked", app
        )
        if before.source == "file":
            log.warning(
                "the app is still in the file of app codes, which brings it back at the next start",
                extra={"app": app.name},
            )
        return app

    def _note(self, message: str, app: AppRecord, **fields: object) -> None:
        log.info(message, extra={"app": app.name, "app_id": app.id, "by": self._by, **fields})
