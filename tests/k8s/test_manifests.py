"""What the manifests promise: how pods end, who may reach them, what they may do, how many there
are. Where two places state one fact, they agree."""

from __future__ import annotations

import re
import tomllib

import pytest

from serving.__main__ import create_parser
from serving.artifacts.model_folders import find_model, read_entry
from serving.artifacts.tensorrt_plans import DIGEST_DIGITS
from serving.settings import Settings, load, variable
from serving.triton.shared_memory import FOLDER
from tests.k8s.manifests import (
    COMPONENTS,
    K8S,
    OVERLAYS,
    ROOT,
    container,
    containers,
    find,
    option,
    pod_specs,
    pod_templates,
    render,
)

MARGIN_S = 5
every_overlay = pytest.mark.parametrize("overlay", OVERLAYS)


@pytest.fixture
def settings(overlay, monkeypatch):
    """As the gateway of the overlay reads them."""
    for name, value in environment(overlay).items():
        monkeypatch.setenv(name, value)
    return load({})


def environment(overlay):
    return find(render(overlay), "ConfigMap", "punctual-settings")["data"]


def pod(overlay):
    return pod_specs(render(overlay))["Deployment"]


def gateway(overlay):
    return container(pod(overlay), "gateway")


# -- settings ------------------------------------------------------------------------------------


@every_overlay
def test_every_setting_is_in_the_config_map_and_nothing_else(overlay):
    assert set(environment(overlay)) == set(map(variable, Settings.model_fields))


@every_overlay
def test_the_server_takes_them_and_its_container_agrees(overlay, settings):
    (source,) = gateway(overlay)["envFrom"]
    name = find(render(overlay), "ConfigMap")["metadata"]["name"]
    assert source["configMapRef"]["name"] == name
    assert re.fullmatch("punctual-settings-[a-z0-9]{10}", name)  # a change of it is a roll-out
    assert settings.host == "0.0.0.0"
    assert gateway(overlay)["ports"] == [{"name": "http", "containerPort": settings.port}]
    if settings.backend == "embedded":
        assert settings.num_threads < float(gateway(overlay)["resources"]["requests"]["cpu"])


def test_the_gpu_gateway_finds_triton_in_its_pod(monkeypatch):
    for name, value in environment("gpu").items():
        monkeypatch.setenv(name, value)
    settings, triton = load({}), container(pod("gpu"), "triton")
    assert (settings.backend, settings.triton_shared_memory) == ("triton", True)
    address = option(triton, "grpc-address"), option(triton, "grpc-port")
    assert settings.triton_url == ":".join(address) == "127.0.0.1:8001"
    ports = {"grpc": address[1], "gateway": str(settings.port)}
    ports |= {name: option(triton, f"{name}-port") for name in ("http", "metrics")}
    assert len(set(ports.values())) == len(ports)  # one network of all containers
    assert [str(port["containerPort"]) for port in triton["ports"]] == [
        ports["metrics"],
        ports["http"],
    ]
    (shared,) = (v for v in pod("gpu")["volumes"] if v["name"] == "shared-memory")
    assert shared["emptyDir"]["medium"] == "Memory"
    largest = read_entry(find_model(ROOT / "model_repo", settings.model)).catalogs[-1]
    needed = largest.input_height * largest.input_width * 3 * settings.max_waiting
    assert needed < 2**29 < int(shared["emptyDir"]["sizeLimit"].removesuffix("Gi")) * 2**30
    for name in ("gateway", "triton"):
        mounts = container(pod("gpu"), name)["volumeMounts"]
        assert {"name": "shared-memory", "mountPath": str(FOLDER)} in mounts


# -- how pods end --------------------------------------------------------------------------------


