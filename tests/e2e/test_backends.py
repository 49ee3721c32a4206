"""What a client is promised, on every backend alike."""

from __future__ import annotations

import asyncio
import signal
import time
from collections import Counter

import httpx
import numpy as np
import pytest
import tritonclient.http as triton_http

from punctual.images import media_type
from punctual.reply import ANSWERED
from punctual.stream import FrameStream
from tests.e2e.backends import BACKENDS, MODEL, NUM_EXITS, Ended, Load, counted, gateway, noise
from tests.e2e.process import AMPLE_MS, PATIENCE_S, Server, arrived, eventually
from tests.serving.events import NDJSON, SSE, read_events
from tests.serving.fakes import encode
from tests.serving.gateway import slug

PNG = {"Content-Type": "image/png"}


@pytest.fixture(scope="module", params=BACKENDS)
def backend(request):
    return request.param


@pytest.fixture(scope="module")
def server(backend, small_repository, triton):
    with gateway(backend, small_repository, triton) as started:
        yield started


def detect(server: Server, budget_ms: float = AMPLE_MS, **params: object) -> httpx.Response:
    headers = {**PNG, "X-Deadline-Ms": str(budget_ms)}
    return server.detect(noise(), headers=headers, params=params)


def test_an_answer_says_how_it_came_about(server):
    reply = detect(server)
    assert reply.status_code == 200
    body = reply.json()
    assert body["exit_depth"] == body["max_depth"] == NUM_EXITS
    assert body["degraded"] is False
    assert len(body["detections"]) > 10
    assert 0 < body["predicted_ms"] < body["budget_ms"] == AMPLE_MS
    assert body["elapsed_ms"] + body["slack_ms"] == pytest.approx(AMPLE_MS, abs=0.01)
    stages = [stage.split(";")[0] for stage in reply.headers["server-timing"].split(", ")]
    assert stages == ["read", "decode", "queue", "engine", "total"]


@pytest.mark.parametrize("depth", [1, 2, 3])
def test_depth_bounds_hold(server, depth):
    body = detect(server, min_depth=depth, max_depth=depth).json()
    assert body["exit_depth"] == body["max_depth"] == depth


@pytest.mark.parametrize("depth", [1, 3])
def test_boxes_are_those_of_the_embedded_engine(server, embedded_server, depth):
    """Float32 sums in another order, in pixels that replies round to hundredths."""
    replies = [detect(s, min_depth=depth, max_depth=depth) for s in (server, embedded_server)]
    found, expected = (reply.json()["detections"] for reply in replies)
    assert [d["label"] for d in found] == [d["label"] for d in expected]
    for name, tolerance in (("box", 0.05), ("score", 1e-3)):
        difference = np.array([d[name] for d in found]) - [d[name] for d in expected]
        assert np.abs(difference).max() <= tolerance


@pytest.mark.parametrize("media_type", [SSE, NDJSON])
def test_an_answer_grows_exit_by_exit(backend, server, media_type):
    """Where only whole models can run, its one answer is the deepest."""
    reply = server.detect(
        noise(),
        headers={**PNG, "X-Deadline-Ms": str(AMPLE_MS), "Accept": media_type},
        params={"min_depth": 2},
    )
    assert reply.status_code == 200
    *answers, done = read_events(media_type, reply.text.splitlines())
    depths = [event.data["exit_depth"] for event in answers]
    assert depths == ([NUM_EXITS] if backend == "triton-depth" else [2, NUM_EXITS])
    assert done.name == "done"
    assert (done.data["reason"], done.data["num_answers"]) == ("max-depth", len(depths))
    for event in answers:
        depth = event.data["exit_depth"]
        alone = detect(server, min_depth=depth, max_depth=depth).json()["detections"]
        boxes = np.array(
            [[found["box"] for found in each] for each in (event.data["detections"], alone)]
        )
        assert np.abs(boxes[0] - boxes[1]).max() <= 0.05


def test_a_growing_answer_that_cannot_be_is_refused_as_any_other(server):
    headers = {**PNG, "X-Deadline-Ms": "1.5", "Accept": SSE}
    refused = arrived(lambda: server.detect(noise(), headers=headers))
    assert (refused.status_code, slug(refused)) == (422, "budget-infeasible")


def test_a_budget_that_is_too_small_is_refused_with_one_that_is_not(server):
    refused = arrived(lambda: detect(server, 0.5))
    assert (refused.status_code, slug(refused)) == (422, "budget-infeasible")
    assert refused.json()["min_budget_ms"] > 0.5


