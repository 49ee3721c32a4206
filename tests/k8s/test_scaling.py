"""Both scalers: that they do the same, by metrics that exist, and what their queries come to."""

from __future__ import annotations

import re
import subprocess

import pytest
import yaml
from prometheus_client import CollectorRegistry

from serving.observability.metrics import Metrics
from serving.observability.request_record import OUTCOMES
from tests.k8s.manifests import K8S, find, render
from tests.serving.fakes import FakeBackend, FakeClock


def queries():
    """Of KEDA: demand and what was shed."""
    triggers = find(render("cpu", "keda"), "ScaledObject")["spec"]["triggers"]
    return [trigger["metadata"]["query"] for trigger in triggers]


def test_both_scalers_do_the_same():
    keda = find(render("cpu", "keda"), "ScaledObject")["spec"]
    hpa = find(render("cpu", "hpa"), "HorizontalPodAutoscaler")["spec"]
    assert (keda["minReplicaCount"], keda["maxReplicaCount"]) == (
        hpa["minReplicas"],
        hpa["maxReplicas"],
    )
    assert keda["advanced"]["horizontalPodAutoscalerConfig"]["behavior"] == hpa["behavior"]
    rules = yaml.safe_load((K8S / "components/hpa/prometheus-adapter.yaml").read_text())["rules"]
    queries = {rule["name"]["as"]: rule["metricsQuery"] for rule in rules["external"]}
    for trigger, metric in zip(keda["triggers"], hpa["metrics"], strict=True):
        query = queries[metric["external"]["metric"]["name"]]
        assert trigger["metricType"] == metric["external"]["target"]["type"] == "AverageValue"
        assert trigger["metadata"]["query"] == query.replace(
            "<<.LabelMatchers>>", 'namespace="punctual"'
        )
        target = metric["external"]["target"]["averageValue"]
        threshold = float(trigger["metadata"]["threshold"])
        assert target in (f"{threshold:g}", f"{1e3 * threshold:g}m")


@pytest.mark.parametrize(
    ("component", "kind"), [("keda", "ScaledObject"), ("hpa", "HorizontalPodAutoscaler")]
)
def test_applying_again_does_not_undo_the_scaling(component, kind):
    deployment = find(render("cpu", component), "Deployment")
    assert "replicas" not in deployment["spec"]
    target = find(render("cpu", component), kind)["spec"]["scaleTargetRef"]
    assert target["name"] == deployment["metadata"]["name"]


def test_queries_use_metrics_that_exist():
    metrics = Metrics(CollectorRegistry(), FakeClock())
    metrics.describe(FakeBackend(FakeClock()), version="0", runtime="fake")
    exported = {sample.name for family in metrics.registry.collect() for sample in family.samples}
    for query in queries():
        named = set(re.findall(r"punctual_\w+", query))
        assert named
        assert named <= exported
        for outcomes in re.findall(r'outcome=~"([^"]*)"', query):
            assert set(outcomes.split("|")) <= set(OUTCOMES)


def series(name, values, **labels):
    text = ",".join(f'{key}="{value}"' for key, value in labels.items())
    return {"series": f"{name}{{{text}}}", "values": values}


@pytest.mark.parametrize(
    ("shed_hz", "replicas"),
    [
        (0, 0),
        (0.5, 0),  # one in two hundred: no reason
        (20, 5),  # four pods let a fifth go: five would not
        (100, 40),  # nothing at all is answered
    ],
)
def test_what_prometheus_makes_of_them(promtool, tmp_path, shed_hz, replicas):
    rules = [
        {"record": name, "expr": query}
        for name, query in zip(("demand", "for_shed"), queries(), strict=True)
    ]
    pods = [{"namespace": "punctual", "pod": f"p{number}"} for number in range(4)]
    requests = {"ok": 100 - shed_hz, "rejected": shed_hz, "evicted": 0}
    inputs = []
    for pod in pods:
        inputs.append(series("punctual_ready", "1x10", **pod))
        inputs.append(series("punctual_full_depth_demand_ratio", "1.5x10", **pod))
        for outcome, rate_hz in requests.items():
            values = f"0+{30 * rate_hz}x10"  # of samples 30 s apart
            inputs.append(series("punctual_requests_total", values, **pod, outcome=outcome))
    other = {"namespace": "other", "pod": "q"}
    inputs.append(series("punctual_ready", "1x10", **other))
    inputs.append(series("punctual_full_depth_demand_ratio", "9x10", **other))
    wanted = {"demand": 6, "for_shed": replicas}
    (tmp_path / "rules.yaml").write_text(
        yaml.safe_dump({"groups": [{"name": "scaling", "interval": "30s", "rules": rules}]})
    )
    test = {
        "interval": "30s",
        "input_series": inputs,
        "promql_expr_test": [
            {
                "expr": f"round({name}, 0.001)",
                "eval_time": "4m",
                "exp_samples": [{"labels": "{}", "value": value}],
            }
            for name, value in wanted.items()
        ],
    }
    (tmp_path / "test.yaml").write_text(
        yaml.safe_dump({"rule_files": ["rules.yaml"], "tests": [test]})
    )
    done = subprocess.run(
        [promtool, "test", "rules", tmp_path / "test.yaml"],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