@every_overlay
def test_a_pod_has_time_to_answer_everybody(overlay, settings):
    assert settings.shutdown_grace_ms >= settings.max_budget_ms
    pre_stop_s = gateway(overlay)["lifecycle"]["preStop"]["sleep"]["seconds"]
    # Requests in flight end within the grace, and what the engine still holds within another.
    ends_s = pre_stop_s + (settings.drain_delay_ms + 2 * settings.shutdown_grace_ms) / 1e3
    for each in containers(pod(overlay)):
        if each["name"] == "triton":
            ends_s += int(option(each, "exit-timeout-secs"))
    assert pod(overlay)["terminationGracePeriodSeconds"] == ends_s + MARGIN_S


@every_overlay
def test_requests_go_elsewhere_before_it_ends(overlay, settings):
    probe = gateway(overlay)["readinessProbe"]
    assert probe["httpGet"] == {"path": "/readyz", "port": "http"}
    notices_s = probe["periodSeconds"] * probe["failureThreshold"]
    assert settings.drain_delay_ms / 1e3 > notices_s
    assert gateway(overlay)["lifecycle"]["preStop"]["sleep"]["seconds"] >= 5


@every_overlay
def test_a_roll_out_takes_nobody_away(overlay):
    deployment = find(render(overlay), "Deployment")["spec"]
    assert deployment["strategy"]["rollingUpdate"] == {"maxUnavailable": 0, "maxSurge": 1}
    budget = find(render(overlay), "PodDisruptionBudget")["spec"]
    assert budget["maxUnavailable"] == 1 < deployment["replicas"]
    assert budget["selector"] == deployment["selector"]
    labels = deployment["template"]["metadata"]["labels"]
    for selector in (
        budget["selector"]["matchLabels"],
        find(render(overlay), "Service")["spec"]["selector"],
        find(render(overlay), "NetworkPolicy")["spec"]["podSelector"]["matchLabels"],
        *(s["labelSelector"]["matchLabels"] for s in pod(overlay)["topologySpreadConstraints"]),
    ):
        assert selector.items() <= labels.items()


@every_overlay
def test_a_busy_or_loading_server_is_not_started_anew(overlay):
    probes = {name: gateway(overlay)[f"{name}Probe"] for name in ("startup", "liveness")}
    assert probes["liveness"]["httpGet"]["path"] == "/livez"
    assert probes["liveness"]["periodSeconds"] * probes["liveness"]["failureThreshold"] >= 60
    assert probes["startup"]["httpGet"]["path"] == "/readyz"
    assert probes["startup"]["periodSeconds"] * probes["startup"]["failureThreshold"] >= 300


def test_triton_is_there_before_the_gateway_and_after_it():
    names = [each["name"] for each in pod("gpu")["initContainers"]]
    assert names == ["plans", "triton"]
    triton = container(pod("gpu"), "triton")
    assert triton["restartPolicy"] == "Always"  # a sidecar
    assert triton["startupProbe"]["httpGet"]["path"] == "/v2/health/ready"


@every_overlay
def test_the_route_waits_longer_than_any_budget(overlay, settings):
    for rule in find(render(overlay, "route"), "HTTPRoute")["spec"]["rules"]:
        for timeout in rule["timeouts"].values():
            assert int(timeout.removesuffix("s")) * 1e3 >= settings.max_budget_ms + 1e3
        paths = [match["path"]["value"] for match in rule["matches"]]
        assert paths == ["/v1", "/v2"]  # and neither metrics nor probes
        (backend,) = rule["backendRefs"]
        service = find(render(overlay), "Service")
        assert backend == {"name": service["metadata"]["name"], "port": 80}


# -- what pods may do ----------------------------------------------------------------------------


@every_overlay
def test_pods_are_restricted(overlay):
    labels = find(render(overlay), "Namespace")["metadata"]["labels"]
    assert labels["pod-security.kubernetes.io/enforce"] == "restricted"
    account = find(render(overlay), "ServiceAccount")
    assert account["automountServiceAccountToken"] is False
    for spec in pod_specs(render(overlay, "search")).values():
        assert spec["serviceAccountName"] == account["metadata"]["name"]
        assert spec["automountServiceAccountToken"] is False
        assert spec["enableServiceLinks"] is False
        context = spec["securityContext"]
        assert (context["runAsNonRoot"], context["runAsUser"]) == (True, 1000)
        assert context["seccompProfile"] == {"type": "RuntimeDefault"}
        assert not {"hostNetwork", "hostPID", "hostIPC"} & set(spec)
        assert not any("hostPath" in volume for volume in spec["volumes"])
        for each in containers(spec):
            assert each["securityContext"] == {
                "allowPrivilegeEscalation": False,
                "readOnlyRootFilesystem": True,
                "capabilities": {"drop": ["ALL"]},
            }


