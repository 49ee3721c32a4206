from __future__ import annotations

import asyncio
import json
import re
import struct
import threading
from dataclasses import replace
from typing import Any

import httpx
import numpy as np
import pytest
from starlette.types import Message

from serving.api import kserve
from serving.api.connection import DEPARTURE, Departure
from serving.api.inference_message import MAX_TIMEOUT_US
from serving.api.kserve import EXTENSIONS, INLINE_JSON_BYTES
from serving.api.tensors import LENGTH_HEADER
from serving.core.errors import BackendError, Overloaded, ShedReason
from serving.core.ports import Image
from serving.core.request import Answered, Request
from serving.imaging.decoding import decode_all
from tests.serving.fakes import (
    CATALOG,
    DETECTIONS,
    FAMILY,
    JPEG,
    encode,
    family_of,
    forever,
    picture,
)
from tests.serving.gateway import Gateway, slug

pytestmark = pytest.mark.anyio

PIXELS = picture(64, 48)
MODEL = "/v2/models/cells"


def entry(pixels: Any = PIXELS, **members: Any) -> dict[str, Any]:
    """The input ``image`` as Triton's clients describe it, its data following."""
    return {
        "name": "image",
        "datatype": "UINT8",
        "shape": list(pixels.shape),
        "parameters": {"binary_data_size": pixels.nbytes},
        **members,
    }


async def send(
    gateway: Gateway,
    request: dict[str, Any],
    binary: bytes = b"",
    headers: dict[str, str] | None = None,
    path: str = MODEL + "/infer",
) -> httpx.Response:
    text = json.dumps(request).encode()
    length = {LENGTH_HEADER: str(len(text))} if binary else {}
    async with gateway.client() as client:
        return await client.post(path, content=text + binary, headers={**length, **(headers or {})})


async def infer(
    gateway: Gateway, headers: dict[str, str] | None = None, **members: Any
) -> httpx.Response:
    """One inference of ``PIXELS``, with these further members of the message."""
    return await send(gateway, {"inputs": [entry()], **members}, PIXELS.tobytes(), headers)


async def get(gateway: Gateway, path: str) -> httpx.Response:
    async with gateway.client() as client:
        return await client.get(path)


def refused(response: httpx.Response, status: int) -> str:
    """The protocol's error in ``response``, which is nothing but that."""
    assert response.status_code == status
    assert response.headers["content-type"] == "application/json"
    assert response.headers["x-request-id"]
    (error,) = json.loads(response.content).items()
    assert error[0] == "error"
    return str(error[1])


def output(response: httpx.Response, name: str) -> dict[str, Any]:
    (found,) = [each for each in response.json()["outputs"] if each["name"] == name]
    return found


