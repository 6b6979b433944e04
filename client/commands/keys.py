"""`faultline keys`: make, list, rotate and revoke the keys of a service, with an admin's key; the first one on its store."""

import os
import sys
from pathlib import Path

import click

from client.commands.shared import READABLE, read_where, take_json, take_server
from client.connection import connect
from client.credentials import write_key
from client.display.consoles import build_messages, build_output, write_json
from client.display.keys import print_keys, print_made
from client.display.progress import ProgressView
from client.durations import Duration
from client.embedded import build_command, build_environment, check_installed
from client.errors import BadUsage, ExitCode
from schemas.errors import Fault
from schemas.keys import KeyRotation, MadeKey, NewKey
from schemas.validation import check_document

BOOTSTRAP_NEEDS = ("pydantic_settings", "redis")

take_tenant = click.option("--tenant", metavar="NAME", help="Whose key.  [default: the tenant of the key that asks]")
take_expiry = click.option("--expires-in", "expires_in_s", type=Duration(), metavar="90d", help="When it ends.")
take_key_out = click.option(
    "--key-out", type=READABLE, help="Write the key into this new file, for its owner only, not on standard output."
)


@click.group(short_help="Make, list, rotate and revoke keys.")
def keys() -> None:
    """Manage the keys of a service. Needs a key with the scope admin, in FAULTLINE_KEY or --key-file."""


@keys.command(short_help="Make a key.")
@click.option("--label", metavar="NAME", required=True, help="What the key is for; at most two live ones have the same.")
@click.option(
    "--scope",
    "scopes",
    multiple=True,
    type=click.Choice(["read", "submit", "admin"]),
    help="What it allows; may be repeated.  [default: read and submit]",
)
@take_tenant
@take_expiry
@take_key_out
@take_json
@take_server
def create(
    *,
    label: str,
    scopes: tuple[str, ...],
    tenant: str | None,
    expires_in_s: int | None,
    key_out: Path | None,
    as_json: bool,
    server: str | None,
    data_dir: Path | None,
) -> ExitCode:
    """Make a key and print it, this once."""
    fields = {"label": label, "scopes": scopes or ("read", "submit"), "tenant": tenant, "expires_in_s": expires_in_s}
    new = check_document(NewKey, fields)
    _check_new(key_out)
    with ProgressView(build_messages()) as view, connect(read_where(server, data_dir), view.tell, may_start=False) as connected:
        made = connected.client.create_key(new)
    return _show_made(made, key_out, as_json=as_json)


@keys.command(short_help="Make the first key, on the store.")
@click.option("--label", metavar="NAME", help="What it is called.  [default: bootstrap]")
@click.option("--tenant", metavar="NAME", help="Whose admin key it is.  [default: operator]")
@take_expiry
@click.option("--data-dir", type=click.Path(path_type=Path, file_okay=False), help="Folder of `faultline up`, without REDIS_URL.")
@take_json
def bootstrap(label: str | None, tenant: str | None, expires_in_s: int | None, data_dir: Path | None, *, as_json: bool) -> None:
    """Make an admin key on the store that REDIS_URL names, or that of a `faultline up`, and print it. Asks for no key."""
    check_installed("faultline keys bootstrap", *BOOTSTRAP_NEEDS)
    given = {"--label": label, "--tenant": tenant, "--expires-in-s": expires_in_s, "--data-dir": data_dir}
    arguments = [part for name, value in given.items() if value is not None for part in (name, str(value))]
    command = build_command("service.bootstrap", *arguments, *(["--json"] if as_json else []))
    sys.stdout.flush()
    os.execve(sys.executable, command, build_environment())  # noqa: S606 - the service's program takes over


@keys.command("list", short_help="List keys.")
@click.option("--tenant", metavar="NAME", help="Whose keys.  [default: your own tenant's, for the operator everybody's]")
@click.option("--all", "everything", is_flag=True, help="Also those that have ended in the last 90 days.")
@take_json
@take_server
def list_(*, tenant: str | None, everything: bool, as_json: bool, server: str | None, data_dir: Path | None) -> ExitCode:
    """List keys, newest first, without their secrets."""
    with ProgressView(build_messages()) as view, connect(read_where(server, data_dir), view.tell, may_start=False) as connected:
        infos = [info for info in connected.client.list_keys(tenant) if everything or info.state == "live"]
    if as_json:
        write_json({"items": [info.model_dump(mode="json") for info in infos], "next": None})
    else:
        print_keys(build_output(), infos)
    return ExitCode.SUCCESS


@keys.command(short_help="Replace a key.")
@click.argument("key_id", metavar="ID")
@click.option(
    "--overlap", "overlap_s", type=Duration(), default="7d", show_default=True, help="How long the old key still works."
)
@take_expiry
@take_key_out
@take_json
@take_server
def rotate(
    *,
    key_id: str,
    overlap_s: int,
    expires_in_s: int | None,
    key_out: Path | None,
    as_json: bool,
    server: str | None,
    data_dir: Path | None,
) -> ExitCode:
    """Make a key with the tenant, label and scopes of key ID and print it; the old one ends after the overlap."""
    rotation = check_document(KeyRotation, {"overlap_s": overlap_s, "expires_in_s": expires_in_s})
    _check_new(key_out)
    with ProgressView(build_messages()) as view, connect(read_where(server, data_dir), view.tell, may_start=False) as connected:
        made = connected.client.rotate_key(key_id, rotation)
    return _show_made(made, key_out, as_json=as_json)


@keys.command(short_help="Revoke a key.")
@click.argument("key_id", metavar="ID")
@take_json
@take_server
def revoke(*, key_id: str, as_json: bool, server: str | None, data_dir: Path | None) -> ExitCode:
    """Revoke key ID for good; it opens nothing from now on."""
    with ProgressView(build_messages()) as view, connect(read_where(server, data_dir), view.tell, may_start=False) as connected:
        info = connected.client.revoke_key(key_id)
    if as_json:
        write_json(info.model_dump(mode="json"))
    else:
        print_keys(build_output(), [info])
    return ExitCode.SUCCESS


def _show_made(made: MadeKey, key_out: Path | None, *, as_json: bool) -> ExitCode:
    if key_out is not None:
        write_key(key_out, made.key)
    if as_json:
        write_json(made.model_dump(mode="json", exclude={"key"} if key_out is not None else None))
        return ExitCode.SUCCESS
    print_made(build_messages(), made)
    if key_out is None:
        build_output().print(made.key, soft_wrap=True)
    return ExitCode.SUCCESS


def _check_new(path: Path | None) -> None:
    """Check that the key can be written before it is made: it is told once."""
    if path is not None and (path.exists() or not os.access(path.parent, os.W_OK | os.X_OK)):
        raise BadUsage(Fault(f"{path} cannot be written", "--key-out", "a new file in a folder that takes files", str(path)))
