from __future__ import annotations

import re
from dataclasses import replace

import pytest
from prometheus_client.parser import text_string_to_metric_families

from serving.api.cutting import NAMES as CUT_NAMES
from serving.api.problems import PROBLEMS
from serving.api.schemas import DetectionResponse, Done, Models
from serving.core.catalog import Exit
from serving.core.family import Family
from serving.core.model_entry import MergedAccuracy, Merging, ModelEntry, SizedExit
from tests.serving.events import NDJSON, SSE, read_events
from tests.serving.fakes import CATALOG, family_of
from tests.serving.gateway import Gateway, slug

pytestmark = pytest.mark.anyio


async def test_models(gateway: Gateway) -> None:
    async with gateway.client() as client:
        reply = (await client.get("/v1/models")).json()
        gateway.backend.ready = False
        starting = (await client.get("/v1/models")).json()
    (model,) = Models.model_validate(reply).models
    assert (model.name, model.classes) == ("cells", ["circle", "square"])
    assert [(e.depth, e.predicted_ms) for e in model.exits] == [(1, 10.0), (2, 20.0), (3, 30.0)]
    assert model.precision is None
    assert all(e.min_budget_ms > e.predicted_ms + 1 for e in model.exits)  # type: ignore[operator]
    assert 3.0 < model.reserve_ms < 10.0
    assert [e["predicted_ms"] for e in starting["models"][0]["exits"]] == [None] * 3


async def test_models_and_answers_are_of_the_precision_served() -> None:
    exits = tuple(replace(entry, ap=0.11) for entry in CATALOG.exits)
    gateway = Gateway(family_of(replace(CATALOG.at("int8"), exits=exits)))
    async with gateway.client() as client:
        (model,) = Models.model_validate((await client.get("/v1/models")).json()).models
        answer = DetectionResponse.model_validate((await gateway.detect()).json())
    assert model.precision == "int8"
    assert [e.ap for e in model.exits] == [0.11] * 3
    assert answer.expected_ap == 0.11


async def test_models_served_as_one() -> None:
    small, large = (
        replace(CATALOG, name=name, exits=tuple(Exit(d, ap, ap, {}) for d, ap in enumerate(aps, 1)))
        for name, aps in (("small", (0.4, 0.5, 0.49)), ("large", (0.45, 0.6)))
    )
    gateway = Gateway(family_of(small, large))  # large takes 5 ms more at each depth
    async with gateway.client() as client:
        reply = Models.model_validate((await client.get("/v1/models")).json())
        gateway.backend.ready = False
        starting = Models.model_validate((await client.get("/v1/models")).json())
    assert [model.name for model in reply.models] == ["small", "large"]
    assert [[e.predicted_ms for e in model.exits] for model in reply.models] == [
        [10.0, 20.0, 30.0],
        [15.0, 25.0],
    ]
    assert [[e.on_front for e in model.exits] for model in reply.models] == [
        [True, True, False],
        [True, True],
    ]
    assert reply.front is not None
    assert [(p.operating_point, p.model, p.depth, p.ap, p.predicted_ms) for p in reply.front] == [
        ("small@128x96/1", "small", 1, 0.4, 10.0),
        ("large@128x96/1", "large", 1, 0.45, 15.0),
        ("small@128x96/2", "small", 2, 0.5, 20.0),
        ("large@128x96/2", "large", 2, 0.6, 25.0),
    ]
    assert starting.front is None
    assert [e.on_front for model in starting.models for e in model.exits] == [None] * 5


async def test_sizes_of_one_model() -> None:
    """Each is listed by itself, and pairs whose answers are merged by their points."""
    sizes = (replace(CATALOG, input_width=64, input_height=48), CATALOG)
    merged = MergedAccuracy(SizedExit("64x48", 1), SizedExit("128x96", 2), 0.7, 0.8)
    entry = ModelEntry(sizes, merging=Merging(32.0, 0.6), merged=(merged,))
    gateway = Gateway(Family((entry,)))
    async with gateway.client() as client:
        reply = Models.model_validate((await client.get("/v1/models")).json())
    assert [(model.name, model.size) for model in reply.models] == [
        ("cells", "64x48"),
        ("cells", "128x96"),
    ]
    assert [each.operating_point for model in reply.models for each in model.exits] == [
        f"{size}/{depth}" for size in ("64x48", "128x96") for depth in (1, 2, 3)
    ]
    assert [(each.first, each.then, each.ap) for each in reply.merged] == [
        ("64x48/1", "128x96/2", 0.7)
    ]