@every_overlay
def test_every_container_asks_for_what_it_needs(overlay):
    for spec in pod_specs(render(overlay, "search")).values():
        for each in containers(spec):
            resources = each["resources"]
            assert {"cpu", "memory"} <= set(resources["requests"])
            assert resources["requests"]["memory"] == resources["limits"]["memory"]
            assert "cpu" not in resources["limits"]


@every_overlay
def test_every_volume_is_bounded(overlay):
    for spec in pod_specs(render(overlay, "search")).values():
        for volume in spec["volumes"]:
            assert volume.get("emptyDir", {"sizeLimit": ""}).keys() >= {"sizeLimit"}


@every_overlay
def test_only_clients_and_prometheus_come_in_and_nobody_goes_out(overlay):
    policy = find(render(overlay), "NetworkPolicy")["spec"]
    assert policy["policyTypes"] == ["Ingress", "Egress"]
    assert "egress" not in policy
    opened = {port["port"] for rule in policy["ingress"] for port in rule["ports"]}
    named = {port["name"] for each in containers(pod(overlay)) for port in each.get("ports", ())}
    assert opened == named - {"triton-http"}
    assert all(rule["from"] for rule in policy["ingress"])


# -- plans ---------------------------------------------------------------------------------------


def test_the_job_is_named_after_all_that_plans_depend_on():
    job = find(render("gpu"), "Job")
    builder = container(job["spec"]["template"]["spec"], "builder")
    product = job["spec"]["template"]["spec"]["nodeSelector"]["nvidia.com/gpu.product"]
    (tensorrt,) = re.findall(
        r"^ARG TENSORRT=(\S+)$", (K8S / "images/triton.Dockerfile").read_text(), re.MULTILINE
    )
    model = option(builder, "model")
    digest = read_entry(find_model(ROOT / "model_repo", model)).digest[:DIGEST_DIGITS]
    key = f"{product.lower()}-trt{tensorrt.replace('.', '-')}-{digest}"
    assert job["metadata"]["name"] == f"punctual-plans-{key}"
    assert len(job["metadata"]["name"]) <= 63  # it becomes a label of the pod


def test_pods_wait_for_what_the_job_builds():
    specs = pod_specs(render("gpu"))
    builder, plans, triton = (
        container(specs[kind], name)
        for kind, name in (("Job", "builder"), ("Deployment", "plans"), ("Deployment", "triton"))
    )
    assert specs["Job"]["nodeSelector"] == specs["Deployment"]["nodeSelector"]
    claims = {v.get("persistentVolumeClaim", {}).get("claimName") for v in specs["Job"]["volumes"]}
    claim = find(render("gpu"), "PersistentVolumeClaim")
    assert claim["metadata"]["name"] in claims
    assert claim["spec"]["accessModes"] == ["ReadWriteMany"]
    assert option(builder, "store") == option(plans, "store") == "/plans"
    assert option(plans, "link") == option(triton, "model-repository")
    model = environment("gpu")["PUNCTUAL_MODEL"]
    assert option(builder, "model") == option(plans, "model") == model
    assert option(triton, "load-model") == f"{model}_anytime"
    for each in (builder, plans, triton):
        assert each["resources"]["limits"]["nvidia.com/gpu"] == 1
    for each in (plans, triton):  # who serves never builds
        assert {"name": "plans", "mountPath": "/plans", "readOnly": True} in each["volumeMounts"]