class TestReply:
    async def test_all_of_it(self, gateway: Gateway) -> None:
        async def behaviour(_: Image, request: Request) -> Answered:
            started_s = gateway.clock.now + 0.002
            gateway.clock.now += 0.022
            return Answered(request, DETECTIONS, 2, started_s, gateway.clock.now, 0.020, 0.018)

        gateway.backend.behaviour = behaviour
        response = await infer(
            gateway,
            {"X-Request-Id": "r1"},
            id="7",
            parameters={"timeout": 9_000_000, "score_threshold": 0.5},
        )
        assert response.status_code == 200
        assert response.json() == {
            "model_name": "cells",
            "model_version": "1",
            "id": "7",
            "parameters": {
                "model": "cells",
                "version": FAMILY.release,
                "operating_point": "128x96/2",
                "exit_depth": 2,
                "max_depth": 3,
                "degraded": True,
                "expected_ap": 0.5,
                "budget_ms": 9000.0,
                "elapsed_ms": 22.0,
                "slack_ms": 8978.0,
                "predicted_ms": 18.0,
            },
            "outputs": [
                {
                    "name": "boxes",
                    "datatype": "FP32",
                    "shape": [2, 4],
                    "data": [4.0, 8.0, 12.0, 16.0, 0.0, 0.0, 2.0, 2.0],
                },
                {
                    "name": "scores",
                    "datatype": "FP32",
                    "shape": [2],
                    "data": [pytest.approx(0.9), 0.5],
                },
                {"name": "labels", "datatype": "INT32", "shape": [2], "data": [1, 0]},
            ],
        }
        assert response.headers["x-request-id"] == "r1"
        assert response.headers["cache-control"] == "no-store"
        assert "total;dur=22.0" in response.headers["server-timing"]
        assert gateway.outcomes() == {"degraded": 1}

    async def test_the_same_boxes_as_for_the_file(self, gateway: Gateway) -> None:
        file = await gateway.detect(encode(PIXELS, "PNG"))
        response = await infer(gateway)
        boxes = np.reshape(output(response, "boxes")["data"], (-1, 4)).tolist()
        assert boxes == [each["box"] for each in file.json()["detections"]]
        (image, _), (tensor, _) = gateway.backend.seen
        assert (image == tensor).all()

    async def test_binary_for_all_outputs_but_one(self, gateway: Gateway) -> None:
        response = await infer(
            gateway,
            parameters={"binary_data_output": True},
            outputs=[
                {"name": "scores"},
                {"name": "labels", "parameters": {"binary_data": False}},
                {"name": "boxes", "parameters": {"binary_data": True}},
            ],
        )
        length = int(response.headers[LENGTH_HEADER])
        described = json.loads(response.content[:length])["outputs"]
        assert [each["name"] for each in described] == ["scores", "labels", "boxes"]
        assert described[1]["data"] == [1, 0, 0]
        numbers = np.frombuffer(response.content[length:], "<f4")
        assert numbers[:3].tolist() == DETECTIONS.scores.tolist()
        assert numbers[3:7].tolist() == [4, 8, 12, 16]
        assert len(numbers) == 3 + 3 * 4

    async def test_no_boxes(self, gateway: Gateway) -> None:
        response = await infer(gateway, parameters={"score_threshold": 1})
        assert output(response, "boxes")["shape"] == [0, 4]
        assert output(response, "labels")["data"] == []

    async def test_an_id_only_if_there_was_one(self, gateway: Gateway) -> None:
        assert "id" not in (await infer(gateway)).json()
        assert (await infer(gateway, id="")).json()["id"] == ""

    async def test_a_version(self, gateway: Gateway) -> None:
        path = MODEL + "/versions/1/infer"
        response = await send(gateway, {"inputs": [entry()]}, PIXELS.tobytes(), path=path)
        assert response.status_code == 200

    async def test_models_served_as_one_are_one(self) -> None:
        gateway = Gateway(family_of(CATALOG, replace(CATALOG, name="large")))
        request = {"inputs": [entry()]}
        for path in ("cells+large", "cells%2Blarge"):
            response = await send(
                gateway, request, PIXELS.tobytes(), path=f"/v2/models/{path}/infer"
            )
            assert response.json()["model_name"] == "cells+large"
            assert response.json()["parameters"]["model"] == "cells"
        response = await send(gateway, request, PIXELS.tobytes())
        assert "'cells+large'" in refused(response, 404)