async def test_health(gateway: Gateway) -> None:
    async with gateway.client() as client:
        gateway.backend.ready = False
        assert (await client.get("/livez")).status_code == 200
        assert slug(await client.get("/readyz")) == "backend-unavailable"
        gateway.backend.ready = True
        assert (await client.get("/readyz")).json() == {"status": "ready"}
        gateway.lifecycle.drain()
        assert slug(await client.get("/readyz")) == "overloaded"
        assert (await client.get("/livez")).status_code == 200


@pytest.mark.parametrize("path", ["/v1/models", "/readyz", "/metrics", "/docs", "/v1/admin/models"])
async def test_nobody_is_sent_to_what_is_meant(gateway: Gateway, path: str) -> None:
    """It would be where the client says that this is: there it would show its key."""
    async with gateway.client() as client:
        reply = await client.get(f"{path}/")
    assert (slug(reply), "location" in reply.headers) == ("not-found", False)


async def test_metrics(gateway: Gateway) -> None:
    await gateway.detect()
    async with gateway.client() as client:
        response = await client.get("/metrics")
    assert response.headers["content-type"].startswith("text/plain")
    families = {family.name for family in text_string_to_metric_families(response.text)}
    assert families >= {"punctual_requests", "punctual_ready", "punctual_build_info"}


async def test_page_needs_nothing_from_elsewhere(gateway: Gateway) -> None:
    async with gateway.client() as client:
        response = await client.get("/")
    assert response.headers["content-type"] == "text/html; charset=utf-8"
    assert "default-src 'none'" in response.headers["content-security-policy"]
    fetched = re.findall(r"""(?:src|href|url|fetch)\s*[=(]\s*["'`]([^"'`]+)""", response.text)
    assert fetched
    assert not [address for address in fetched if re.match(r"https?:|//", address)]


async def test_nothing_else(gateway: Gateway) -> None:
    async with gateway.client() as client:
        assert slug(await client.get("/nothing")) == "not-found"
        assert slug(await client.get("/v1/detect")) == "method-not-allowed"


async def test_description(gateway: Gateway) -> None:
    async with gateway.client() as client:
        paths = (await client.get("/openapi.json")).json()["paths"]
    detect = paths["/v1/detect"]["post"]
    names = {parameter["name"] for parameter in detect["parameters"]}
    options = {"min_depth", "max_depth", "score_threshold", "classes", *CUT_NAMES}
    assert names == {"X-Deadline-Ms", "deadline_ms", "stream", "frame", "track", *options}
    assert set(detect["requestBody"]["content"]) == {
        *("image/jpeg", "image/png", "image/webp", "multipart/form-data", "application/json")
    }
    content = detect["responses"]["200"]["content"]
    either = [each["$ref"] for each in content["application/json"]["schema"]["anyOf"]]
    assert [each.rpartition("/")[2] for each in either] == ["DetectionResponse", "PartsResponse"]
    for media_type in (SSE, NDJSON):
        *answers, done = read_events(media_type, content[media_type]["example"].splitlines())
        assert [event.name for event in (*answers, done)] == ["detections", "detections", "done"]
        assert set(answers[0].data) < set(DetectionResponse.model_fields)
        assert set(done.data) < set(Done.model_fields)
    documented = {int(status) for status in detect["responses"]}
    assert {problem.status for problem in PROBLEMS.values()} - {404, 405, 499} <= documented


async def test_a_process_whose_engine_cannot_be_replaced_says_that_it_is_not_alive(
    gateway: Gateway,
) -> None:
    async with gateway.client() as client:
        for path in ("/livez", "/v2/health/live"):
            assert (await client.get(path)).status_code == 200
        gateway.backend.ready = gateway.backend.alive = False
        assert slug(await client.get("/livez")) == "backend-unavailable"
        assert (await client.get("/v2/health/live")).status_code == 503
