"""How many threads compute, on a machine of a few lines."""

from __future__ import annotations

from worker.llama_threads import Threads


def run(threads: Threads, now: float, seconds: float, free: int) -> tuple[float, dict[int, float]]:
    """Steps for so long on a machine with `free` cores, where a thread too many makes a step ten times as long; time by count."""
    spent: dict[int, float] = {}
    end = now + seconds
    while now < end:
        count = threads.count
        wall = 0.02 / count if count <= free else 0.2
        now += wall
        spent[count] = spent.get(count, 0.0) + wall
        threads.observe(now, wall, wall * min(count, free))
    return now, spent


def test_free_cores_are_all_used():
    """With the machine to itself, the count never changes."""
    assert run(Threads(4), 0.0, 10.0, free=4)[1].keys() == {4}


def test_a_taken_core_is_left_alone():
    """With one of two cores taken, nine tenths of the time or more are spent on one thread, and trials become rare."""
    _now, spent = run(Threads(2), 0.0, 60.0, free=1)
    assert spent[2] < 6.0
    assert spent[1] > 54.0


def test_a_freed_core_is_taken_again():
    """When the other program is done, both cores compute again within the longest pause, and stay."""
    threads = Threads(2)
    now, _ = run(threads, 0.0, 30.0, free=1)
    now, _spent = run(threads, now, 70.0, free=2)
    assert threads.count == 2
    assert run(threads, now, 10.0, free=2)[1].keys() == {2}


def test_the_last_thread_stays():
    """However little a single thread runs, there is one."""
    threads = Threads(2)
    for step in range(100):
        threads.observe(float(step), 1.0, 0.01)
    assert threads.count >= 1