class TestImages:
    async def test_numbers(self, gateway: Gateway) -> None:
        for data in (PIXELS.tolist(), PIXELS.ravel().tolist()):
            assert (await send(gateway, {"inputs": [number_entry(data)]})).status_code == 200
        assert (gateway.backend.seen[0][0] == gateway.backend.seen[1][0]).all()
        await gateway.detect(encode(PIXELS, "PNG"))
        assert (gateway.backend.seen[0][0] == gateway.backend.seen[2][0]).all()

    async def test_a_file(self, gateway: Gateway) -> None:
        for kind, data in (("jpeg", JPEG), ("png", encode(PIXELS, "PNG"))):
            response = await send(gateway, *file_message(data))
            assert response.status_code == 200
            assert gateway.sample("punctual_decode_seconds_count", format=kind) == 1

    async def test_are_counted_by_what_they_are(self, gateway: Gateway) -> None:
        await infer(gateway)
        assert gateway.sample("punctual_decode_seconds_count", format="raw") == 1

    @pytest.mark.parametrize(
        ("shape", "sentence"),
        [
            ([64, 48], "must be \\[height, width, 3\\]"),
            ([1, 48, 64, 3], "must be \\[height, width, 3\\]"),
            ([48, 64, 4], "must be \\[height, width, 3\\]"),
            ([0, 64, 3], "must be \\[height, width, 3\\]"),
            ([], "must be \\[height, width, 3\\]"),
            ([48, 65, 3], "has 9360 elements; 9216 came"),
        ],
    )
    async def test_shapes(self, gateway: Gateway, shape: list[int], sentence: str) -> None:
        request = {"inputs": [entry(shape=shape)]}
        error = refused(await send(gateway, request, PIXELS.tobytes()), 400)
        assert re.search(sentence, error)

    async def test_names_and_datatypes(self, gateway: Gateway) -> None:
        for members, sentence in (
            ({"name": "images"}, "There is no input 'images'; there is 'image'."),
            ({"datatype": "FP32"}, "must be UINT8 or BYTES; it is 'FP32'."),
        ):
            request = {"inputs": [entry(**members)]}
            assert sentence in refused(await send(gateway, request, PIXELS.tobytes()), 400)

    async def test_files_that_are_none(self, gateway: Gateway) -> None:
        refused(await send(gateway, *file_message(b"GIF89a")), 415)
        refused(await send(gateway, *file_message(b"")), 400)
        refused(await send(gateway, *file_message(JPEG[:-200])), 400)

    async def test_limits(self) -> None:
        gateway = Gateway(max_pixels=64 * 48 - 1, max_body_bytes=20_000)
        assert "3,071" in refused(await infer(gateway), 413)
        huge = {"inputs": [entry(shape=[10**15, 10**15, 3])]}
        refused(await send(gateway, huge, PIXELS.tobytes()), 413)
        refused(await send(gateway, {"inputs": [entry()]}, bytes(20_000)), 413)
        refused(await send(gateway, *file_message(JPEG)), 413)
        assert gateway.outcomes() == {"invalid": 4}
        assert gateway.backend.seen == []

    async def test_no_compression(self, gateway: Gateway) -> None:
        error = refused(await infer(gateway, {"Content-Encoding": "gzip"}), 415)
        assert "Content-Encoding is 'gzip'" in error


def number_entry(data: Any) -> dict[str, Any]:
    return {"name": "image", "datatype": "UINT8", "shape": list(PIXELS.shape), "data": data}


def file_message(data: bytes) -> tuple[dict[str, Any], bytes]:
    binary = struct.pack("<I", len(data)) + data
    parameters = {"binary_data_size": len(binary)}
    request = entry(datatype="BYTES", shape=[1], parameters=parameters)
    return {"inputs": [request]}, binary


