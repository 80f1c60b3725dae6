"""`sentinel up | serve | worker | migrate`: the programs themselves."""

from __future__ import annotations

import argparse
import gc
import os
import resource
import sys
import tempfile
from contextlib import closing, suppress
from functools import partial
from typing import Any

import trio

from sentinel.errors import Unavailable
from sentinel.listening import is_inherited, open_listener
from sentinel.processes import SIBLINGS
from sentinel.records import configured_record
from sentinel.settings import Settings, environment_name, without_password
from sentinel.supervisor import Child, supervise
from worker.tools_allowed import check_tools

STOP_MARGIN_SECONDS = 5.0


def add_commands(commands: Any) -> None:
    """Add the commands to the parser."""
    up = commands.add_parser("up", help="run gateway and worker, and start again whichever dies")
    up.set_defaults(run=run_up)
    serve = commands.add_parser("serve", help="run the gateway")
    serve.add_argument("--processes", type=int, help="how many processes share the address (SENTINEL_PROCESSES)")
    serve.add_argument("--one", action="store_true", help=argparse.SUPPRESS)
    serve.set_defaults(run=run_serve)
    commands.add_parser("worker", help="run a worker").set_defaults(run=run_worker)
    commands.add_parser("migrate", help="bring the record's schema up to date").set_defaults(run=run_migrate)


def run_up(_options: argparse.Namespace, settings: Settings) -> int:
    """Gateway and worker as two processes under this one."""
    with suppress(Unavailable):  # the schema first, so that the two do not race for it; a record that is locked now may not be soon
        configured_record(settings).close()
    given = _given(settings.bind)
    command = [sys.executable, "-m", "sentinel"]
    children = [Child("serve", [*command, "serve"], given + _given(settings.admin_bind), reloads=_has_certificates(settings))]
    children.append(Child("worker", [*command, "worker"], given))
    return trio.run(supervise, children, settings.grace_seconds + 2 * STOP_MARGIN_SECONDS)


def run_serve(options: argparse.Namespace, settings: Settings) -> int:
    """The gateway, until it is told to stop; several processes of it are kept alive by this one."""
    from sentinel.serve import serve

    processes = options.processes or settings.processes
    if options.one or processes == 1:
        allow_descriptors()
        calm_garbage_collector()
        trio.run(partial(serve, settings, check_settings=check_tools))
        return 0
    os.environ[environment_name("processes")] = str(processes)
    files: tuple[int, ...] = ()
    if is_inherited(settings.bind):
        listener = open_listener(settings.bind)  # stays open here, so that no connection is lost with a child
        files = (listener.fileno(),)
        os.environ[environment_name("bind")] = f"fd://{listener.fileno()}"
    with tempfile.TemporaryDirectory(prefix="sentinel-") as folder:
        children = [_one_of_several(number, folder, files, settings) for number in range(1, processes + 1)]
        return trio.run(supervise, children, settings.grace_seconds + STOP_MARGIN_SECONDS)


def allow_descriptors() -> None:
    """Let this process open as many files as the system lets it: a connection is one, and a soft limit of 1,024 is usual."""
    _soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))


def calm_garbage_collector() -> None:
    """
    Look for cycles seldom, and never in what was loaded at the start.

    A request makes many objects and no cycles; with a threshold of 700 a busy gateway looks for them several times a request, and a
    worker spends half of the time on it in which it turns the rows of a claim into jobs.
    """
    gc.collect()
    gc.freeze()
    gc.set_threshold(50_000, 20, 50)


def run_worker(_options: argparse.Namespace, settings: Settings) -> None:
    """A worker, until it is told to stop; it yields the cores to the gateway."""
    from worker.main import work

    os.nice(settings.worker_nice)
    calm_garbage_collector()
    trio.run(partial(work, settings))


def run_migrate(_options: argparse.Namespace, settings: Settings) -> None:
    """Apply what is missing, and say what was."""
    with closing(configured_record(settings, prepared=False)) as record:
        for name in record.migrate():
            print(f"applied {name}")
    print(f"{without_password(settings.record)} is up to date.")


def _one_of_several(number: int, folder: str, files: tuple[int, ...], settings: Settings) -> Child:
    """A process of the gateway; an admin socket that was opened for us is the first one's, and the others know of none."""
    command = [sys.executable, "-m", "sentinel", "serve", "--one"]
    environment, admin = {SIBLINGS: f"{folder}:{number}"}, _given(settings.admin_bind)
    if admin and number > 1:
        environment, admin = environment | {environment_name("admin_bind"): "off"}, ()
    return Child(f"serve {number}", command, files + admin, environment, _has_certificates(settings))


def _given(bind: str) -> tuple[int, ...]:
    """The descriptor of a socket that was opened for us, to be passed on."""
    return (int(bind.removeprefix("fd://")),) if bind.startswith("fd://") else ()


def _has_certificates(settings: Settings) -> bool:
    """Whether `sentinel serve` has something to read again on SIGHUP."""
    return bool(settings.tls_certificate or settings.admin_tls_certificate)
