"""The command as users run it, over the model in the repository."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.e2e.process import ROOT, Server
from tests.serving.fakes import encode, picture
from tests.serving.gateway import slug

REPOSITORY = ROOT / "model_repo"

pytestmark = pytest.mark.skipif(
    not list(REPOSITORY.glob("*_anytime/1/catalog.json")), reason="there is no model yet"
)


@pytest.fixture(scope="module")
def punctual() -> Iterator[Server]:
    with Server("serving", "serve", "--model-repository", str(REPOSITORY)) as started:
        yield started


def test_answers(punctual: Server) -> None:
    reply = punctual.detect(encode(picture(640, 480), "JPEG"), headers={"X-Deadline-Ms": "5000"})
    assert reply.status_code == 200
    body = reply.json()
    assert body["exit_depth"] == body["max_depth"]
    assert body["slack_ms"] > 0


def test_refuses_what_it_cannot_do_and_says_what_it_can(punctual: Server) -> None:
    image = encode(picture(640, 480), "JPEG")
    refused = punctual.detect(image, headers={"X-Deadline-Ms": "0.1"})
    assert slug(refused) == "budget-infeasible"


def test_drains(punctual: Server) -> None:
    punctual.terminate()
    assert punctual.ended() == 0