class TestLongMessages:
    @pytest.fixture
    def threads(self, monkeypatch: pytest.MonkeyPatch) -> list[str]:
        names: list[str] = []
        read = kserve.read_request

        def spy(*given: Any) -> Any:
            names.append(threading.current_thread().name)
            return read(*given)

        monkeypatch.setattr(kserve, "read_request", spy)
        return names

    async def test_are_not_read_on_the_event_loop(
        self, gateway: Gateway, threads: list[str]
    ) -> None:
        assert len(str(PIXELS.tolist())) > INLINE_JSON_BYTES
        assert (await infer(gateway)).status_code == 200
        response = await send(gateway, {"inputs": [number_entry(PIXELS.tolist())]})
        assert response.status_code == 200
        assert threads[0] == threading.current_thread().name
        assert threads[1].startswith("decode")

    async def test_wait_for_a_thread_no_longer_than_their_budget(
        self, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        started, gate = threading.Event(), threading.Event()

        def slow(*arguments: Any) -> Any:
            started.set()
            gate.wait()
            return decode_all(*arguments)

        monkeypatch.setattr("serving.imaging.decode_pool.decode_all", slow)
        gateway = Gateway(num_decode_workers=1)
        ahead = asyncio.ensure_future(gateway.detect(headers={"X-Deadline-Ms": "9000"}))
        while not started.is_set():
            await asyncio.sleep(0.001)
        response = await send(
            gateway, {"inputs": [number_entry(PIXELS.tolist())]}, headers={"X-Deadline-Ms": "400"}
        )
        assert "waited to be read" in refused(response, 503)
        assert gateway.outcomes() == {"rejected": 1}
        gate.set()
        assert (await ahead).status_code == 200


class TestBudget:
    @pytest.mark.parametrize(
        ("timeout_us", "headers", "budget_ms"),
        [
            (None, {}, 1000),
            (900_000, {}, 900),
            (4_000_000, {}, 4000),  # a wish replaces the default
            (4_000_000, {"X-Deadline-Ms": "5000"}, 4000),
            (6_000_000, {"X-Deadline-Ms": "5000"}, 5000),
            (4_000_000, {"grpc-timeout": "1S"}, 1000),
            (MAX_TIMEOUT_US, {}, 10_000),
        ],
    )
    async def test_the_smallest_wins(
        self, gateway: Gateway, timeout_us: int | None, headers: dict[str, str], budget_ms: float
    ) -> None:
        parameters = {} if timeout_us is None else {"timeout": timeout_us}
        response = await infer(gateway, headers, parameters=parameters)
        assert response.json()["parameters"]["budget_ms"] == budget_ms

    @pytest.mark.parametrize(
        ("parameters", "budget_ms"),
        [
            ({"deadline_ms": 900}, 900),
            ({"deadline_ms": "900.5"}, 900.5),
            ({"deadline_ms": 900, "timeout": 4_000_000}, 900),
            ({"deadline_ms": 4000.0, "timeout": 900_000}, 900),
        ],
    )
    async def test_a_deadline_as_elsewhere(
        self, gateway: Gateway, parameters: dict[str, Any], budget_ms: float
    ) -> None:
        response = await infer(gateway, parameters=parameters)
        assert response.json()["parameters"]["budget_ms"] == budget_ms
        error = refused(await infer(gateway, parameters={"deadline_ms": 0}), 400)
        assert "deadline_ms must be a positive decimal" in error

    async def test_only_boxes_of_the_classes_wanted(self, gateway: Gateway) -> None:
        response = await infer(gateway, parameters={"classes": "Circle"})
        outputs = {each["name"]: each for each in response.json()["outputs"]}
        assert outputs["labels"]["data"] == [0, 0]
        assert outputs["boxes"]["shape"] == [2, 4]
        assert outputs["scores"]["shape"] == [2]
        error = refused(await infer(gateway, parameters={"classes": "triangle"}), 400)
        assert "There is no class 'triangle'" in error

    @pytest.mark.parametrize(
        "timeout", [0, -1, 0.5, 1e5, True, "40000", None, [], {}, MAX_TIMEOUT_US + 1, 10**4000]
    )
    async def test_anything_else_is_refused(self, gateway: Gateway, timeout: Any) -> None:
        error = refused(await infer(gateway, parameters={"timeout": timeout}), 400)
        assert "timeout must be a positive whole number of microseconds" in error

    async def test_headers_are_read_as_ever(self, gateway: Gateway) -> None:
        assert "X-Deadline-Ms" in refused(await infer(gateway, {"X-Deadline-Ms": "soon"}), 400)

    async def test_infeasible(self, gateway: Gateway) -> None:
        error = refused(await infer(gateway, parameters={"timeout": 5000}), 422)
        assert "an idle server usually needs" in error
        assert gateway.outcomes() == {"infeasible": 1}

    async def test_a_timeout_counts_from_the_head(self, gateway: Gateway) -> None:
        async def behaviour(*_: object) -> Answered:
            gateway.clock.now += 9.0001
            return await gateway.backend.answer(*gateway.backend.seen[0])

        gateway.backend.behaviour = behaviour
        error = refused(await infer(gateway, parameters={"timeout": 9_000_000}), 504)
        assert "0.1 ms after the deadline" in error
        assert gateway.sample("punctual_deadline_overrun_seconds_sum") == pytest.approx(0.0001)


class TestParameters:
    async def test_depths(self, gateway: Gateway) -> None:
        response = await infer(gateway, parameters={"min_depth": 2, "max_depth": "2"})
        assert response.json()["parameters"]["max_depth"] == 2
        (_, request), *_ = gateway.backend.seen
        assert (request.min_depth, request.max_depth) == (2, 2)

    @pytest.mark.parametrize(
        "parameters",
        [
            *({"min_depth": 0}, {"min_depth": 4}, {"min_depth": 1.0}, {"min_depth": True}),
            *({"max_depth": None}, {"max_depth": [2]}, {"min_depth": 3, "max_depth": 2}),
            *({"score_threshold": 0.01}, {"score_threshold": 1.5}, {"score_threshold": "high"}),
            *({"binary_data_output": 1}, {"binary_data_output": "true"}),
        ],
    )
    async def test_out_of_range(self, gateway: Gateway, parameters: dict[str, Any]) -> None:
        name = next(iter(parameters))
        assert name in refused(await infer(gateway, parameters=parameters), 400)

    @pytest.mark.parametrize("number", ["NaN", "Infinity", "1e999"])
    async def test_numbers_that_json_lacks(self, gateway: Gateway, number: str) -> None:
        request = {"inputs": [entry()], "parameters": {"score_threshold": "?"}}
        text = json.dumps(request).replace('"?"', number).encode()
        headers = {LENGTH_HEADER: str(len(text))}
        async with gateway.client() as client:
            response = await client.post(
                MODEL + "/infer", content=text + PIXELS.tobytes(), headers=headers
            )
        assert "score_threshold must be one number" in refused(response, 400)

    async def test_unknown_ones(self, gateway: Gateway) -> None:
        error = refused(await infer(gateway, parameters={"depth": 2}), 400)
        assert "There is no parameter 'depth'" in error
        assert "timeout" in error

    @pytest.mark.parametrize(
        "parameters",
        [{"priority": 1}, {"sequence_id": 5, "sequence_start": True}, {"headers": "x"}],
    )
    async def test_reserved_ones_are_refused_with_a_reason(
        self, gateway: Gateway, parameters: dict[str, Any]
    ) -> None:
        error = refused(await infer(gateway, parameters=parameters), 400)
        assert "is not served: " in error

    async def test_those_that_change_nothing(self, gateway: Gateway) -> None:
        parameters = {"priority": 0, "triton_enable_empty_final_response": True, "sequence_id": ""}
        assert (await infer(gateway, parameters=parameters)).status_code == 200

    async def test_not_in_the_query_string(self, gateway: Gateway) -> None:
        path = MODEL + "/infer?max_depth=1"
        response = await send(gateway, {"inputs": [entry()]}, PIXELS.tobytes(), path=path)
        assert "query string" in refused(response, 400)

    async def test_outputs(self, gateway: Gateway) -> None:
        response = await infer(gateway, outputs=[{"name": "labels"}])
        assert [each["name"] for each in response.json()["outputs"]] == ["labels"]
        error = refused(await infer(gateway, outputs=[{"name": "masks"}]), 400)
        assert error == "There is no output 'masks'; there are boxes, scores, labels."
        twice = [{"name": "boxes"}, {"name": "boxes"}]
        assert "more than once" in refused(await infer(gateway, outputs=twice), 400)


class TestErrors:
    @pytest.mark.parametrize(
        ("error", "status", "outcome"),
        [
            (Overloaded("Full.", ShedReason.REJECTED_OVERLOAD, 2.5), 503, "rejected"),
            (BackendError("Broken."), 500, "error"),
            (RuntimeError("secret"), 500, "error"),
        ],
    )
    async def test_are_told_and_counted_once(
        self, gateway: Gateway, error: Exception, status: int, outcome: str
    ) -> None:
        async def behaviour(*_: object) -> Answered:
            raise error

        gateway.backend.behaviour = behaviour
        async with gateway.busy():
            response = await infer(gateway)
            assert "secret" not in refused(response, status)
            assert response.headers.get("retry-after") == ("3" if status == 503 else None)
            assert gateway.outcomes() == {outcome: 1}

    async def test_as_problems_if_asked_for(self, gateway: Gateway) -> None:
        wanted = {"Accept": "application/problem+json, */*"}
        response = await infer(gateway, wanted, parameters={"timeout": 5000})
        assert slug(response) == "budget-infeasible"
        assert response.json()["min_budget_ms"] > 5
        assert slug(await get(gateway, "/nothing")) == "not-found"
        assert slug(await get(gateway, "/v2x")) == "not-found"

    @pytest.mark.parametrize(
        "path", ["/v2/nothing", "/v2/models/cats", "/v2/models/cells/versions/2", "/v2/models"]
    )
    async def test_what_is_not_there(self, gateway: Gateway, path: str) -> None:
        refused(await get(gateway, path), 404)

    async def test_other_models(self, gateway: Gateway) -> None:
        response = await send(gateway, {"inputs": []}, path="/v2/models/cats/infer")
        assert refused(response, 404) == "There is no model 'cats'; there is 'cells'."
        response = await send(gateway, {"inputs": []}, path=MODEL + "/versions/7/infer")
        assert "no version '7'" in refused(response, 404)
        assert gateway.outcomes() == {}

    async def test_methods(self, gateway: Gateway) -> None:
        refused(await get(gateway, MODEL + "/infer"), 405)

    async def test_a_client_that_leaves_cancels_its_request(self, gateway: Gateway) -> None:
        gateway.backend.behaviour = forever
        request, binary = file_message(JPEG)
        text = json.dumps(request).encode()
        sent: list[Message] = []
        departure = Departure()

        async def receive() -> Message:
            return {"type": "http.request", "body": text + binary}

        async def send_(message: Message) -> None:
            sent.append(message)

        head = [(LENGTH_HEADER.lower().encode(), str(len(text)).encode())]
        scope = {"type": "http", "method": "POST", "path": MODEL + "/infer", "query_string": b""}
        more = {"headers": head, "state": {DEPARTURE: departure}}
        asking = asyncio.ensure_future(gateway.app({**scope, **more}, receive, send_))
        while not gateway.backend.seen:
            await asyncio.sleep(0.001)
        departure.leave()
        await asking
        assert sent[0]["status"] == 499
        assert gateway.outcomes() == {"cancelled": 1}


class TestDescription:
    async def test_server(self, gateway: Gateway) -> None:
        reply = (await get(gateway, "/v2")).json()
        assert reply["name"] == "punctual"
        assert reply["extensions"] == list(EXTENSIONS)

    async def test_health(self, gateway: Gateway) -> None:
        ready = ("/v2/health/ready", MODEL + "/ready", MODEL + "/versions/1/ready")
        for path in ready:
            assert (await get(gateway, path)).json()["ready"]
        gateway.backend.ready = False
        for path in ready:
            refused(await get(gateway, path), 503)
        refused(await infer(gateway), 503)
        assert (await get(gateway, "/v2/health/live")).json() == {"live": True}
        gateway.backend.ready = True
        gateway.lifecycle.drain()
        refused(await get(gateway, "/v2/health/ready"), 503)

    async def test_model(self, gateway: Gateway) -> None:
        for path in (MODEL, MODEL + "/versions/1"):
            reply = (await get(gateway, path)).json()
            assert (reply["name"], reply["versions"]) == ("cells", ["1"])
            (image,) = reply["inputs"]
            assert image == {"name": "image", "datatype": "UINT8", "shape": [-1, -1, 3]}

    async def test_outputs_are_as_described(self, gateway: Gateway) -> None:
        described = (await get(gateway, MODEL)).json()["outputs"]
        sent = (await infer(gateway)).json()["outputs"]
        assert [(e["name"], e["datatype"]) for e in sent] == [
            (e["name"], e["datatype"]) for e in described
        ]
        for one, other in zip(sent, described, strict=True):
            assert len(one["shape"]) == len(other["shape"])
            assert all(d in (-1, n) for n, d in zip(one["shape"], other["shape"], strict=True))

    async def test_config(self, gateway: Gateway) -> None:
        config = (await get(gateway, MODEL + "/config")).json()
        assert config["max_batch_size"] == 0
        assert config["input"] == [
            {"name": "image", "data_type": "TYPE_UINT8", "dims": [-1, -1, 3]}
        ]
        assert [each["data_type"] for each in config["output"]] == [
            *("TYPE_FP32", "TYPE_FP32", "TYPE_INT32")
        ]

    async def test_index(self, gateway: Gateway) -> None:
        async with gateway.client() as client:
            (model,) = (await client.post("/v2/repository/index")).json()
            gateway.backend.ready = False
            (starting,) = (await client.post("/v2/repository/index", content=b"{}")).json()
        assert (model["name"], model["version"], model["state"]) == ("cells", "1", "READY")
        assert starting["state"] == "UNAVAILABLE"

    async def test_is_in_the_api_description(self, gateway: Gateway) -> None:
        paths = (await get(gateway, "/openapi.json")).json()["paths"]
        (model, *_) = paths["/v2/models/{model}/infer"]["post"]["parameters"]
        assert (model["name"], model["in"]) == ("model", "path")


class TestStatistics:
    async def test_of_nothing(self, gateway: Gateway) -> None:
        (model,) = (await get(gateway, "/v2/models/stats")).json()["model_stats"]
        assert (model["name"], model["version"], model["last_inference"]) == ("cells", "1", 0)
        assert {each["count"] for each in model["inference_stats"].values()} == {0}

    async def test_count_both_surfaces(self, gateway: Gateway) -> None:
        async def behaviour(_: Image, request: Request) -> Answered:
            started_s = gateway.clock.now
            gateway.clock.now += 0.025
            return Answered(request, DETECTIONS, 3, started_s, gateway.clock.now, 0.020, 0.018)

        gateway.backend.behaviour = behaviour
        await infer(gateway)
        await gateway.detect()
        await infer(gateway, parameters={"timeout": 1})
        gateway.clock.now += 3
        for path in ("/v2/models/stats", MODEL + "/stats", MODEL + "/versions/1/stats"):
            (model,) = (await get(gateway, path)).json()["model_stats"]
            assert model["inference_count"] == model["execution_count"] == 2
            assert model["last_inference"] == round((gateway.wall_clock.now - 3) * 1e3)
            assert model["inference_stats"] == {
                "success": {"count": 2, "ns": 50_000_000},
                "fail": {"count": 1, "ns": 0},
                "queue": {"count": 2, "ns": 10_000_000},
                "compute_input": {"count": 2, "ns": 0},
                "compute_infer": {"count": 2, "ns": 40_000_000},
                "compute_output": {"count": 2, "ns": 0},
                "cache_hit": {"count": 0, "ns": 0},
                "cache_miss": {"count": 0, "ns": 0},
            }


class TestTypes:
    """A page of any website may have a browser send what it need not ask for."""

    @pytest.mark.parametrize(
        "headers",
        [
            {"Content-Type": "text/plain"},
            {"Content-Type": "text/plain;application/json"},
            {"Content-Type": "application/x-www-form-urlencoded"},
            {"Content-Type": "multipart/form-data; boundary=x"},
            {"Origin": "https://elsewhere.example"},
        ],
    )
    async def test_that_a_browser_sends_unasked(
        self, gateway: Gateway, headers: dict[str, str]
    ) -> None:
        response = await send(gateway, {"inputs": []}, headers=headers)
        assert "Content-Type must be one of application/json" in refused(response, 415)

    @pytest.mark.parametrize(
        "headers",
        [
            {},
            {"Content-Type": "application/json"},
            {"Content-Type": "Application/JSON; charset=utf-8"},
            {"Content-Type": "application/octet-stream", "Origin": "https://elsewhere.example"},
        ],
    )
    async def test_that_clients_send(self, gateway: Gateway, headers: dict[str, str]) -> None:
        response = await send(gateway, {"inputs": []}, headers=headers)
        assert "There must be one input" in refused(response, 400)

    async def test_the_protocols_header_says_enough(self, gateway: Gateway) -> None:
        assert (await infer(gateway, {"Content-Type": "text/plain"})).status_code == 200
