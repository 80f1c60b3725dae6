"""The spike: its curve, its histogram, its picture, its verdict, and a small one from end to end."""

from __future__ import annotations

import math
import random
import subprocess
import sys
from pathlib import Path
from xml.etree import ElementTree

import attrs
import pytest
from hypothesis import given
from hypothesis import strategies as some

from sentinel import payload
from sentinel.chaos.history import FAIL, OK, Arrival, Attempt, History, JobEnd
from sentinel.chaos.plan import Chain, Planned, Webhook
from sentinel.cli import main
from sentinel.spike.curve import Curve, bend
from sentinel.spike.histogram import Histogram
from sentinel.spike.plot import plot
from sentinel.spike.timeline import Depth, timeline
from sentinel.spike.verdict import Spike, as_document, judge, words


class TestCurve:
    CURVE = Curve(calm_rate=10, calm_seconds=2, peak_rate=100, peak_seconds=1)

    def test_its_pieces(self) -> None:
        """A calm, the peak, a calm."""
        assert (self.CURVE.webhooks, self.CURVE.seconds) == (140, 5)
        assert [self.CURVE.rate(second) for second in range(6)] == [10, 10, 100, 10, 10, 0]
        assert self.CURVE.at(20 / 140) == pytest.approx(2)
        assert self.CURVE.at(70 / 140) == pytest.approx(2.5)
        assert self.CURVE.at(1) == pytest.approx(5)

    @given(some.lists(some.floats(0, 1), min_size=2), some.floats(0, 50), some.floats(0, 3))
    def test_the_order_stays(self, shares: list[float], calm_rate: float, calm_seconds: float) -> None:
        """What came earlier in the plan comes earlier on the curve, and never after its end."""
        curve = Curve(calm_rate, calm_seconds, 100, 1)
        times = [curve.at(share) for share in sorted(shares)]
        assert times == sorted(times)
        assert all(-1e-9 <= time <= curve.seconds + 1e-9 for time in times)

    def test_the_spike_is_where_it_was_planned(self) -> None:
        """Of webhooks that are spread evenly, as many fall into each second as its rate says."""
        hook = Webhook("t", "telegram", "s", "e", "x", "", 0, b"")
        chains = [Chain((Planned((number + 0.5) / 140, hook),)) for number in range(140)]
        times = [chain.links[0].at for chain in bend(chains, self.CURVE)]
        assert [sum(int(time) == second for time in times) for second in range(5)] == [10, 10, 100, 10, 10]


class TestHistogram:
    @given(some.lists(some.floats(0, 100), min_size=1), some.sampled_from([0.0, 50.0, 90.0, 99.0, 99.9, 100.0]))
    def test_percentiles(self, values: list[float], percent: float) -> None:
        """A percentile is what sorting gives, or less than 1 % above it."""
        exact = sorted(values)[max(0, math.ceil(len(values) * percent / 100) - 1)]
        found = Histogram.of(values).percentile(percent)
        assert exact - 1e-6 <= found <= exact * (1 + 1 / 127) + 2e-6

    def test_its_memory_does_not_grow_with_the_run(self) -> None:
        """A hundred thousand values between 1 ms and 10 s take at most 128 buckets for each of 14 powers of two."""
        chance = random.Random(1)
        histogram = Histogram.of(chance.uniform(0.001, 10) for _ in range(100_000))
        assert len(histogram._buckets) <= 14 * 128

    def test_the_text_form(self) -> None:
        """HdrHistogram's plotter reads value, percentile, count and 1/(1-percentile)."""
        lines = list(Histogram.of([0.001, 0.002, 0.004]).lines())
        assert [line.split() for line in lines[1:-1]] == [
            ["1.003", "0.333333333333", "1", "1.50"],
            ["2.007", "0.666666666667", "2", "3.00"],
            ["4.000", "1.000000000000", "3", "inf"],
        ]
        assert list(Histogram().lines())


def attempt(event: str, **changes: object) -> Attempt:
    base = Attempt("t", "telegram", "s", event, f"t.{event}", "", 0, 0, 1.0, 1.0, 1.1, OK, 200, (f"job-{event}",))
    return attrs.evolve(base, **changes)


def job(event: str, **changes: object) -> JobEnd:
    return attrs.evolve(JobEnd(f"job-{event}", "t", "telegram", "s", event, "succeeded", 1, 0), **changes)


GOOD = History(
    (attempt("a"), attempt("b", answered=1.4)), (job("a"), job("b")), (Arrival("t", "", "t.a", 2), Arrival("t", "", "t.b", 3))
)


def verdict(history: History, drained: float | None = 1.0) -> Spike:
    return judge(history, [Depth(1, 2)], Curve(), start=1.0, late_seconds=1.0, drained_seconds=drained, lags=[0.0], core_share=0.1)


