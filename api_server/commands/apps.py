"""`python -m api_server apps`: who may use the stack. Changes take effect within seconds."""

import argparse
import json
from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path

from api_server.commands.database import with_postgres
from api_server.errors import SetupError
from api_server.schemas.apps import Policy
from api_server.services.access.managing import Issued, ManagedApps
from api_server.services.access.policies import LONGEST_GRACE_SECONDS, patched
from api_server.services.access.shapes import app_as_json, issued_as_json
from api_server.settings import Settings
from api_server.stores.apps import AppRecord, AppStore, CredentialRecord, Kind
from api_server.stores.postgres import Postgres

EXPLANATION = "create, list, change and revoke apps and their keys"

ONCE = "This is the only time that it is shown: store it now. Only its digest is kept here."


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """`apps create|list|show|policy|rotate|revoke`."""
    verbs = parser.add_subparsers(dest="verb", required=True)
    create = verbs.add_parser("create", help="a new app with a key and an app code")
    create.add_argument("--policy", metavar="FILE|JSON", help="what it may do (docs/apps.md)")
    list_ = verbs.add_parser("list", help="all apps")
    show = verbs.add_parser("show", help="one app, its policy and its credentials")
    policy = verbs.add_parser("policy", help="change some keys of its policy")
    rotate = verbs.add_parser("rotate", help="a new key; the old ones end")
    rotate.add_argument("--app-code", action="store_true", help="a new app code instead")
    rotate.add_argument(
        *("--grace", "--grace-seconds"),
        dest="grace_seconds",
        type=_grace,
        default=0.0,
        metavar="SECONDS",
        help="how long the old ones stay valid (default: 0)",
    )
    revoke = verbs.add_parser("revoke", help="end an app, or one of its keys")
    revoke.add_argument("--key", metavar="HINT", help="only this one: its id, or its hint")
    for verb in (create, show, policy, rotate, revoke):
        verb.add_argument("name", help="the app's name" + (" or id" if verb is not create else ""))
    policy.add_argument(
        "changes", metavar="FILE|JSON", help='such as {"rate_limits": ["9/minute"]}'
    )
    for verb in (create, list_, show, policy, rotate, revoke):
        verb.add_argument("--json", action="store_true", help="for programs")


def run(settings: Settings, arguments: argparse.Namespace) -> int:
    """Raises `SetupError` with what is wrong."""

    async def work(postgres: Postgres) -> Issued | AppRecord | Sequence[AppRecord]:
        apps = ManagedApps(AppStore(postgres), by="command line")
        match arguments.verb:
            case "create":
                policy = patched(Policy(), _text(arguments.policy)) if arguments.policy else None
                return await apps.create(arguments.name, policy or Policy())
            case "list":
                return await apps.apps()
            case "show":
                return await apps.find(arguments.name)
            case "policy":
                return await apps.change_policy(arguments.name, _text(arguments.changes))
            case "rotate":
                kind: Kind = "app_code" if arguments.app_code else "key"
                return await apps.rotate(arguments.name, kind, arguments.grace_seconds)
            case _:
                return await apps.revoke(arguments.name, arguments.key)

    result = with_postgres(settings, work)
    if arguments.json:
        print(json.dumps(_as_json(result), indent=2))
    elif isinstance(result, Issued):
        _print_issued(result, arguments)
    elif isinstance(result, AppRecord):
        _print_app(result)
    else:
        _print_apps(result)
    return 0


def _grace(text: str) -> float:
    try:
        seconds = float(text)
    except ValueError:
        seconds = -1.0
    if not 0 <= seconds <= LONGEST_GRACE_SECONDS:
        raise argparse.ArgumentTypeError(
            f"must be seconds, from 0 to {LONGEST_GRACE_SECONDS} (90 days)"
        )
    return seconds


def _text(file_or_json: str) -> str:
    """JSON as it stands, or the text of a file."""
    if file_or_json.lstrip().startswith("{"):
        return file_or_json
    try:
        return Path(file_or_json).read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as exc:
        raise SetupError(f"{file_or_json}: is no JSON object, and no file to be read.") from exc


def _as_json(result: Issued | AppRecord | Sequence[AppRecord]) -> object:
    if isinstance(result, Issued):
        return issued_as_json(result)
    if isinstance(result, AppRecord):
        return app_as_json(result)
    return [app_as_json(app) for app in result]


def _print_issued(issued: Issued, arguments: argparse.Namespace) -> None:
    print(f"app       {issued.app.name} ({issued.app.id})")
    if issued.key is not None:
        print(f"key       {issued.key}")
    if issued.app_code is not None:
        print(f"app code  {issued.app_code}")
    print(ONCE)
    if arguments.verb == "rotate":
        grace = arguments.grace_seconds
        ends = f"stay valid for {grace:g} s" if grace else "are no longer valid"
        print(f"Those before it {ends}.")


def _print_app(app: AppRecord) -> None:
    state = f"revoked {_time(app.revoked_at)}" if app.revoked_at else "active"
    print(f"{app.name} ({app.id}), {state}, made by {app.source} {_time(app.created_at)}")
    print(f"policy: {app.policy.model_dump_json(exclude_defaults=True)}")
    for each in app.credentials:
        print(f"  {each.kind:<9} {each.hint:<18} {each.id}  {_state(each)}")


def _print_apps(apps: Sequence[AppRecord]) -> None:
    if not apps:
        print("No apps yet. `python -m api_server apps create NAME` makes one.")
    for app in apps:
        state = "revoked" if app.revoked_at else "active"
        valid = [each.hint for each in app.credentials if _state(each) == "valid"]
        print(f"{app.name:<32} {state:<8} {app.source:<6} {app.id}  {' '.join(valid)}")


def _state(each: CredentialRecord) -> str:
    if each.revoked_at is not None:
        return f"revoked {_time(each.revoked_at)}"
    if each.expires_at is None:
        return "valid"
    has_ended = each.expires_at <= datetime.now(UTC)
    return f"{'expired' if has_ended else 'valid until'} {_time(each.expires_at)}"


def _time(at: datetime) -> str:
    return at.astimezone(UTC).strftime("%Y-%m-%d %H:%M UTC")
