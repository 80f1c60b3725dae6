"""The checker is worth what it catches: a clean history passes, and every mutation of it is found."""

from __future__ import annotations

import random
from collections.abc import Callable
from contextlib import closing
from pathlib import Path

import attrs
import pytest

from sentinel.chaos.checker import Rules, check
from sentinel.chaos.history import FAIL, INFO, OK, Arrival, Attempt, History, JobEnd, Journal, Sample, read_history, write_history

EVENTS = 5_000


def clean_history() -> History:
    """5,000 webhooks: each acknowledged, done and answered once; every tenth is part of a conversation of five."""
    attempts, jobs, arrivals = [], [], []
    for number in range(EVENTS):
        at = number / 500
        chat = f"chat-{number // 50}" if number % 10 == 0 else ""
        event, text, job = f"event-{number}", f"text-{number}", f"job-{number}"
        attempts.append(
            Attempt("t", "telegram", "s", event, text, chat, number // 10 % 5, 0, at, at, at + 0.02, OK, 200, (job,), False)
        )
        jobs.append(JobEnd(job, "t", "telegram", "s", event, "succeeded", 1, 0))
        arrivals.append(Arrival("t", "", text, at + 0.1))
    return History(tuple(attempts), tuple(jobs), tuple(arrivals))


CLEAN = clean_history()
VICTIM = random.Random(7).randrange(EVENTS)


def change(history: History, name: str, line: int, **values: object) -> History:
    """The history with one line of it changed."""
    lines = list(getattr(history, name))
    lines[line] = attrs.evolve(lines[line], **values)
    return attrs.evolve(history, **{name: tuple(lines)})


def without(history: History, name: str, at: int) -> History:
    lines = list(getattr(history, name))
    del lines[at]
    return attrs.evolve(history, **{name: tuple(lines)})


def with_line(history: History, name: str, line: object) -> History:
    return attrs.evolve(history, **{name: (*getattr(history, name), line)})


def without_job_and_reply(history: History) -> History:
    return without(without(history, "jobs", VICTIM), "arrivals", VICTIM)


def swapped(history: History) -> History:
    """The second and third message of a conversation answered the wrong way round."""
    second, third = history.arrivals[10], history.arrivals[20]
    return change(change(history, "arrivals", 10, at=third.at), "arrivals", 20, at=second.at)


def refusing(history: History, ready: int) -> History:
    """Nobody is acknowledged between the fourth and the seventh second, and /readyz says `ready` throughout."""
    attempts = tuple(
        attrs.evolve(attempt, outcome=FAIL, status=503) if 4 <= attempt.answered <= 7 else attempt for attempt in history.attempts
    )
    later = tuple(
        attrs.evolve(attempt, planned=9.0, sent=9.0, answered=9.1) for attempt in history.attempts if 4 <= attempt.answered <= 7
    )
    health = tuple((number / 4, ready) for number in range(40))
    return attrs.evolve(history, attempts=attempts + later, health=health)


MUTATIONS: dict[str, tuple[str, Callable[[History], History]]] = {
    "one lost": ("I1", without_job_and_reply),
    "one still running": ("I1", lambda history: change(history, "jobs", VICTIM, state="running")),
    "one failed": ("I1", lambda history: change(history, "jobs", VICTIM, state="failed")),
    "one done without effect": ("I1", lambda history: without(history, "arrivals", VICTIM)),
    "one job twice": ("I2", lambda history: with_line(history, "jobs", attrs.evolve(history.jobs[VICTIM], id="other"))),
    "one reply twice": ("I2", lambda history: with_line(history, "arrivals", history.arrivals[VICTIM])),
    "a job from nowhere": (
        "I3",
        lambda history: with_line(history, "jobs", attrs.evolve(history.jobs[0], id="ghost", event="ghost")),
    ),
    "a reply from nowhere": ("I3", lambda history: with_line(history, "arrivals", Arrival("t", "", "ghost", 1.0))),
    "memory grown": ("I4", lambda history: with_line(history, "samples", Sample("gateway", 1.0, 10**9, 10))),
    "descriptors leaked": ("I4", lambda history: with_line(history, "samples", Sample("gateway", 1.0, 10**6, 10**4))),
    "one left in the spool": ("I5", lambda history: attrs.evolve(history, spooled=1)),
    "one never acknowledged": ("I5", lambda history: change(history, "attempts", VICTIM, outcome=FAIL, status=503)),
    "health that lies": ("I6", lambda history: refusing(history, 200)),
    "a 2xx without a job": ("I8", lambda history: without(history, "jobs", VICTIM)),
    "a 2xx without an id": ("I8", lambda history: change(history, "attempts", VICTIM, jobs=())),
    "a 2xx for another's job": ("I8", lambda history: change(history, "attempts", VICTIM, jobs=(f"job-{VICTIM - 1}",))),
    "an order swapped": ("order", swapped),
    "an answer too late": ("time", lambda history: change(history, "attempts", VICTIM, answered=VICTIM / 500 + 1.2)),
    "a refusal": (
        "answer",
        lambda history: with_line(history, "attempts", attrs.evolve(history.attempts[VICTIM], outcome=FAIL, status=503)),
    ),
    "a fault's answer": (
        "answer",
        lambda history: with_line(history, "attempts", attrs.evolve(history.attempts[VICTIM], outcome=FAIL, status=500)),
    ),
    "no answer": (
        "answer",
        lambda history: with_line(history, "attempts", attrs.evolve(history.attempts[VICTIM], outcome=INFO, status=0)),
    ),
}


def test_a_clean_history_passes() -> None:
    """Nothing is found where nothing is wrong."""
    assert check(CLEAN) == []


@pytest.mark.parametrize("name", MUTATIONS)
def test_every_mutation_is_caught(name: str) -> None:
    """One wrong line among 5,000 is found, under the rule that it breaks."""
    rule, mutate = MUTATIONS[name]
    assert rule in {finding.rule for finding in check(mutate(CLEAN))}


def test_the_same_key_twice_is_one_visible_reply() -> None:
    """A platform that takes an idempotency key shows a repeated reply once."""
    keyed = attrs.evolve(CLEAN, arrivals=tuple(attrs.evolve(arrival, key=arrival.text) for arrival in CLEAN.arrivals))
    assert check(with_line(keyed, "arrivals", keyed.arrivals[VICTIM])) == []
    other_key = attrs.evolve(keyed.arrivals[VICTIM], key="another")
    assert {finding.rule for finding in check(with_line(keyed, "arrivals", other_key))} == {"I2"}


def test_what_a_scenario_allows_is_allowed() -> None:
    """Refusals, silence, repeated replies and quarantine pass where the rules say so, and only as many."""
    refused = attrs.evolve(CLEAN.attempts[VICTIM], outcome=FAIL, status=503)
    silent = attrs.evolve(CLEAN.attempts[VICTIM], outcome=INFO, status=0)
    assert check(with_line(CLEAN, "attempts", refused), Rules(refusals_allowed=True)) == []
    assert check(with_line(CLEAN, "attempts", attrs.evolve(refused, status=500)), Rules(refusals_allowed=True)) != []
    assert check(with_line(CLEAN, "attempts", silent), Rules(silence_allowed=True)) == []
    twice = with_line(CLEAN, "arrivals", CLEAN.arrivals[VICTIM])
    assert check(twice, Rules(repeats_allowed=1)) == []
    assert check(with_line(twice, "arrivals", CLEAN.arrivals[VICTIM - 1]), Rules(repeats_allowed=1)) != []
    quarantined = without(change(CLEAN, "jobs", VICTIM, state="quarantined"), "arrivals", VICTIM)
    assert check(quarantined, Rules(quarantined_allowed=frozenset({f"text-{VICTIM}"}))) == []


def beside_a_loud_tenant(**late: float) -> History:
    """Every other event is the loud tenant's; from second 4 to 7 it is loud, and what `late` names is so many seconds later."""

    def of_tenant(number: int) -> str:
        return "loud" if number % 2 else "t"

    def later(what: str, number: int) -> float:
        return late.get(f"{of_tenant(number)}_{what}", 0.0) if 4 <= number / 500 <= 7 else 0.0

    attempts = tuple(
        attrs.evolve(each, tenant=of_tenant(number), answered=each.answered + later("ack", number))
        for number, each in enumerate(CLEAN.attempts)
    )
    jobs = tuple(attrs.evolve(each, tenant=of_tenant(number)) for number, each in enumerate(CLEAN.jobs))
    arrivals = tuple(attrs.evolve(each, at=each.at + later("reply", number)) for number, each in enumerate(CLEAN.arrivals))
    return attrs.evolve(CLEAN, attempts=attempts, jobs=jobs, arrivals=arrivals, faults=((4.0, 7.0),))


def test_what_one_tenant_does_to_itself_is_its_own() -> None:
    """A tenant that floods may wait for itself, and the others as long as they did before."""
    assert check(beside_a_loud_tenant(loud_ack=0.5, loud_reply=30.0), Rules(loud="loud")) == []


@pytest.mark.parametrize("late", [{"t_ack": 0.2}, {"t_reply": 1.5}])
def test_what_one_tenant_does_to_the_others_is_found(late: dict[str, float]) -> None:
    """I7: acknowledgments or replies of the others that come later while one tenant is loud; unless nobody is said to be."""
    assert "I7" in {finding.rule for finding in check(beside_a_loud_tenant(**late), Rules(loud="loud"))}
    assert "I7" not in {finding.rule for finding in check(beside_a_loud_tenant(**late), Rules())}


def test_one_late_reply_is_no_p99() -> None:
    """I7 is about the p99: one late in 750 is not, two in a hundred are; and of too few nothing is said, which is a finding."""
    (place,) = [place for place, each in enumerate(CLEAN.attempts) if each.event == "event-2502"]
    one = change(beside_a_loud_tenant(), "arrivals", place, at=9.9)
    assert check(one, Rules(loud="loud")) == []
    some = one
    for number in range(2502, 2562, 2):
        some = change(some, "arrivals", number, at=9.9) if number % 10 else some
    assert {finding.rule for finding in check(some, Rules(loud="loud"))} == {"I7"}
    few = attrs.evolve(one, faults=((0.01, 0.02),))
    assert {finding.rule for finding in check(few, Rules(loud="loud"))} == {"I7"}


def test_health_that_tells_the_truth_passes() -> None:
    """The same refusals are no lie when /readyz says that it is not ready."""
    told = {finding.rule for finding in check(refusing(CLEAN, 503), Rules(refusals_allowed=True))}
    assert "I6" not in told


def test_a_history_is_read_as_it_was_written(tmp_path: Path) -> None:
    """Through journals and files, and back."""
    whole = attrs.evolve(
        CLEAN, samples=(Sample("gateway", 1.0, 10**6, 10),), faults=((1.0, 2.5),), health=((0.5, 200), (1.5, 0)), spooled=3
    )
    for name in ("attempts", "arrivals"):
        with closing(Journal(tmp_path / f"{name}.jsonl")) as journal:
            for line in getattr(whole, name):
                journal.write(line)
    write_history(tmp_path, whole)
    assert read_history(tmp_path) == whole
