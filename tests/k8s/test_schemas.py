"""What would be applied is what the API servers of today take, custom resources included."""

from __future__ import annotations

import copy
import json

import jsonschema
import kubernetes_validate
import pytest

from tests.k8s.manifests import (
    COMPONENTS,
    K8S,
    OVERLAYS,
    ROOT,
    find,
    pod_templates,
    render,
    render_folder,
)

VERSIONS = ("1.34.0", "1.37.0")
"""The oldest in which everything used is stable, and the newest that there are schemas of."""
CUSTOM = {
    kind: json.loads((ROOT / f"tests/k8s/schemas/{kind.lower()}.json").read_text())
    for kind in ("HTTPRoute", "PodMonitor", "PrometheusRule", "RayJob", "ScaledObject")
}
EVERYTHING = [(overlay, component) for overlay in OVERLAYS for component in COMPONENTS]


def check_all(manifests, version):
    for manifest in manifests:
        schema = CUSTOM.get(manifest["kind"])
        if schema is None:
            kubernetes_validate.validate(manifest, version, strict=True)
        else:
            jsonschema.validate(manifest, schema, jsonschema.Draft7Validator)
        for template in pod_templates(manifest).values():
            names = {"apiVersion": "v1", "kind": "PodTemplate", "metadata": {"name": "x"}}
            kubernetes_validate.validate({**names, "template": template}, version, strict=True)


@pytest.mark.parametrize("version", VERSIONS)
@pytest.mark.parametrize(("overlay", "component"), EVERYTHING)
def test_what_would_be_applied_is_valid(overlay, component, version):
    check_all(render(overlay, component), version)


@pytest.mark.parametrize("version", VERSIONS)
def test_what_watches_is_valid(version):
    manifests = render_folder(K8S / "monitoring")
    assert {m["kind"] for m in manifests} == {"ConfigMap", "PodMonitor", "PrometheusRule"}
    check_all(manifests, version)


@pytest.mark.parametrize("overlay", OVERLAYS)
def test_without_components_no_cluster_needs_anything_installed(overlay):
    assert not {manifest["kind"] for manifest in render(overlay)} & set(CUSTOM)


@pytest.mark.parametrize(
    "change",
    [
        lambda all_: find(all_, "HTTPRoute")["spec"]["rules"][0].update(timeout="15s"),
        lambda all_: find(all_, "HTTPRoute")["spec"]["rules"][0]["timeouts"].update(request=15),
        lambda all_: find(all_, "HTTPRoute")["spec"]["rules"][0]["timeouts"].update(request="15"),
        lambda all_: find(all_, "ScaledObject")["spec"].update(minReplicas=2),
        lambda all_: find(all_, "ScaledObject")["spec"]["triggers"][0].pop("type"),
        lambda all_: find(all_, "RayJob")["spec"].update(shutdownAfterJobFinishes="yes"),
        lambda all_: find(all_, "RayJob")["spec"].update(ttl=1),
        lambda all_: find(all_, "RayJob")["spec"]["rayClusterSpec"].pop("headGroupSpec"),
        lambda all_: pod_templates(find(all_, "RayJob"))["RayJob children"]["spec"].update(cpu=1),
        lambda all_: find(all_, "PodMonitor")["spec"].update(podSelector={}),
        lambda all_: find(all_, "PrometheusRule")["spec"]["groups"][0].update(interval="often"),
        lambda all_: find(all_, "Job")["spec"].update(ttl=1),
        lambda all_: find(all_, "Job")["spec"]["template"]["spec"].update(nodeSelector="GPU"),
    ],
)
def test_what_is_not_is_seen(change):
    rendered = {"HTTPRoute": "route", "ScaledObject": "keda", "Job": "hpa", "RayJob": "search"}
    manifests = tuple(
        copy.deepcopy(find(render("gpu", component), kind)) for kind, component in rendered.items()
    ) + render_folder(K8S / "monitoring")
    change(manifests)
    with pytest.raises((jsonschema.ValidationError, kubernetes_validate.ValidationError)):
        check_all(manifests, VERSIONS[1])
