"""`sentinel secrets show | rotate`: the server key, which seals what is secret in the record."""

from __future__ import annotations

import argparse
from collections.abc import Iterator
from contextlib import closing, contextmanager
from typing import Any

from sentinel.cli.acting import administrator_of
from sentinel.cli.output import print_json, print_table
from sentinel.keyring import SETTING, Keyring, open_keyring
from sentinel.records import Record, open_record
from sentinel.settings import Settings


def add_commands(commands: Any) -> None:
    """Add the commands to the parser."""
    secrets = commands.add_parser("secrets", help="the server key, which seals what is secret in the record")
    family = secrets.add_subparsers(metavar="COMMAND", required=True)
    for name, run, text in (
        ("show", run_show, "say which server key seals what, and where it comes from; never the key itself"),
        ("rotate", run_rotate, "seal everything anew, with the newest server key (docs/keys.md)"),
    ):
        command = family.add_parser(name, help=text)
        command.add_argument("--json", action="store_true")
        command.set_defaults(run=run)


def run_show(options: argparse.Namespace, settings: Settings) -> None:
    """Say which server keys there are, and what each is needed for."""
    with _opened(settings) as (record, keyring):
        _print(options, record, keyring)


def run_rotate(options: argparse.Namespace, settings: Settings) -> None:
    """Make the newest key the one in force: a fresh one in the file, or the first that the setting names."""
    with _opened(settings) as (record, keyring):
        admin = administrator_of(record)
        record.directory()  # says which key is missing, before anything is made
        if not keyring.given:
            keyring.add()
        with record.transaction():
            key_id = record.rotate_server_key()
            admin.note("server_key.rotated", f"server key {key_id}", None)
        keyring.forget_all_but(record.server_key_uses().keys() | {key_id})
        _print(options, record, keyring)


@contextmanager
def _opened(settings: Settings) -> Iterator[tuple[Record, Keyring]]:
    keyring = open_keyring(settings.record, settings.secret_key)
    with closing(open_record(settings.record, keyring=keyring)) as record:
        yield record, keyring


def _print(options: argparse.Namespace, record: Record, keyring: Keyring) -> None:
    in_force, uses = record.server_key_id(), record.server_key_uses()
    here = [key.id for key in keyring.at_hand()]
    rows = [
        {"server_key": name, "in_force": name == in_force, "here": name in here, "used_by": uses.get(name, 0)}
        for name in dict.fromkeys([*here, *([in_force] if in_force else []), *sorted(uses)])
    ]
    source = SETTING if keyring.given else str(keyring.path)
    if options.json:
        print_json({"from": source, "server_keys": rows})
        return
    print_table(rows, ("server_key", "in_force", "here", "used_by"), "There is no server key yet; one is made on first use.")
    print(f"Server keys come from {source}.")