@pytest.mark.parametrize(
    ("content", "headers", "params", "status"),
    [
        (b"not an image", PNG, {}, 415),
        (noise()[:100], PNG, {}, 400),
        (noise(), {"Content-Type": "text/plain"}, {}, 415),
        (noise(), {**PNG, "X-Deadline-Ms": "0"}, {}, 400),
        (noise(), PNG, {"max_depth": "none"}, 400),
    ],
    ids=["bytes", "truncated", "type", "deadline", "parameter"],
)
def test_bad_input_is_refused(server, content, headers, params, status):
    reply = server.detect(content, headers=headers, params=params)
    assert reply.status_code == status
    assert slug(reply)


def test_identity_is_carried_through(server):
    traceparent = "00-" + "1" * 32 + "-" + "2" * 16 + "-01"
    headers = {**PNG, "X-Request-Id": "mine", "traceparent": traceparent, "Prefer": "wait=40"}
    reply = server.detect(noise(), headers=headers)
    assert reply.json()["request_id"] == reply.headers["x-request-id"] == "mine"
    assert reply.headers["traceparent"] == traceparent
    assert reply.headers["preference-applied"] == "wait=40"


def test_kserve_finds_the_same_boxes(server):
    with triton_http.InferenceServerClient(server.url.removeprefix("http://")) as client:
        image = triton_http.InferInput("image", [1], "BYTES")
        image.set_data_from_numpy(np.array([noise()], object))
        result = client.infer(MODEL, [image], timeout=round(AMPLE_MS * 1e3))
    expected = detect(server).json()["detections"]
    boxes = result.as_numpy("boxes")
    np.testing.assert_allclose(boxes, [found["box"] for found in expected], atol=0.05)
    assert result.get_response()["parameters"]["exit_depth"] == NUM_EXITS


def test_the_model_is_described_with_predictions(server):
    (model,) = server.get("/v1/models").json()["models"]
    predicted = [entry["predicted_ms"] for entry in model["exits"]]
    assert len(predicted) == NUM_EXITS
    assert all(0 < ms < AMPLE_MS for ms in predicted)


def test_it_is_ready_and_says_what_it_runs(server):
    assert server.is_ready()
    assert server.metric("punctual_ready") == 1.0


def test_a_client_that_leaves_is_counted_as_cancelled(server):
    before = counted(server)["cancelled"]
    with server.connect() as connection:
        body = noise()
        connection.sendall(
            b"POST /v1/detect HTTP/1.1\r\nHost: x\r\nContent-Type: image/png\r\n"
            b"Content-Length: %d\r\n\r\n" % len(body)
        )
        connection.sendall(body)
    eventually(lambda: counted(server)["cancelled"] + counted(server)["ok"] > before)


def test_hanging_up_after_the_first_answer_frees_the_place(server):
    """Whether it was noticed before the last answer is the backend's luck: it is counted once."""
    before = counted(server)
    headers = {**PNG, "X-Deadline-Ms": str(AMPLE_MS), "Accept": NDJSON}
    for _ in range(10):
        with (
            server.client() as client,
            client.stream("POST", "/v1/detect", content=noise(), headers=headers) as reply,
        ):
            assert next(read_events(NDJSON, reply.iter_lines())).name == "detections"
    eventually(lambda: (counted(server) - before).total() == 10)
    assert set(counted(server) - before) <= {"cancelled", "ok"}
    eventually(lambda: server.metric("punctual_in_flight_requests") == 0)
    assert detect(server).status_code == 200


NUM_FRAMES = 24


def frames() -> list[bytes]:
    """A stream that comes faster than any engine has done with it; ``noise`` is its last frame."""
    flat = encode(np.zeros((128, 256, 3), np.uint8), "JPEG")
    return [*[flat] * (NUM_FRAMES - 1), noise()]


def ended(server: Server) -> Counter[str]:
    """What the server says has become of all requests, whether or not at the deepest exit."""
    outcomes = counted(server)
    answered = outcomes.pop("ok", 0) + outcomes.pop("degraded", 0)
    return outcomes + Counter({ANSWERED: answered})


def ended_since(before: Counter[str], server: Server) -> Counter[str]:
    """What has become of a stream's frames since ``before``."""
    eventually(lambda: (ended(server) - before).total() == NUM_FRAMES)
    return ended(server) - before


