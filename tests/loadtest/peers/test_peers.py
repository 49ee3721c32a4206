"""Peers are started and ended as a study needs it, and the part that they share finds boxes. Their
frameworks are not installed here: fake ones stand in for them."""

from __future__ import annotations

import io
import json
import sys
import urllib.request
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import PIL.Image
import pytest

from builder.data import ScoredBoxes, average_precision, read_bccd
from loadtest.peers.detector import Decoded, PeerDetector, PeerDetectorSettings, PeerSettingsError
from loadtest.servers import peers as peer_servers
from loadtest.servers.peers import Peer, PeerPoint, PeerSettings, peer
from loadtest.servers.processes import StudyError, is_ok
from serving.core.command_errors import InvalidArgument
from serving.core.errors import UnsupportedImage
from tests import trained
from tests.trained import CATALOG, DATA, FOLDER, MODEL, REPOSITORY

IMAGES = [path.read_bytes() for path in trained.IMAGES]
PYTHON = Path(sys.executable)
CATALOG_SIZE = "640x512"

# -- starting and ending ------------------------------------------------------------------------

# Ready when its child is; the child tells the environment that it has inherited.
FAKE = """
import os, subprocess, sys
subprocess.run([sys.executable, "-c", '''
import http.server, json, os
class Handler(http.server.BaseHTTPRequestHandler):
    def do_GET(self):
        body = json.dumps(dict(os.environ)).encode()
        self.send_response(200 if self.path in ("/fine", "/environment") else 404)
        self.end_headers()
        self.wfile.write(body)
http.server.HTTPServer(("127.0.0.1", int(os.environ["PEER_PORT"])), Handler).serve_forever()
'''])
"""
SETTINGS = PeerSettings(REPOSITORY, MODEL, timeout_s=0.085)


@pytest.fixture
def fake(monkeypatch: pytest.MonkeyPatch) -> None:
    own = {"FAKE_PORT": "{port}", "FAKE_HOME": "{folder}"}
    monkeypatch.setitem(peer_servers.PEERS, "fake", Peer(("-c", FAKE), "/fine", own))


