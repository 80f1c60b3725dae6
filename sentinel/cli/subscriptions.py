"""`sentinel plans set | list`, `sentinel subscriptions set | show | list | end`: what tenants may use, and what they have used."""

from __future__ import annotations

import argparse
import time
from collections.abc import Sequence
from datetime import UTC, datetime
from typing import Any

import attrs

from sentinel.administration import Administrator, check_name
from sentinel.administration.tenants import check_tenant
from sentinel.cli.acting import administrator
from sentinel.cli.output import print_json, print_table
from sentinel.edge.plans import Terms, parse_terms, terms_text
from sentinel.edge.quota import Account, Used, month_of
from sentinel.edge.subscriptions import Status, Subscription, standing
from sentinel.errors import BadInput, Conflict, NotFound
from sentinel.job_view import iso
from sentinel.model import DEFAULT_TENANT
from sentinel.records import Record, configured_record
from sentinel.settings import Settings

EVER_SECONDS = 1e9


def add_commands(commands: Any) -> None:
    """Add the commands to the parser."""
    plans = commands.add_parser("plans", help="what can be subscribed to").add_subparsers(metavar="COMMAND", required=True)
    setting = plans.add_parser("set", help="add a plan, or replace its terms", epilog=_terms_help(), formatter_class=_Plain)
    setting.add_argument("name")
    setting.add_argument("terms", nargs="*", metavar="TERM=VALUE")
    setting.set_defaults(run=run_set_plan)
    listing = plans.add_parser("list", help="show the plans")
    listing.add_argument("--json", action="store_true")
    listing.set_defaults(run=run_list_plans)

    family = commands.add_parser("subscriptions", help="who may use how much")
    subscriptions = family.add_subparsers(metavar="COMMAND", required=True)
    put = subscriptions.add_parser("set", help="give a tenant a plan", epilog=_terms_help(), formatter_class=_Plain)
    put.add_argument("--tenant", default=DEFAULT_TENANT)
    put.add_argument("--plan", required=True)
    put.add_argument("--status", choices=[status.value for status in Status], default=Status.ACTIVE.value)
    put.add_argument("--valid-until", metavar="TIME", help="such as 2026-12-31 or 2026-12-31T12:00:00Z; UTC if it does not say")
    put.add_argument("terms", nargs="*", metavar="TERM=VALUE", help="where they differ from the plan's")
    put.set_defaults(run=run_set)
    for name, run, text in (("show", run_show, "what a tenant may use, and has used this month"), ("end", run_end, "end it now")):
        one = subscriptions.add_parser(name, help=text)
        one.add_argument("--tenant", default=DEFAULT_TENANT)
        one.add_argument("--json", action="store_true")
        one.set_defaults(run=run)
    listing = subscriptions.add_parser("list", help="show the subscriptions")
    listing.add_argument("--json", action="store_true")
    listing.set_defaults(run=run_list)


class _Plain(argparse.RawDescriptionHelpFormatter):
    """Leaves the list of terms as it is."""


def run_set_plan(options: argparse.Namespace, settings: Settings) -> None:
    """Keep the plan; its subscriptions have the new terms within 5 seconds."""
    check_name("plan", options.name)
    terms = _terms(options.terms)
    admin = administrator(settings)
    with admin.record.transaction():
        admin.record.put_plan(options.name, terms, admin.now)
        admin.note("plan.put", f"plan {options.name}", None, terms=terms_text(terms))
    print(f"Plan {options.name}: {_words(terms)}.")


def run_list_plans(options: argparse.Namespace, settings: Settings) -> None:
    """Show the plans and their terms."""
    plans = configured_record(settings).plans()
    if options.json:
        print_json([{"name": name, "terms": terms_text(terms)} for name, terms in plans.items()])
    else:
        rows = [{"name": name, "terms": _words(terms)} for name, terms in plans.items()]
        print_table(rows, ("name", "terms"), "There are no plans; see: sentinel plans set --help")


