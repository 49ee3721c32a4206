"""A client as Frigate has it, over a socket."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from serving.api.deepstack import PATH
from tests.e2e.process import Server
from tests.serving.fakes import JPEG, encode, picture
from tests.serving.frigate import Frigate

LABELS = ("circle", "square")
LARGE = encode(picture(1280, 720), "JPEG")


@pytest.fixture
def frigate(server: Server) -> Iterator[Frigate]:
    # Long enough for a machine with much else to do; what matters here is what is said.
    client = Frigate(server.url + PATH, LABELS, timeout_s=30.0)
    yield client
    client.close()


@pytest.mark.parametrize("image", [JPEG, LARGE])
def test_it_sees_what_is_there(frigate: Frigate, image: bytes) -> None:
    frigate.url += "?deadline_ms=9000"
    found = frigate.detect(image)
    assert not frigate.failures
    assert [(label, score) for label, score, _ in found] == [("square", 0.9), ("circle", 0.5)]
    assert all(y_min < y_max and x_min < x_max for *_, (y_min, x_min, y_max, x_max) in found)


def test_no_answer_is_a_failure_and_no_empty_picture(frigate: Frigate) -> None:
    frigate.url += "?deadline_ms=50&max_depth=1"  # which never comes
    assert frigate.detect(JPEG) == []
    assert "success" in frigate.failures[0]
    assert "predictions" not in frigate.failures[0]


def test_it_gives_up_by_itself(frigate: Frigate) -> None:
    frigate.url += "?deadline_ms=9000&max_depth=1"
    frigate.timeout_s = 0.1
    assert frigate.detect(JPEG) == []
    assert "timed out" in frigate.failures[0]