@pytest.mark.usefixtures("fake")
def test_a_peer_is_told_what_to_serve_and_nothing_that_was_meant_for_another(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("PEER_DEPTH", "PUNCTUAL_PORT", "BENTOML_CONFIG", "LIT_SERVER_API_KEY"):
        monkeypatch.setenv(name, "of another")
    with peer("fake", PeerPoint(CATALOG_SIZE, 3), PYTHON, SETTINGS, tmp_path / "log") as server:
        with urllib.request.urlopen(f"{server.url}/environment") as reply:
            told = json.load(reply)
        assert Path(told["FAKE_HOME"]).is_dir()
    assert {k: v for k, v in told.items() if k.startswith(peer_servers.OWN_PREFIXES)} == {
        "PEER_MODEL_REPOSITORY": str(REPOSITORY),
        "PEER_MODEL": MODEL,
        "PEER_SIZE": CATALOG_SIZE,
        "PEER_DEPTH": "3",
        "PEER_PORT": server.url.rpartition(":")[2],
        "PEER_TIMEOUT_MS": "85",
    }
    assert told["FAKE_PORT"] == told["PEER_PORT"]
    assert not Path(told["FAKE_HOME"]).exists()


@pytest.mark.usefixtures("fake")
def test_what_a_peer_has_started_ends_with_it(tmp_path: Path) -> None:
    with peer("fake", PeerPoint(CATALOG_SIZE, 1), PYTHON, SETTINGS, tmp_path / "log") as server:
        assert is_ok(f"{server.url}/fine")  # it is the child that answers
    assert not is_ok(f"{server.url}/fine")


@pytest.mark.parametrize("name", peer_servers.PEERS)
def test_a_framework_that_is_not_there_is_named(name: str, tmp_path: Path) -> None:
    """This interpreter has none of them."""
    reason = rf"(?s){name} at 640x512/2 ended with 1; .* No module named '?{name}"
    with (
        pytest.raises(StudyError, match=reason),
        peer(name, PeerPoint(CATALOG_SIZE, 2), PYTHON, SETTINGS, tmp_path / "log"),
    ):
        pass


def test_what_cannot_be_started_is_said_in_one_sentence(tmp_path: Path) -> None:
    with (
        pytest.raises(InvalidArgument, match=r"no peer 'tensorflow'; there are litserve, bentoml"),
        peer("tensorflow", PeerPoint(CATALOG_SIZE, 1), PYTHON, SETTINGS, tmp_path / "log"),
    ):
        pass
    with (
        pytest.raises(InvalidArgument, match=r"bin/python is no Python; \S+README.md says how"),
        peer(
            "bentoml",
            PeerPoint(CATALOG_SIZE, 1),
            tmp_path / "bin/python",
            SETTINGS,
            tmp_path / "log",
        ),
    ):
        pass


# -- what they share ------------------------------------------------------------------------------

ENVIRONMENT = {
    "PEER_MODEL_REPOSITORY": str(REPOSITORY),
    "PEER_MODEL": MODEL,
    "PEER_DEPTH": "2",
    "PEER_PORT": "8101",
    "PEER_TIMEOUT_MS": "85",
}


def test_the_environment_says_what_to_serve() -> None:
    assert PeerDetectorSettings.read(ENVIRONMENT) == PeerDetectorSettings(
        FOLDER, size=None, depth=2, port=8101, timeout_s=0.085
    )


@pytest.mark.parametrize(
    ("changed", "reason"),
    [
        ({"PEER_DEPTH": "0"}, "PEER_DEPTH=0: the exits are 1 to 7"),
        ({"PEER_DEPTH": "8"}, "PEER_DEPTH=8: the exits are 1 to 7"),
        ({"PEER_DEPTH": "deep"}, "deep"),
        ({"PEER_MODEL": "other"}, "no model 'other'"),
        ({"PEER_SIZE": "300x300"}, "bccd has no size '300x300'"),
        ({"PEER_TIMEOUT_MS": "0"}, "PEER_TIMEOUT_MS must be positive"),
        ({"PEER_TIMEOUT_MS": "nan"}, "PEER_TIMEOUT_MS must be positive"),
    ],
)
def test_what_cannot_be_served_is_refused(changed: dict[str, str], reason: str) -> None:
    with pytest.raises(PeerSettingsError, match=reason):
        PeerDetectorSettings.read(ENVIRONMENT | changed)


@pytest.mark.parametrize("name", [name for name in ENVIRONMENT if name != "PEER_MODEL"])
def test_a_variable_that_is_missing_is_named(name: str) -> None:
    with pytest.raises(PeerSettingsError, match=f"{name} is not set"):
        PeerDetectorSettings.read({k: v for k, v in ENVIRONMENT.items() if k != name})


@pytest.fixture(scope="module", params=[1, CATALOG.num_exits])
def detector(request: pytest.FixtureRequest) -> Iterator[PeerDetector]:
    opened = PeerDetector(FOLDER, None, request.param)
    yield opened
    opened.close()


def replies(detector: PeerDetector, images: list[Decoded]) -> list[dict]:
    return [json.loads(reply) for reply in detector.detect(images)]


def detections(reply: dict) -> ScoredBoxes:
    found = reply["detections"]
    return ScoredBoxes(
        np.array([each["box"] for each in found], np.float32).reshape(-1, 4),
        np.array([each["score"] for each in found], np.float32),
        np.array([each["class_id"] for each in found], np.int64),
    )


def test_boxes_are_right(detector: PeerDetector) -> None:
    """As ``tests/e2e/test_model.py`` has it for Punctual, here in batches of 1, 3 and 4."""
    dataset = read_bccd(DATA, "test")
    images = [detector.decode(sample.path.read_bytes()) for sample in dataset.samples]
    assert len(images) == 8
    batches = (images[:1], images[1:4], images[4:])
    found = [reply for batch in batches for reply in replies(detector, batch)]
    result = average_precision(dataset, [detections(reply) for reply in found])
    (depth,) = {reply["exit_depth"] for reply in found}
    assert {reply["operating_point"] for reply in found} == {f"{CATALOG_SIZE}/{depth}"}
    assert {reply["expected_ap"] for reply in found} == {CATALOG.expected_ap(depth)}
    assert result.ap50 > CATALOG.exits[depth - 1].ap50 - 0.1
    assert result.ap > CATALOG.exits[depth - 1].ap - 0.1


def test_boxes_are_in_pixels_of_the_image_that_was_sent(detector: PeerDetector) -> None:
    """Beside others in its batch: twice the image has the same boxes, twice as large."""
    with PIL.Image.open(io.BytesIO(IMAGES[0])) as image:
        larger = io.BytesIO()
        image.resize((image.width * 2, image.height * 2)).save(larger, "PNG")
    images = [detector.decode(data) for data in (IMAGES[1], IMAGES[0], larger.getvalue())]
    _, once, twice = (detections(reply) for reply in replies(detector, images))
    off = np.abs(twice.boxes_xyxy / 2 - once.boxes_xyxy[0]).max(axis=1)
    assert off.min() < 3


def test_what_is_no_image_is_refused(detector: PeerDetector) -> None:
    with pytest.raises(UnsupportedImage):
        detector.decode(b"no image")