class TestVerdict:
    def test_kept(self) -> None:
        """Everything acknowledged in time, and answered once."""
        spike = verdict(GOOD)
        assert spike.kept
        assert (spike.acknowledged, spike.delivered, spike.depth_max) == (2, 2, 2)
        assert next(words(spike)).startswith("KEPT: 2 webhooks, 2 acknowledged, 0 lost, 0 doubled, 0 late")

    @pytest.mark.parametrize(
        ("changed", "figure"),
        [
            ({"jobs": GOOD.jobs[:1]}, "lost"),
            ({"jobs": (job("a", state="queued"), job("b"))}, "lost"),
            ({"arrivals": GOOD.arrivals[:1]}, "lost"),
            ({"jobs": (*GOOD.jobs, job("a", id="another"))}, "doubled"),
            ({"arrivals": (*GOOD.arrivals, Arrival("t", "", "t.a", 4))}, "doubled"),
            ({"attempts": (attempt("a"), attempt("b", answered=2.5))}, "late"),
        ],
        ids=["no job", "no end", "no reply", "two jobs", "two replies", "late"],
    )
    def test_what_breaks_it(self, changed: dict[str, object], figure: str) -> None:
        """One of each is found and counted under its name, and the verdict is broken."""
        spike = verdict(attrs.evolve(GOOD, **changed))
        assert not spike.kept
        assert getattr(spike, figure) == 1

    def test_a_refusal_that_was_sent_again(self) -> None:
        """Its wait counts from when it was first due; it is no loss."""
        refused = attempt("b", outcome=FAIL, status=503, jobs=())
        again = attempt("b", planned=1.9, sent=1.9, answered=2.0)
        spike = verdict(attrs.evolve(GOOD, attempts=(attempt("a"), refused, again)))
        assert (spike.refused, spike.lost, spike.late) == (1, 0, 0)
        assert spike.latencies.greatest == pytest.approx(1_000_000, rel=0.01)
        assert spike.kept

    def test_who_was_never_acknowledged(self) -> None:
        """The verdict is broken though nothing acknowledged is lost."""
        refused = attempt("b", outcome=FAIL, status=503, jobs=())
        spike = verdict(History((attempt("a"), refused), (job("a"),), GOOD.arrivals[:1]))
        assert (spike.lost, spike.kept) == (0, False)

    def test_replies_that_say_nothing(self) -> None:
        """With a model that does not echo, the record alone is judged, and that is said."""
        spike = verdict(attrs.evolve(GOOD, arrivals=(Arrival("t", "", "", 2), Arrival("t", "", "", 3))))
        assert spike.kept
        assert not spike.replies_read
        assert any("by the record alone" in line for line in words(spike))
        assert not verdict(attrs.evolve(GOOD, arrivals=(), jobs=GOOD.jobs[:1])).kept

    def test_a_queue_that_does_not_drain_is_said(self) -> None:
        """Jobs that were still there at the deadline are told of in the words of the verdict."""
        assert any("not drained in time" in line for line in words(verdict(GOOD, drained=None)))

    def test_the_document(self) -> None:
        """It holds the figures, the percentiles and every second, as JSON."""
        document = payload.decode_own_json(payload.encode_json(as_document(verdict(GOOD))))
        assert document["latency_ms"]["100"] == pytest.approx(400, rel=0.01)
        assert document["seconds"][0] | {"p50_ms": 0, "p99_ms": 0} == {
            "at": 0,
            "planned": 50.0,
            "acknowledged": 2,
            "refused": 0,
            "delivered": 0,
            "depth": 2,
            "p50_ms": 0,
            "p99_ms": 0,
        }


class TestPlot:
    def test_every_second_is_a_point(self) -> None:
        """The picture is well-formed, with three panels and a point per second in each of their lines."""
        seconds = timeline(GOOD.attempts, GOOD.arrivals, [Depth(0.5, 7)], Curve())
        svg = ElementTree.fromstring(plot(seconds, "a < b"))
        lines = svg.findall(".//{*}polyline")
        assert len(lines) == 7
        assert {len(line.attrib["points"].split()) for line in lines} == {len(seconds)}
        assert "a < b" in [text.text for text in svg.findall(".//{*}text")]

    def test_nothing_at_all(self) -> None:
        """Where nothing was measured, the plot is a well-formed picture all the same."""
        assert ElementTree.fromstring(plot([], "")).tag.endswith("svg")


def test_an_address_that_cannot_be_used(capsys: pytest.CaptureFixture[str]) -> None:
    """A URL that the load cannot be sent to is refused, with the form that it needs."""
    with pytest.raises(SystemExit) as stopped:
        main(["spike", "--url", "https://somewhere"])
    assert stopped.value.code == 2
    assert "http://" in capsys.readouterr().err


@pytest.mark.slow
def test_from_end_to_end(tmp_path: Path) -> None:
    """A small spike over every channel, each webhook on a fresh connection, is kept; report, plot and histogram are written."""
    files = {name: tmp_path / f"spike.{name}" for name in ("json", "svg", "hgrm")}
    written = [word for name, path in files.items() for word in (f"--{name}", str(path))]
    sent = ["--calm", "20", "--calm-seconds", "1", "--peak", "300", "--peak-seconds", "1", "--fresh", "--late", "5"]
    done = subprocess.run(
        [sys.executable, "-m", "sentinel", "spike", *sent, *written], capture_output=True, text=True, timeout=90, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr
    document = payload.decode_own_json(files["json"].read_bytes())
    assert (document["acknowledged"], document["lost"], document["doubled"], document["delivered"]) == (340, 0, 0, 340)
    assert document["duplicates"] == 7
    ElementTree.parse(files["svg"])
    assert files["hgrm"].read_text().count("\n") > 5
