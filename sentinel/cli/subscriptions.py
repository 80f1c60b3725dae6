"""`sentinel plans set | list`, `sentinel subscriptions set | show | list | end`: what tenants may use, and what they have used."""

from __future__ import annotations

import argparse
from collections.abc import Mapping, Sequence
from typing import Any

import attrs

from sentinel.administration import subscriptions
from sentinel.cli.acting import administrator
from sentinel.cli.output import print_document, print_json, print_table
from sentinel.edge.billing import read_time
from sentinel.edge.plans import Terms
from sentinel.edge.subscriptions import Status
from sentinel.model import DEFAULT_TENANT
from sentinel.settings import Settings

COLUMNS = ("tenant", "plan", "status", "standing", "valid_until", "terms")


def add_commands(commands: Any) -> None:
    """Add the commands to the parser."""
    plans = commands.add_parser("plans", help="what can be subscribed to").add_subparsers(metavar="COMMAND", required=True)
    plan = plans.add_parser("set", help="add a plan, or replace its terms", epilog=_terms_help(), formatter_class=_Plain)
    plan.add_argument("name")
    plan.set_defaults(run=run_set_plan)
    listing = plans.add_parser("list", help="show the plans")
    listing.set_defaults(run=run_list_plans)

    family = commands.add_parser("subscriptions", help="who may use how much").add_subparsers(metavar="COMMAND", required=True)
    put = family.add_parser("set", help="give a tenant a plan", epilog=_terms_help(), formatter_class=_Plain)
    put.add_argument("--plan", required=True)
    put.add_argument("--status", choices=[status.value for status in Status], default=Status.ACTIVE.value)
    put.add_argument("--valid-until", metavar="TIME", help="such as 2026-12-31 or 2026-12-31T12:00:00Z; UTC if it does not say")
    put.set_defaults(run=run_set)
    show = family.add_parser("show", help="what a tenant may use, and has used this month")
    show.set_defaults(run=run_show)
    end = family.add_parser("end", help="end it now")
    end.set_defaults(run=run_end)
    everyone = family.add_parser("list", help="show the subscriptions")
    everyone.set_defaults(run=run_list)
    for command in (put, show, end):
        command.add_argument("--tenant", default=DEFAULT_TENANT)
    for command in (listing, show, end, everyone, put, plan):
        command.add_argument("--json", action="store_true")
    for command in (plan, put):
        command.add_argument("terms", nargs="*", metavar="TERM=VALUE")


class _Plain(argparse.RawDescriptionHelpFormatter):
    """Leaves the list of terms as it is."""


def run_set_plan(options: argparse.Namespace, settings: Settings) -> None:
    """Keep the plan; its subscriptions have the new terms within 5 seconds."""
    with administrator(settings) as admin:
        _show(options, subscriptions.set_plan(admin, options.name, _pairs(options.terms)))


def run_list_plans(options: argparse.Namespace, settings: Settings) -> None:
    """Show the plans and their terms."""
    with administrator(settings) as admin:
        rows = subscriptions.plans(admin)
    _show_all(options, rows, ("name", "terms"), "There are no plans; see: sentinel plans set --help")


def run_set(options: argparse.Namespace, settings: Settings) -> None:
    """Give the tenant the plan; it is in force within 5 seconds."""
    until = read_time("--valid-until", options.valid_until) if options.valid_until else None
    terms = _pairs(options.terms)
    with administrator(settings) as admin:
        _show(options, subscriptions.give(admin, options.tenant, options.plan, options.status, until=until, terms=terms))


def run_end(options: argparse.Namespace, settings: Settings) -> None:
    """End the tenant's subscription."""
    with administrator(settings) as admin:
        _show(options, subscriptions.end(admin, options.tenant))


def run_show(options: argparse.Namespace, settings: Settings) -> None:
    """Show what the tenant may use and what it has used."""
    with administrator(settings) as admin:
        _show(options, subscriptions.show(admin, options.tenant))


def run_list(options: argparse.Namespace, settings: Settings) -> None:
    """Show every subscription."""
    empty = "There are no subscriptions: every tenant has the default plan (SENTINEL_DEFAULT_PLAN)."
    with administrator(settings) as admin:
        _show_all(options, subscriptions.listing(admin), COLUMNS, empty)


def _show(options: argparse.Namespace, document: Mapping[str, Any]) -> None:
    print_json(document) if options.json else print_document(_in_words(document))


def _show_all(options: argparse.Namespace, rows: Sequence[Mapping[str, Any]], columns: Sequence[str], empty: str) -> None:
    print_json(rows) if options.json else print_table([_in_words(row) for row in rows], columns, empty)


def _in_words(document: Mapping[str, Any]) -> dict[str, Any]:
    used = document.get("used")
    words = {"terms": " ".join(f"{name}={value}" for name, value in document["terms"].items()) or "no limits"}
    return dict(document) | words | ({"used": f"{used['jobs']} jobs, {used['tokens']} tokens in {used['month']}"} if used else {})


def _pairs(words: Sequence[str]) -> dict[str, str]:
    return {name: value for name, _, value in (word.partition("=") for word in words)}


def _terms_help() -> str:
    fields = attrs.fields(Terms)
    lines = [f"  {field.name:<12} {field.metadata['help']} ({field.metadata['allowed']})" for field in fields]
    return "\n".join(["terms, for `set` what differs from the plan's; what is not there is not limited:", *lines])
