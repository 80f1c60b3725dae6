"""The command line: one file per family of commands. Wiring only; what a command does lives elsewhere."""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Sequence

from sentinel import __version__
from sentinel.cli import (
    audit,
    bench_model,
    chaos,
    conversations,
    deliveries,
    demo,
    doctor,
    jobs,
    keys,
    processes,
    secrets,
    sources,
    spike,
    status,
    subscriptions,
    tenants,
)
from sentinel.errors import BadInput, Conflict, NotFound, SentinelError, SettingsError
from sentinel.logs import configure_logs
from sentinel.settings import load_settings, unknown_variables

EPILOG = """\
Start here:
  sentinel up                         gateway and worker, as two processes, on SQLite
  sentinel demo                       one webhook per channel through it all, with the replies
  sentinel keys create                a key for POST /v1/jobs (--scope admin: for the admin API)
  sentinel sources add shop --channel whatsapp --set app_secret=env:APP_SECRET ...
  sentinel status                     how things are now, in plain words
  sentinel doctor                     what is wrong, and what to do about it

Settings come from SENTINEL_... environment variables and from sentinel.toml; docs/settings.md lists them.
"""


CALLERS_FAULTS = (SettingsError, BadInput, NotFound, Conflict)  # what the same command would meet again


def main(arguments: Sequence[str] | None = None) -> None:
    """Run one command and exit: 0 done, 1 no or not now, 2 the command or a setting is wrong, 130 interrupted."""
    options = _parser().parse_args(arguments)
    try:
        settings = load_settings(os.environ)
        configure_logs(settings.log_format, settings.log_level)
        for name in unknown_variables(os.environ):
            print(f"sentinel: {name} is set, but nothing here reads it; docs/settings.md lists the settings.", file=sys.stderr)
        sys.exit(options.run(options, settings))
    except (SentinelError, KeyboardInterrupt, BaseExceptionGroup) as error:
        sys.exit(_explain(error))
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        sys.exit(1)


def _explain(error: BaseException) -> int:
    """The exit code for an error that a command ended with, said in its own words; what we did not foresee is raised again."""
    while isinstance(error, BaseExceptionGroup) and len(error.exceptions) == 1:
        error = error.exceptions[0]  # a nursery wraps what its only failed task raised
    if isinstance(error, KeyboardInterrupt):
        return 130
    if not isinstance(error, SentinelError):
        raise error
    print(f"sentinel: {error.detail}", file=sys.stderr)
    return 2 if isinstance(error, CALLERS_FAULTS) else 1


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="sentinel",
        description="The front door and the engine room of AI agents that live in chats.",
        epilog=EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--version", action="version", version=__version__)
    commands = parser.add_subparsers(title="commands", metavar="COMMAND ...", required=True)
    for family in (
        processes,
        demo,
        status,
        doctor,
        bench_model,
        sources,
        keys,
        secrets,
        jobs,
        deliveries,
        tenants,
        audit,
        subscriptions,
        conversations,
        chaos,
        spike,
    ):
        family.add_commands(commands)
    version = commands.add_parser("version", help="print the version")
    version.set_defaults(run=lambda _options, _settings: print(__version__))
    return parser
