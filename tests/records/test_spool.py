"""The spool keeps what it says, in order, whatever happens to its file."""

import threading
from contextlib import closing
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sentinel.chaos.disk import open_disk, why_no_disk
from sentinel.errors import Unavailable
from sentinel.model import State
from sentinel.records import rows
from sentinel.records.spool import FILE, Spool
from tests.records.conftest import NOW, new_job


@pytest.fixture
def spool(tmp_path: Path):
    with closing(Spool(tmp_path, 5.0)) as opened:
        yield opened


def test_what_is_kept_comes_back(spool):
    """A job comes out as it went in, in the order of arrival, however often it was kept."""
    jobs = [
        new_job(conversation="c", reply_to={"a": 1}, options={"b": [2]}, replay_of="x", fingerprint="f"),
        new_job(state=State.QUARANTINED, last_error="odd"),
        new_job(),
    ]
    assert spool.keep([jobs[0], jobs[1], jobs[0]], NOW) == [True, True, False]
    assert spool.keep(jobs, NOW) == [False, False, True]
    assert spool.oldest(10) == jobs
    assert spool.oldest(1) == jobs[:1]
    assert spool.forget([jobs[0].id, "unknown"]) == 2
    assert (spool.count().waiting, spool.count().since) == (2, NOW)


@pytest.mark.skipif(why_no_disk() is not None, reason=str(why_no_disk()))
def test_a_disk_that_it_has_filled_itself(tmp_path):
    """It stops while there is space to empty it again: nobody else could free any on a disk of its own."""
    with open_disk(tmp_path / "disk", 48) as disk, closing(Spool(disk.folder, 1.0)) as spool:
        kept = []
        with pytest.raises(Unavailable, match="MB left"):
            while True:
                jobs = [new_job(input=({"role": "user", "content": "x" * 3_000},)) for _ in range(100)]
                spool.keep(jobs, NOW)
                kept += jobs
        assert len(kept) > 2_000
        for start in range(0, len(kept), 500):
            spool.forget([job.id for job in kept[start : start + 500]])
        assert spool.count().waiting == 0
        assert spool.keep([new_job()], NOW) == [True]


@given(st.text(), st.text(), st.dictionaries(st.text(), st.integers(-(2**63), 2**63 - 1)))
def test_every_job_survives_its_row(text, conversation, reply_to):
    """The row of a job gives the job again, whatever is in it."""
    job = new_job(conversation=conversation, reply_to=reply_to, input=({"role": "user", "content": text},))
    assert rows.new_job(rows.decode(rows.encode(rows.job_row(job)))) == job


def test_rejected_ones_are_kept_apart(spool):
    """What the record refused is out of the way and not lost."""
    job = new_job()
    spool.keep([job], NOW)
    spool.reject(job.id, "too odd", NOW)
    assert (spool.oldest(1), spool.count().waiting, spool.count().rejected) == ([], 0, 1)


def test_two_processes_share_it(tmp_path):
    """Several writers at a time are no trouble to each other."""
    spools = [Spool(tmp_path, 10.0) for _ in range(3)]
    batches = [[[new_job() for _ in range(5)] for _ in range(30)] for _ in spools]

    def write(spool: Spool, mine: list) -> None:
        for batch in mine:
            assert all(spool.keep(batch, NOW))

    threads = [threading.Thread(target=write, args=pair) for pair in zip(spools, batches, strict=True)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert spools[0].count().waiting == 450
    for spool in spools:
        spool.close()


@pytest.mark.parametrize(
    "damage",
    [
        lambda data: b"\xff" * len(data),
        lambda data: data[:8192] + b"\xa5" * 4096 + data[12288:],
        lambda data: data[: len(data) // 2],
        lambda data: b"",
    ],
    ids=["all of it", "a page", "cut in half", "emptied"],
)
def test_a_damaged_file(tmp_path, damage):
    """A spool whose file is damaged opens all the same, with what can be read of it, and the file is kept for a person."""
    jobs = [new_job(input=({"role": "user", "content": "x" * 900},)) for _ in range(200)]
    with closing(Spool(tmp_path, 1.0)) as spool:
        spool.keep(jobs, NOW)
    file = tmp_path / FILE
    whole = file.read_bytes()
    damaged = damage(whole)
    file.write_bytes(damaged)
    with closing(Spool(tmp_path, 1.0)) as spool:
        saved = spool.oldest(1000)
        assert {job.id for job in saved} <= {job.id for job in jobs}
        assert all(job in jobs for job in saved)
        fresh = new_job()
        assert spool.keep([fresh], NOW) == [True]
    if damaged:
        assert any(path.read_bytes() == damaged for path in tmp_path.glob(f"{FILE}.damaged-*"))
    assert file.stat().st_mode & 0o77 == 0


def test_damage_while_it_is_open(tmp_path):
    """A write that meets damage sets the file aside and is kept in a new one."""
    with closing(Spool(tmp_path, 1.0)) as spool:
        spool.keep([new_job(input=({"role": "user", "content": "x" * 3000},)) for _ in range(300)], NOW)
        spool._file.execute("PRAGMA wal_checkpoint(TRUNCATE)")
        spool._file.execute("PRAGMA cache_size = 1")
        with (tmp_path / FILE).open("r+b") as file:
            file.write(b"\xff" * 1_000_000)
        job = new_job()
        assert spool.keep([job], NOW) == [True]
        assert job in spool.oldest(1000)
