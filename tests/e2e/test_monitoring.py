"""A real Prometheus over a real gateway: rules and dashboard find what they ask for."""

from __future__ import annotations

import json
import math
import re
import threading
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest

from loadtest.load.open_loop import LoadSettings, run_load
from loadtest.servers.faults import STUCK
from loadtest.servers.processes import gateway_server
from loadtest.servers.prometheus import (
    ProgramMissing,
    Prometheus,
    find_program,
    prometheus,
    read_rules,
    shortened,
)
from loadtest.workload.arrivals import parse_arrivals
from loadtest.workload.budgets import parse_budgets
from loadtest.workload.images import AnnotatedImage, read_images
from tests.e2e.backends import RUNTIME, noise
from tests.e2e.process import AMPLE_MS, PATIENCE_S, eventually

MONITORING = Path("k8s/monitoring")
RULES = MONITORING / "rules.yaml"
SPEED = 60.0
VARIABLES = {"__rate_interval": "30s", "__range": "60s"}
"""Of the dashboard's; the others are filters, and let everything pass."""


@pytest.fixture(scope="module")
def watched(
    small_repository: Path, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Prometheus]:
    """A Prometheus that has seen a gateway do everything it can."""
    try:
        find_program("prometheus")
    except ProgramMissing as error:
        pytest.skip(str(error))
    folder = tmp_path_factory.mktemp("watched")
    fault = folder / "fault"
    fault.write_text("")
    (folder / "noise.png").write_bytes(noise())
    given = {"model_repository": small_repository, "runtime": RUNTIME, "num_threads": 1}
    command = ("study", "serve", "--policy", "deadline", "--fault-file", str(fault))
    rules = shortened(read_rules(RULES), SPEED)
    with (
        gateway_server("the watched one", given, folder / "gateway.log", command) as server,
        prometheus(folder / "prometheus", {"gateway-0": server.url}, rules, SPEED) as found,
    ):
        (picture,) = read_images([folder / "noise.png"])
        use(server.url, picture, fault, found)
        yield found


def use(url: str, picture: AnnotatedImage, fault: Path, found: Prometheus) -> None:
    """Some of every kind of request: in time, infeasible, late, and of streaming replies."""
    load = LoadSettings(
        url=url,
        images=(picture,),
        arrivals=parse_arrivals("poisson"),
        rate_hz=30.0,
        duration_s=4.0,
        budgets=parse_budgets("0.1@1,1000@9"),
        full_depth_s=1.0,
        grace_s=PATIENCE_S,
    )
    run_load(load)
    headers = {"Content-Type": picture.content_type, "Accept": "application/x-ndjson"}
    ample = {**headers, "X-Deadline-Ms": str(AMPLE_MS)}
    with httpx.Client(base_url=url, timeout=PATIENCE_S) as client:
        assert client.post("/v1/detect", content=picture.data, headers=ample).status_code == 200
        late = threading.Thread(
            target=client.post,
            args=("/v1/detect",),
            kwargs={"content": picture.data, "headers": {**headers, "X-Deadline-Ms": "500"}},
        )
        fault.write_text(STUCK)
        late.start()
        late.join()
        fault.write_text("")
    # One, and who was late because the machine stood still.
    eventually(lambda: values(found, 'punctual_requests_total{outcome="late"} >= 1') != [])
    run_load(load)


def values(found: Prometheus, expression: str) -> list[float]:
    """None, where the latest scrape took too long."""
    return [float(sample["value"][1]) for sample in found.query(expression)]


def is_answered(found: Prometheus, expression: str) -> bool:
    return any(map(math.isfinite, values(found, expression)))


def panels() -> list[tuple[str, str]]:
    dashboard = json.loads((MONITORING / "dashboard.json").read_text())
    return [
        (panel["title"], target["expr"])
        for panel in dashboard["panels"]
        for target in panel.get("targets", ())
    ]


@pytest.mark.parametrize(("title", "expression"), panels())
def test_every_query_of_the_dashboard_is_answered(
    watched: Prometheus, title: str, expression: str
) -> None:
    filled = re.sub(r"\$(\w+)", lambda name: VARIABLES.get(name[1], ".*"), expression)
    eventually(lambda: is_answered(watched, filled))


def test_every_rule_records(watched: Prometheus) -> None:
    for group in read_rules(RULES)["groups"]:
        for rule in group["rules"]:
            if "record" in rule:
                assert is_answered(watched, f"max_over_time({rule['record']}[2m]) >= 0")
