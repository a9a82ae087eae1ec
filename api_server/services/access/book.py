"""Apps and credentials by what they are looked up with. No effects."""

import logging
from collections.abc import Sequence
from dataclasses import dataclass

from pydantic import ValidationError

from api_server.schemas.apps import App, Caller, Policy
from api_server.stores.apps import AppRow, CredentialRow, Kind

MOST_POLICIES = 20_000

log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Found:
    """What a secret stands for. `expires_at` in Unix seconds."""

    caller: Caller
    credential_id: str
    kind: Kind
    expires_at: float | None = None

    @property
    def app(self) -> App:
        return self.caller.app


class Book:
    """`apps` by id, `names` by name, `found` by digest: those that are not revoked."""

    def __init__(self) -> None:
        self.apps: dict[str, App] = {}
        self.names: dict[str, App] = {}
        self.found: dict[bytes, Found] = {}
        self._app_rows: dict[str, AppRow] = {}
        self._credential_rows: dict[bytes, CredentialRow] = {}
        self._of_app: dict[str, set[bytes]] = {}
        self._policies: dict[str, Policy] = {}

    def app_rows(self) -> Sequence[AppRow]:
        """A copy of what it was told of apps, each as it is now."""
        return list(self._app_rows.values())

    def credential_rows(self) -> Sequence[CredentialRow]:
        """The same of credentials."""
        return list(self._credential_rows.values())

    def take_app(self, row: AppRow) -> None:
        """Learn of an app as it is now."""
        self._app_rows[row.id] = row
        before = self.apps.pop(row.id, None)
        if before is not None and self.names.get(before.name) is before:
            del self.names[before.name]
        policy = self._policy(row, before)
        if policy is not None and not row.is_revoked:
            app = App(row.id, row.name, policy)
            self.apps[app.id] = self.names[app.name] = app
        for digest in self._of_app.get(row.id, ()):
            self._find_anew(digest)

    def take_credential(self, row: CredentialRow) -> None:
        """Learn of a credential as it is now. Its app comes first."""
        if row.is_revoked:
            self._credential_rows.pop(row.digest, None)
            self._of_app.get(row.app_id, set()).discard(row.digest)
        else:
            self._credential_rows[row.digest] = row
            self._of_app.setdefault(row.app_id, set()).add(row.digest)
        self._find_anew(row.digest)

    def _find_anew(self, digest: bytes) -> None:
        row = self._credential_rows.get(digest)
        app = self.apps.get(row.app_id) if row is not None else None
        if row is None or app is None:
            self.found.pop(digest, None)
        else:
            self.found[digest] = Found(Caller(app), row.id, row.kind, row.expires_at)

    def _policy(self, row: AppRow, before: App | None) -> Policy | None:
        """Many apps have the same policy, which is read once. One that cannot be read, perhaps of a
        newer version of this program, leaves the one that is known in force.
        """
        policy = self._policies.get(row.policy)
        if policy is None:
            try:
                policy = Policy.model_validate_json(row.policy)
            except ValidationError:
                log.exception("the policy of an app cannot be read", extra={"app_id": row.id})
                return before.policy if before is not None else None
            if len(self._policies) >= MOST_POLICIES:
                self._policies.clear()
            self._policies[row.policy] = policy
        return policy