# -- searches ------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def ray_job():
    return find(render("cpu", "search"), "RayJob")


def test_the_entrypoint_is_a_command_that_there_is(ray_job):
    program, *arguments = ray_job["spec"]["entrypoint"].split()
    assert program == "punctual"
    options = create_parser().parse_args(arguments)
    assert (options.pool, options.ray_address) == ("ray", "auto")
    (mount,) = {
        each["mountPath"]
        for name, spec in pod_specs((ray_job,)).items()
        for each in spec["containers"][0]["volumeMounts"]
        if each["name"] == "search" and name != "RayJob submitter"
    }
    for path in (options.data, options.out):
        assert path.is_relative_to(mount)  # where every node sees it


def test_there_is_a_core_for_each_child_at_a_time(ray_job):
    options = create_parser().parse_args(ray_job["spec"]["entrypoint"].split()[1:])
    cluster = ray_job["spec"]["rayClusterSpec"]
    (group,) = cluster["workerGroupSpecs"]
    (worker,) = group["template"]["spec"]["containers"]
    cores = group["rayStartParams"]["num-cpus"]
    assert cores == worker["resources"]["requests"]["cpu"]
    assert options.workers == group["replicas"] * int(cores)
    assert group["minReplicas"] == group["replicas"] == group["maxReplicas"]
    assert cluster["headGroupSpec"]["rayStartParams"]["num-cpus"] == "0"


def test_ray_is_that_of_the_image(ray_job):
    lock = (K8S / "images/search.lock").read_text()
    (version,) = re.findall(r"^ray==(\S+) ", lock, re.MULTILINE)
    assert ray_job["spec"]["rayClusterSpec"]["rayVersion"] == version


def test_what_ray_shares_is_in_memory_that_the_pod_has(ray_job):
    cluster = ray_job["spec"]["rayClusterSpec"]
    for group in (cluster["headGroupSpec"], *cluster["workerGroupSpecs"]):
        (shared,) = (
            v for v in group["template"]["spec"]["volumes"] if v["name"] == "shared-memory"
        )
        bytes_there = int(shared["emptyDir"]["sizeLimit"].removesuffix("Mi")) * 2**20
        assert int(group["rayStartParams"]["object-store-memory"]) <= bytes_there


def test_ports_that_run_whatever_they_are_told_are_closed_to_others(ray_job):
    manifests = render("cpu", "search")
    policy = find(manifests, "NetworkPolicy", "punctual-search")["spec"]
    own = policy["podSelector"]["matchLabels"]
    for template in pod_templates(ray_job).values():
        assert own.items() <= template["metadata"]["labels"].items()
    gateway_labels = find(manifests, "Deployment")["spec"]["template"]["metadata"]["labels"]
    assert not own.items() <= gateway_labels.items()
    among_themselves, from_the_operator = policy["ingress"]
    assert among_themselves == {"from": [{"podSelector": policy["podSelector"]}]}
    assert [port["port"] for port in from_the_operator["ports"]] == ["dashboard"]
    assert all(rule["to"] for rule in policy["egress"])
    claim = find(manifests, "PersistentVolumeClaim", "punctual-search")
    assert claim["spec"]["accessModes"] == ["ReadWriteMany"]


# -- images --------------------------------------------------------------------------------------


@every_overlay
def test_images_are_of_this_version(overlay):
    version = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["version"]
    specs = pod_specs(render(overlay, "search"))
    used = {each["image"] for spec in specs.values() for each in containers(spec)}
    names = {"gateway", "search"} | ({"triton", "builder"} if overlay == "gpu" else set())
    assert used == {f"registry.example.com/punctual-{name}:{version}" for name in names}


def test_every_component_goes_with_every_other_but_one_scaler():
    for overlay in OVERLAYS:
        assert len(render(overlay, "route", "keda")) == len(render(overlay)) + 2
        assert len(render(overlay, "search", "hpa")) == len(render(overlay)) + 4
    assert {path.name for path in (K8S / "components").iterdir()} == set(COMPONENTS)
