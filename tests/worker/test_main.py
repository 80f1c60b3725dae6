"""How the worker's process is put together."""

from contextlib import ExitStack
from pathlib import Path

from sentinel.records import Store, configured_record
from sentinel.settings import Settings
from worker.main import _open_stores


def test_what_may_take_long_does_not_claim(tmp_path: Path) -> None:
    """With a server, callbacks and the janitor's work are on another connection than claims and ends; a file has one writer."""
    for record, apart in ((f"sqlite:{tmp_path}/x.db", False), ("postgresql://nobody@127.0.0.1:1/x", True)):
        settings = Settings(record=record)
        store = Store(configured_record(settings, prepared=False))
        with ExitStack() as opened:
            opened.callback(store.record.close)
            stores = _open_stores(settings, store, opened)
            assert (stores.aside is not store) == apart
            assert (stores.writing is not store) == apart
            assert (stores.aside is not stores.writing) == apart
            assert stores.looking is not store