def run_set(options: argparse.Namespace, settings: Settings) -> None:
    """Give the tenant the plan; it is in force within 5 seconds."""
    admin = administrator(settings)
    record, now = admin.record, admin.now
    check_tenant(record, options.tenant)
    if options.plan not in record.plans():
        raise NotFound(f"There is no plan {options.plan!r}; add it with: sentinel plans set {options.plan} TERM=VALUE")
    until = _moment(options.valid_until) if options.valid_until else None
    given = Subscription(options.tenant, options.plan, Status(options.status), until, _terms(options.terms), event_at=now)
    _put(admin, given)
    print(f"{options.tenant} has the plan {options.plan} ({options.status}{f', until {iso(until)}' if until else ''}).")


def run_end(options: argparse.Namespace, settings: Settings) -> None:
    """End the tenant's subscription."""
    admin = administrator(settings)
    _put(admin, attrs.evolve(_found(admin.record, options.tenant), status=Status.ENDED, event_at=admin.now))
    print(f"The subscription of {options.tenant} has ended.")


def run_show(options: argparse.Namespace, settings: Settings) -> None:
    """Show what the tenant may use and what it has used."""
    record, now = configured_record(settings), time.time()
    used = dict(record.usage(month_of(now), EVER_SECONDS)).get(Account(options.tenant), Used())
    row = _row(_found(record, options.tenant), now) | {"month": month_of(now), "jobs": used.jobs, "tokens": used.tokens}
    if options.json:
        print_json(row)
    else:
        print_table([row], tuple(row), "")


def run_list(options: argparse.Namespace, settings: Settings) -> None:
    """Show every subscription."""
    now = time.time()
    rows = [_row(each, now) for each in configured_record(settings).directory().subscriptions.values()]
    if options.json:
        print_json(rows)
    else:
        columns = ("tenant", "plan", "status", "standing", "valid_until", "terms")
        print_table(rows, columns, "There are no subscriptions; see: sentinel subscriptions set --help")


def _row(subscription: Subscription, now: float) -> dict[str, Any]:
    return {
        "tenant": subscription.tenant,
        "plan": subscription.plan,
        "status": subscription.status.value,
        "standing": standing(subscription, now).value,
        "valid_until": iso(subscription.valid_until),
        "terms": _words(subscription.terms),
    }


def _found(record: Record, tenant: str) -> Subscription:
    check_tenant(record, tenant)
    subscription = record.directory().subscriptions.get(tenant)
    if subscription is None:
        raise NotFound(f"{tenant} has no subscription; see: sentinel subscriptions set --help")
    return subscription


def _put(admin: Administrator, subscription: Subscription) -> None:
    with admin.record.transaction():
        if not admin.record.put_subscription(subscription, admin.now):
            raise Conflict(f"The subscription of {subscription.tenant} was changed meanwhile by something newer.")
        detail = {"plan": subscription.plan, "status": subscription.status.value, "valid_until": iso(subscription.valid_until)}
        admin.note("subscription.put", f"subscription of {subscription.tenant}", subscription.tenant, **detail)


def _terms(pairs: Sequence[str]) -> Terms:
    return parse_terms({name: value for name, _, value in (pair.partition("=") for pair in pairs)})


def _words(terms: Terms) -> str:
    return " ".join(f"{name}={value}" for name, value in terms_text(terms).items()) or "no limits"


def _moment(text: str) -> float:
    try:
        moment = datetime.fromisoformat(text)
    except ValueError:
        raise BadInput(f"{text!r} is not a time such as 2026-12-31T12:00:00Z.") from None
    return (moment if moment.tzinfo else moment.replace(tzinfo=UTC)).timestamp()


def _terms_help() -> str:
    fields = attrs.fields(Terms)
    lines = [f"  {field.name:<12} {field.metadata['help']} ({field.metadata['allowed']})" for field in fields]
    return "\n".join(["terms; what is not there is not limited:", *lines])
