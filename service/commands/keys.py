"""API keys from the command line."""

from __future__ import annotations

import sys
import time
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Annotated, Any

import typer

if TYPE_CHECKING:
    from service.services.keys import ApiKey

keys_app = typer.Typer(
    name="keys", help="API keys: who may ask the service.", no_args_is_help=True, add_completion=False
)
Json = Annotated[bool, typer.Option("--json", help="Print JSON.")]
SECONDS_A_DAY = 86_400


@keys_app.command()
def create(
    name: Annotated[str, typer.Argument(help="Who or what will have it.", show_default=False)],
    scope: Annotated[
        list[str], typer.Option(help="place, ops or agent; may be repeated.", show_default=False)
    ],
    expires_days: Annotated[float | None, typer.Option(min=0, help="Days until it closes.")] = None,
    json: Json = False,  # noqa: FBT002
) -> None:
    """Make a key and print it: it is shown this once and kept as a hash."""
    from service.services.keys import make_key  # noqa: PLC0415 (light imports)

    now_s = time.time()
    expires_at_s = None if expires_days is None else now_s + SECONDS_A_DAY * expires_days
    key, text = make_key(name, scope, now_s=now_s, expires_at_s=expires_at_s)  # type: ignore[arg-type]
    file, audit = _storage()
    file.add(key)
    audit.write(at_s=now_s, actor="command line", action="keys create", **_shown(key))
    _print_json(_shown(key) | {"key": text}) if json else print(text)  # noqa: T201


@keys_app.command("list")
def list_keys(json: Json = False) -> None:  # noqa: FBT002
    """Print every key that was ever made, without its secret."""
    file, _ = _storage()
    rows = [_shown(key) for key in file.load().keys]
    if json:
        _print_json({"keys": rows})
        return
    for row in rows:
        print(row["id"], row["state"].ljust(8), ",".join(row["scopes"]).ljust(16), row["name"])  # noqa: T201


@keys_app.command()
def revoke(
    key_id: Annotated[str, typer.Argument(metavar="ID", help="As listed.", show_default=False)],
) -> None:
    """Close a key for ever; a service that runs notices within LOADMASTER_KEY_REFRESH_S."""
    file, audit = _storage()
    now_s = time.time()
    key = file.revoke(key_id, now_s)
    audit.write(at_s=now_s, actor="command line", action="keys revoke", **_shown(key))


def _storage() -> Any:
    from service.observability import configure_logging  # noqa: PLC0415
    from service.settings import Settings  # noqa: PLC0415
    from service.storage.audit import AuditLog  # noqa: PLC0415
    from service.storage.keys import KeyFile  # noqa: PLC0415

    settings = Settings()
    configure_logging("warning")
    return KeyFile(settings.keys_path), AuditLog(settings.audit_path)


def _shown(key: ApiKey) -> dict[str, Any]:
    now_s = time.time()
    closed = "revoked" if key.revoked_at_s is not None else "expired"
    return {
        "id": key.key_id,
        "name": key.name,
        "scopes": list(key.scopes),
        "state": "active" if key.is_active(now_s) else closed,
        "created_at": _calendar(key.created_at_s),
        "expires_at": _calendar(key.expires_at_s),
        "revoked_at": _calendar(key.revoked_at_s),
    }


def _calendar(at_s: float | None) -> str | None:
    return None if at_s is None else datetime.fromtimestamp(at_s, UTC).isoformat(timespec="seconds")


def _print_json(value: Any) -> None:
    import orjson  # noqa: PLC0415

    sys.stdout.buffer.write(orjson.dumps(value, option=orjson.OPT_APPEND_NEWLINE))