def test_a_stream_is_told_of_each_frame_once(server):
    """Frames come faster than any engine can have them: the newest is answered, and of the others
    those that were begun; the rest has given way."""
    before = ended(server)
    with FrameStream("door", server.url, deadline_ms=AMPLE_MS) as stream:
        sent = [stream.send(frame) for frame in frames()]
        told = [stream.receive(PATIENCE_S) for _ in sent]
        assert sorted(each.frame for each in told) == sent
        last = max(told, key=lambda each: each.frame)
        assert last.outcome == ANSWERED
        depth = last.reply.exit_depth
        alone = detect(server, min_depth=depth, max_depth=depth).json()["detections"]
        assert last.reply.labels == tuple(found["label"] for found in alone)
        said = Counter(each.outcome for each in told)
        assert set(said) == {ANSWERED, "superseded"}
        assert ended_since(before + Counter(answered=1), server) == said
        stream.allow(1.5)  # as small a budget is refused as elsewhere
        stream.send(noise())
        assert stream.receive(PATIENCE_S).outcome in ("budget-infeasible", "body-timeout")


def test_a_newer_frame_supersedes_over_plain_http(server):
    before = ended(server)

    async def send_all() -> list[httpx.Response]:
        headers = {"X-Deadline-Ms": str(AMPLE_MS)}
        limits = httpx.Limits(max_connections=None)
        async with httpx.AsyncClient(
            base_url=server.url, timeout=PATIENCE_S, limits=limits
        ) as client:
            posts = [
                client.post(
                    "/v1/detect",
                    content=frame,
                    headers={**headers, "Content-Type": media_type(frame)},
                    params={"stream": "yard", "frame": number},
                )
                for number, frame in enumerate(frames(), 1)
            ]
            return await asyncio.gather(*posts)

    replies = asyncio.run(send_all())
    assert replies[-1].status_code == 200
    statuses = Counter(reply.status_code for reply in replies)
    assert set(statuses) == {200, 409}
    assert {slug(reply) for reply in replies if reply.status_code == 409} == {"superseded"}
    assert ended_since(before, server) == {ANSWERED: statuses[200], "superseded": statuses[409]}


def num_answered(ended: list[Ended]) -> int:
    return sum(each.status == 200 for each in ended)


def test_every_request_of_a_flood_ends_once_and_in_time(server):
    """Far more than the engine can take, at mixed budgets: what ends, ends as it should, and the
    server's own books agree with the client's."""
    before = counted(server)

    async def flood():
        async with Load(server.url, rate=100, budgets_ms=(40, 80, 200, 1000)) as load:
            await load.until(lambda ended: len(ended) >= 250 and num_answered(ended) > 20)
            return await load.ended()

    ended = asyncio.run(flood())
    allowed = {200: {""}, 422: {"budget-infeasible"}, 503: {"overloaded"}}
    allowed |= {504: {"deadline-exceeded"}, 408: {"body-timeout"}}
    assert {(e.status, e.slug) for e in ended if e.slug not in allowed.get(e.status, ())} == set()
    assert (counted(server) - before).total() == len(ended)
    # By the server's clock: its client here shares its cores.
    assert all(e.slack_s >= 0 for e in ended if e.status == 200)
    eventually(lambda: server.metric("punctual_in_flight_requests") == 0)


def test_a_drain_answers_what_is_in_flight(backend, small_repository, triton):
    with gateway(backend, small_repository, triton) as server:

        async def drain():
            async with ConnectingLoad(server.url, rate=20, budgets_ms=(AMPLE_MS,)) as load:
                await load.until(lambda ended: num_answered(ended) >= 5)
                server.process.send_signal(signal.SIGTERM)
                return await load.ended()

        ended = asyncio.run(drain())
        assert server.ended() == 0
    assert num_answered(ended) >= 5
    assert {e.status for e in ended} <= {200, 503, ConnectingLoad.UNSENT}


class ConnectingLoad(Load):
    """A load of which some may find that nobody listens any longer: their requests are not sent."""

    UNSENT = 0

    async def _send(self, budget_ms: float) -> Ended:
        sent_s = time.monotonic()
        try:
            return await super()._send(budget_ms)
        except httpx.ConnectError:
            return Ended(sent_s, budget_ms / 1e3, 0.0, self.UNSENT, "", 0, 0.0)
