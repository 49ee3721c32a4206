"""A real Prometheus on this machine, over the rules of k8s/monitoring.

It is the one of Debian's package ``prometheus``.

A drill cannot wait for the hours that the rules look back on, so that every duration in them, and
the interval of scrapes, is divided by the same number. What is then a minute was an hour.
"""

from __future__ import annotations

import contextlib
import json
import os
import re
import shutil
import subprocess
import time
import urllib.parse
from collections.abc import Iterator, Mapping, Sequence
from copy import deepcopy
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from loadtest.servers.free_ports import free_port
from loadtest.servers.processes import StudyError, get_json, quote, running
from serving.core.command_errors import CommandError, InvalidArgument

SCRAPE_INTERVAL_S = 15.0
"""Seconds between two scrapes, as in the PodMonitor; rules are evaluated as often."""
MIN_INTERVAL_S = 0.5
"""Smallest seconds between two scrapes.

A scrape may take as long, and a gateway on a machine that does much else needs some of it.
"""
SCRAPE_TIMEOUT_S = 60.0
POLL_S = 0.1
JOB = "punctual"
_UNITS_S = {"ms": 0.001, "s": 1, "m": 60, "h": 3600, "d": 86400}
_DURATION = re.compile(r"(\d+)(ms|s|m|h|d)")
_RANGE = re.compile(rf"\[({_DURATION.pattern})\]")


class ProgramMissing(CommandError):
    """An error for a program that is not installed and is no Python package.

    The message says what installs it.
    """


_NO_RULES = (OSError, yaml.YAMLError, LookupError, TypeError, ValueError, AttributeError)
"""What comes of a file that is none of rules."""

Spec = dict[str, Any]
"""The specification of a PrometheusRule, which is a file of rules to Prometheus."""


def read_rules(path: Path) -> Spec:
    """Read the specification of a PrometheusRule. Raises InvalidArgument."""
    try:
        spec: Spec = yaml.safe_load(path.read_text(encoding="utf-8-sig"))["spec"]
        for rule in _rules(spec):
            if not all(isinstance(rule.get(name, ""), str) for name in ("alert", "expr", "for")):
                raise ValueError(f"{rule!r:.80} is none")
            _ = rule["expr"]
    except _NO_RULES as error:
        raise InvalidArgument(f"{path} has no rules: {error}") from error
    return spec


def shortened(spec: Spec, speed: float) -> Spec:
    """Return the same rules with every duration divided by ``speed``."""
    spec = deepcopy(spec)
    for rule in _rules(spec):
        rule["expr"] = _RANGE.sub(lambda found: f"[{_divide(found[1], speed)}]", rule["expr"])
        if "for" in rule:
            rule["for"] = _divide(rule["for"], speed)
    return spec


def _rules(spec: Spec) -> Iterator[dict[str, Any]]:
    for group in spec["groups"]:
        yield from group["rules"]


def _divide(duration: str, speed: float) -> str:
    found = _DURATION.fullmatch(duration)
    if found is None:
        raise InvalidArgument(f"{duration} is not one number with one unit")
    return f"{max(1, round(1e3 * int(found[1]) * _UNITS_S[found[2]] / speed))}ms"


@dataclass(frozen=True, slots=True)
class Prometheus:
    """A Prometheus that is ready."""

    url: str

    def query(self, expression: str) -> list[dict[str, Any]]:
        """Return the samples of an instant query, as the HTTP API gives them. Raises StudyError."""
        text = urllib.parse.urlencode({"query": expression})
        result: list[dict[str, Any]] = get_json(f"{self.url}/api/v1/query?{text}")["data"]["result"]
        return result

    def firing(self) -> frozenset[str]:
        """Return the names of the alerts that fire now. Raises StudyError."""
        alerts = get_json(f"{self.url}/api/v1/alerts")["data"]["alerts"]
        return frozenset(a["labels"]["alertname"] for a in alerts if a["state"] == "firing")


def find_program(name: str) -> str:
    """Return the path of ``name``, a program of Debian's. Raises ProgramMissing."""
    # Servers are in sbin, which is not on everybody's path.
    found = shutil.which(name, path=os.pathsep.join((os.environ.get("PATH", ""), "/usr/sbin")))
    if found is None:
        raise ProgramMissing(f"{name} is not installed: apt-get install {name}")
    return found


def version_of(name: str) -> str:
    """Return the version that the program says it is: the first number it says.

    Raises StudyError.
    """
    flag = "-v" if name == "haproxy" else "--version"
    done = subprocess.run((find_program(name), flag), capture_output=True, text=True, check=False)
    found = re.search(r"\d+(\.\d+)+", done.stdout + done.stderr)
    return found[0] if found else "of unknown version"


@contextlib.contextmanager
def prometheus(
    folder: Path, targets: Mapping[str, str], spec: Spec, speed: float = 1.0
) -> Iterator[Prometheus]:
    """Start a Prometheus that scrapes ``targets`` (pod -> URL) and evaluates ``spec``.

    It scrapes, as it does now, ``speed`` times as often as the manifests ask, and evaluates as
    often; its files are in ``folder``. Raises StudyError.
    """
    folder.mkdir(parents=True, exist_ok=True)
    interval = f"{round(1e3 * max(MIN_INTERVAL_S, SCRAPE_INTERVAL_S / speed))}ms"
    (folder / "rules.yaml").write_text(json.dumps(spec))  # JSON is YAML
    (folder / "prometheus.yaml").write_text(json.dumps(_config(targets, interval)))
    port = free_port()
    url = f"http://127.0.0.1:{port}"
    command: Sequence[str] = (
        find_program("prometheus"),
        f"--config.file={folder / 'prometheus.yaml'}",
        f"--storage.tsdb.path={folder / 'data'}",
        f"--web.listen-address=127.0.0.1:{port}",
        "--log.level=warn",
    )
    with running("Prometheus", command, os.environ, f"{url}/-/ready", folder / "log"):
        found = Prometheus(url)
        give_up_s = time.monotonic() + SCRAPE_TIMEOUT_S
        while len(found.query("up == 1")) < len(targets):  # it begins some seconds after its start
            if time.monotonic() > give_up_s:
                raise StudyError(f"Prometheus does not scrape{quote(folder / 'log')}")
            time.sleep(POLL_S)
        yield found


def _config(targets: Mapping[str, str], interval: str) -> dict[str, Any]:
    static = [
        {
            "targets": [url.removeprefix("http://")],
            "labels": {"namespace": JOB, "pod": pod},
        }
        for pod, url in targets.items()
    ]
    return {
        "global": {
            "scrape_interval": interval,
            "scrape_timeout": interval,
            "evaluation_interval": interval,
        },
        "rule_files": ["rules.yaml"],
        "scrape_configs": [{"job_name": JOB, "static_configs": static}],
    }
