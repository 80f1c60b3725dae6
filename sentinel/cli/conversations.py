"""`sentinel conversations list | hold | release | erase`: who answers in a chat, and erasing what is kept of it or of a person."""

from __future__ import annotations

import argparse
import sys
import time
from typing import Any

from sentinel.administration.tenants import check_tenant
from sentinel.cli.acting import administrator
from sentinel.cli.output import print_json, print_table
from sentinel.errors import BadInput, Conflict
from sentinel.job_view import iso
from sentinel.model import DEFAULT_TENANT, Chat, random_id
from sentinel.records.memory import Erasure
from sentinel.settings import Settings


def add_commands(commands: Any) -> None:
    """Add the commands to the parser."""
    family = commands.add_parser("conversations", help="who answers in a chat, and erasing it")
    conversations = family.add_subparsers(metavar="COMMAND", required=True)
    listing = conversations.add_parser("list", help="show the chats in which a person answers in place of the model")
    listing.add_argument("--tenant")
    listing.add_argument("--json", action="store_true")
    listing.set_defaults(run=run_list)
    hold = conversations.add_parser("hold", help="let a person answer in a chat; its messages are kept, the model is silent")
    _add_place(hold, required=True)
    hold.set_defaults(run=run_hold)
    release = conversations.add_parser("release", help="let the model answer again")
    _add_place(release)
    release.set_defaults(run=run_release)
    erase = conversations.add_parser("erase", help="erase what is kept of a chat, or with --user of a person")
    erase.add_argument("--user", action="store_true", help="the id is a sender's, as the platform names them")
    _add_place(erase)
    erase.set_defaults(run=run_erase)


def _add_place(parser: argparse.ArgumentParser, *, required: bool = False) -> None:
    parser.add_argument("id", help="as `sentinel jobs show` says it")
    parser.add_argument("--tenant", default=DEFAULT_TENANT)
    parser.add_argument("--channel", required=required)
    parser.add_argument("--source", required=required)


def run_list(options: argparse.Namespace, settings: Settings) -> None:
    """Show the held chats, the longest held first."""
    with administrator(settings) as admin:
        rows = [
            {
                "held_at": iso(held.held_at),
                "tenant": held.chat.tenant,
                "channel": held.chat.channel,
                "source": held.chat.source,
                "conversation": held.chat.conversation,
            }
            for held in admin.record.held(options.tenant)
        ]
    if options.json:
        print_json(rows)
    else:
        columns = ("held_at", "tenant", "channel", "source", "conversation")
        print_table(rows, columns, "The model answers in every chat.")


def run_hold(options: argparse.Namespace, settings: Settings) -> None:
    """Hold the chat."""
    with administrator(settings) as admin:
        with admin.record.transaction():
            check_tenant(admin.record, options.tenant)
            admin.record.hold(Chat(options.tenant, options.channel, options.source, options.id), admin.now)
            admin.note("conversation.held", f"a chat of {options.channel}/{options.source}", options.tenant)
        print("The model is silent in this chat until: sentinel conversations release …")


def run_release(options: argparse.Namespace, settings: Settings) -> int:
    """Release the chat; 1 if there was none to release."""
    with administrator(settings) as admin:
        with admin.record.transaction():
            released = admin.record.release(options.tenant, options.id, options.channel, options.source)
            if released:
                admin.note("conversation.released", "a chat", options.tenant)  # its id may name a person, and the audit stays
        if not released:
            print("No person answers in a chat of that id.", file=sys.stderr)
            return 1
        print("The model answers again.")
        return 0


def run_erase(options: argparse.Namespace, settings: Settings) -> None:
    """Erase all there is, now; what still runs is erased by a worker when it has ended."""
    if not options.id:
        raise BadInput("The id is empty.")
    with administrator(settings) as admin:
        record = admin.record
        check_tenant(record, options.tenant)
        conversation, sender = (None, options.id) if options.user else (options.id, None)
        erasure = Erasure(random_id(), options.tenant, conversation, sender, options.channel, options.source)
        with record.transaction():
            if not record.request_erasure(erasure, admin.now):
                raise Conflict(f"Too many erasures of tenant {options.tenant} are pending; a worker goes on with them.")
            admin.note("erasure.requested", f"erasure {erasure.id}", options.tenant)  # whose it was is to be forgotten
        while record.erase(time.time()):
            pass
        found = record.find_erasure(erasure.id, options.tenant)
        done = found is not None and found.done_at is not None
        print(
            f"Erased {found.jobs if found else 0} jobs."
            + ("" if done else " Some still run; a worker erases them when they have ended.")
        )
