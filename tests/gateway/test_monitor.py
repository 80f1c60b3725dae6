"""/metrics and /openapi.json: well-formed, complete, and true."""

from __future__ import annotations

import re
import time
from collections.abc import Mapping
from pathlib import Path

import pytest
import trio
from jsonschema import Draft202012Validator
from openapi_spec_validator import validate
from referencing import Registry, Resource
from referencing.jsonschema import DRAFT202012

from sentinel.channels import channels
from sentinel.gateway import Gateway
from sentinel.http import Request
from sentinel.job_request import FIELDS
from sentinel.metrics import FAMILIES, SIZES, Histogram, Metrics, exposition
from sentinel.model import Source
from sentinel.openapi import openapi
from sentinel.payload import encode_json
from sentinel.processes import SIBLINGS
from tests.gateway.wire import Api, answer_of

LINE = re.compile(r'^([a-z_]+)(?:\{((?:[a-z]+="(?:[^"\\\n]|\\.)*",?)*)\})? (-?[0-9.e+-]+)$')


async def scrape(gateway: Gateway, client: str = "127.0.0.1") -> dict[str, float]:
    """Every line of the metrics, by its name and labels; each must be as Prometheus reads it, under its own family."""
    answer = answer_of(await gateway.handle(Request("GET", "/metrics", client=client)))
    assert answer.headers["content-type"].startswith("text/plain; version=0.0.4")
    found: dict[str, float] = {}
    family = ""
    for line in answer.body.decode().splitlines():
        if line.startswith("# HELP "):
            family = line.split()[2]
        elif not line.startswith("#"):
            matched = LINE.match(line)
            assert matched, line
            assert matched[1].startswith(family), line
            name = line.rpartition(" ")[0]
            assert name not in found, line
            found[name] = float(matched[3])
    return found


async def test_what_was_answered_is_counted(gateway: Gateway, sources: Mapping[str, Source]) -> None:
    """Each answer counts by route and status, with its time; what came in one commit counts as its size."""
    slack = channels()["slack"].sample(sources["slack"], "hello", 1, gateway.clock())
    assert (await gateway.handle(slack)).status == 200
    assert (
        await gateway.handle(Request("POST", "/webhooks/slack/shop", headers={"content-type": "application/json"}))
    ).status == 401
    await gateway.handle(Request("GET", '/webhooks/"}\n/x'))
    await gateway.handle(Request("GET", "/nothing"))
    found = await scrape(gateway)
    assert found['sentinel_requests_total{process="1",route="webhooks/slack",status="200"}'] == 1
    assert found['sentinel_requests_total{process="1",route="webhooks/slack",status="401"}'] == 1
    assert found['sentinel_requests_total{process="1",route="webhooks",status="404"}'] == 1
    assert found['sentinel_requests_total{process="1",route="other",status="404"}'] == 1
    assert found['sentinel_request_seconds_count{process="1",route="webhooks/slack"}'] == 2
    assert found['sentinel_request_seconds_bucket{process="1",route="webhooks/slack",le="+Inf"}'] == 2
    assert found['sentinel_commit_jobs_sum{process="1"}'] == 1
    assert found['sentinel_jobs{state="queued"}'] == 1
    assert found["sentinel_record_up"] == 1
    assert found['process_open_fds{process="1"}'] > 3


async def test_a_blocked_loop_is_seen(gateway: Gateway) -> None:
    """A block of the event loop is in the histogram of its lags at once, and then in the gauge of the worst."""
    await trio.sleep(0.2)
    time.sleep(0.3)  # noqa: ASYNC251  that is the fault
    with trio.fail_after(5):
        while (found := await scrape(gateway))['sentinel_loop_late_seconds{process="1"}'] < 0.2:
            await trio.sleep(0.05)
    assert (
        found['sentinel_loop_lag_seconds_count{process="1"}'] > found['sentinel_loop_lag_seconds_bucket{process="1",le="0.1"}'] > 0
    )


async def test_strangers_see_no_metrics(gateway: Gateway) -> None:
    """A client with a public address gets 404, one in a private network everything."""
    assert (await gateway.handle(Request("GET", "/metrics", client="8.8.8.8"))).status == 404
    assert await scrape(gateway, "10.1.2.3")


async def test_siblings(gateway: Gateway, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Any of several processes answers for all, with a label that tells them apart."""
    monkeypatch.setenv(SIBLINGS, f"{tmp_path}:2")
    await gateway.handle(Request("GET", "/healthz"))
    other = Metrics()
    other.count("sentinel_requests_total", "v1", "202")
    rows = [(name, (("process", "1"), *labels), value) for name, labels, value in other.samples()]
    (tmp_path / "1.json").write_bytes(encode_json(rows))
    (tmp_path / "2.json").write_bytes(b"[]")
    found = await scrape(gateway)
    assert found['sentinel_requests_total{process="1",route="v1",status="202"}'] == 1
    assert found['sentinel_requests_total{process="2",route="healthz",status="200"}'] == 1


def test_a_histogram_adds_up() -> None:
    """The buckets are cumulative, a value on a bound is within it, and count and sum are those of all values."""
    histogram = Histogram(SIZES)
    for value in (1, 2, 3, 512, 600):
        histogram.observe(value)
    found = {(name, dict(labels).get("le")): value for name, labels, value in histogram.samples("x", ())}
    assert [found["x_bucket", bound] for bound in ("1", "2", "4", "256", "512", "+Inf")] == [1, 2, 3, 3, 4, 5]
    assert (found["x_count", None], found["x_sum", None]) == (5, 1118)
    assert exposition([]) == ""


def test_every_metric_is_in_the_table() -> None:
    """docs/metrics.md has one row per metric, as the code has it."""
    page = (Path(__file__).parents[2] / "docs/metrics.md").read_text()
    rows = re.findall(r"^\| `([a-z_]+)` \| (\w+) \| ([\w, ]*) ?\| (.*) \|$", page, re.MULTILINE)
    told = {name: (kind, labels.strip(), what) for name, kind, labels, what in rows}
    assert told == {name: (family.kind, ", ".join(family.labels), family.help) for name, family in FAMILIES.items()}


def test_the_document_is_openapi() -> None:
    """The document is valid OpenAPI 3.1, and knows every field that a job may have."""
    validate(openapi())
    assert set(openapi()["components"]["schemas"]["JobRequest"]["properties"]) == set(FIELDS)


async def test_answers_are_as_the_document_says(api: Api) -> None:
    """What the job API answers fits the schema that the document has for it."""

    def check(name: str, value: object) -> None:
        registry = Registry().with_resource("urn:api", Resource.from_contents(openapi(), default_specification=DRAFT202012))
        Draft202012Validator({"$ref": f"urn:api#/components/schemas/{name}"}, registry=registry).validate(value)

    assert (await api.call("GET", "/openapi.json")).json == openapi()
    submitted = await api.call("POST", "/v1/jobs", {"input": "hello", "callback_url": "https://example.com/", "metadata": {"a": 1}})
    check("Job", submitted.json)
    check("Job", (await api.call("GET", submitted.json["status_url"])).json)
    check("Job", (await api.call("POST", submitted.json["cancel_url"])).json)
    check("JobList", (await api.call("GET", "/v1/jobs")).json)
    check("Problem", (await api.call("GET", "/v1/jobs/none")).json)
    check("Ready", (await api.call("GET", "/readyz")).json)
