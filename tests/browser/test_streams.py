"""The page's camera, its crowd of others, and its charts."""

from __future__ import annotations

import re

import pytest
from playwright.sync_api import Page, expect

from tests.browser.conftest import slide
from tests.browser.test_page import NO_ANSWER_DEPTH, SLOW_DEPTH
from tests.e2e.process import Server, eventually


def in_time(page: Page, lane: str) -> str:
    return page.locator(f"#figures-{lane} dd").first.inner_text()


class TestCamera:
    def test_every_picture_is_shown_with_its_boxes(self, page: Page):
        page.locator("#camera").click()
        expect(page.locator("#camera")).to_have_text("Stop")
        expect(page.locator("#exits .reached")).to_have_text("3")
        expect(page.locator("#figures-served dd").first).to_have_text(re.compile("[0-9]+ %"))
        expect(page.locator("#result")).to_have_attribute("aria-live", "off")
        expect(page.locator("#spoken")).to_contain_text("percent in time")
        width = page.locator("#canvas").evaluate("canvas => canvas.width")
        assert 0 < width <= 640
        slide(page, "score", 0.95)  # which holds for the next stream
        page.locator("#camera").click()
        expect(page.locator("#camera")).to_have_text("Camera")
        page.locator("#camera").click()
        expect(page.locator("#classes")).to_have_text("Nothing")

    def test_a_sample_takes_its_place(self, page: Page):
        page.locator("#camera").click()
        expect(page.locator("#camera")).to_have_attribute("aria-pressed", "true")
        page.locator("#samples button").first.click()
        expect(page.locator("#camera")).to_have_attribute("aria-pressed", "false")
        expect(page.locator("#timing")).to_contain_text("Decode")

    @pytest.mark.parametrize(
        ("name", "sentence"),
        [
            ("NotAllowedError", "not allowed to use the camera"),
            ("NotFoundError", "no camera"),
            ("OddError", "OddError"),
        ],
    )
    def test_why_there_is_none_is_told(self, page: Page, name: str, sentence: str):
        page.evaluate(
            """(name) => { navigator.mediaDevices.getUserMedia = () =>
            Promise.reject(new DOMException("no", name)); }""",
            name,
        )
        page.locator("#camera").click()
        expect(page.locator("#problem-title")).to_have_text("No camera")
        expect(page.locator("#problem-detail")).to_contain_text(sentence)
        expect(page.locator("#camera")).to_have_text("Camera")


class TestOthers:
    def test_they_are_answered_beside_ones_own_image(self, page: Page, site: Server):
        answered = 'punctual_requests_total{outcome="ok"}'
        before = site.metric(answered)
        page.locator("#samples button").first.click()
        expect(page.locator("#exits .reached")).to_have_text("3")
        slide(page, "others", 3)
        expect(page.locator("#others-out")).to_have_text("3")
        expect(page.locator("#figures-served")).to_contain_text("exit 3")
        expect(page.locator("#spoken")).to_contain_text("percent in time")
        assert in_time(page, "served") != "0 %"
        for often in ("#result", "#problem"):
            expect(page.locator(often)).to_have_attribute("aria-live", "off")
        eventually(lambda: site.metric(answered) > before + 3)
        slide(page, "others", 0)
        expect(page.locator("#result")).to_have_attribute("aria-live", "polite")

    def test_those_that_get_no_answer_are_counted(self, page: Page):
        slide(page, "depth", NO_ANSWER_DEPTH)
        slide(page, "budget", 55)
        slide(page, "others", 2)
        expect(page.locator("#figures-served dd").first).to_have_text("0 %")
        expect(page.locator("#figures-served dd").first).to_have_class("bad")
        # More than the engine's 30 and the reserve.
        took_long = re.compile(r"^([5-9][0-9]|[0-9]{3,})\.[0-9] ms each")
        expect(page.locator("#fixed-ms")).to_have_text(took_long)

    def test_a_stream_that_is_refused_ends_them_and_is_told(self, page: Page):
        page.route_web_socket(
            re.compile("/v1/streams/"),
            lambda socket: socket.close(code=1001, reason="going"),
        )
        slide(page, "others", 5)
        expect(page.locator("#problem-detail")).to_have_text("going")
        expect(page.locator("#problem")).to_have_attribute("aria-live", "assertive")
        expect(page.locator("#others")).to_have_js_property("value", "0")


class TestKeys:
    def test_a_key_is_asked_for_and_shown_with_every_request(self, page: Page):
        problem = {"title": "Unknown", "status": 401, "detail": "This server asks for a key."}

        def gate(route):
            if route.request.headers.get("authorization") == "Bearer secret":
                return route.continue_()
            return route.fulfill(status=401, json=problem)

        page.route("**/v1/**", gate)
        page.reload()
        expect(page.locator("#model")).to_contain_text("This server asks for a key.")
        page.get_by_label("API key").fill("secret")
        page.keyboard.press("Enter")
        expect(page.locator("#model")).to_contain_text("cells")
        expect(page.get_by_label("API key")).to_be_hidden()
        slide(page, "budget", 100)
        page.locator("#samples button").first.click()
        expect(page.locator("#exits .reached")).to_have_text("3")


class TestFixedPoint:
    """What a fixed operating point would do, by arithmetic."""

    @pytest.mark.parametrize(
        ("arrivals_ms", "shares"),
        [
            ([0, 100], [0.2, 0.2]),
            ([0, 0, 0, 0], [0.2, 0.4, 0.6, 0.8]),
            ([0, 0, 0, 0, 0, 0, 30], [0.2, 0.4, 0.6, 0.8, 1.0, None, 0.9]),
        ],
        ids=["idle", "one after another", "late ones cost nothing"],
    )
    def test_shares_of_the_budget(self, page: Page, arrivals_ms: list[int], shares: list[float]):
        # 20 ms each, a budget of 100.
        found = page.evaluate(
            """async (arrivals) => {
                const {FixedPoint} = await import("/ui/fixed.js");
                const queue = new FixedPoint();
                return arrivals.map((at) => queue.arrive(at, 100, 20));
            }""",
            arrivals_ms,
        )
        assert found == [None if share is None else pytest.approx(share) for share in shares]

    def test_what_this_server_needs_beside_its_engine_is_needed_there_too(
        self, page: Page, site: Server
    ):
        with site.client() as client:
            exits = client.get("/v1/models").json()["models"][0]["exits"]
        slow, best = (exits[depth - 1]["predicted_ms"] for depth in (SLOW_DEPTH, len(exits)))
        slide(page, "depth", SLOW_DEPTH)
        with page.expect_response("**/v1/detect*") as response:
            page.locator("#samples button").first.click()
        elapsed_ms = response.value.json()["elapsed_ms"]
        told = f"{best + elapsed_ms - slow:.1f} ms each, computed"
        expect(page.locator("figure:has(#fixed) .tag")).to_have_text(told)


class TestOverhead:
    """What a server needs beside its engine, by when pictures came and ended."""

    def test_of_the_last_seconds(self, page: Page):
        cases = {
            "one after another": ([(0, 30, 20), (100, 130, 20)], 10),
            "side by side": ([(0, 30, 20), (0, 50, 20)], 5),
            "one within another, which came later": ([(10, 20, 5), (0, 50, 20)], 12.5),
            "several in one run": ([(0, 30, 20), (0, 30, 20)], 0),
            "one that was late": ([(0, 30, 20), (10, 110, 0)], 45),
            "none yet": ([], None),
            "some long ago": ([(-9000, -1000, 1), (0, 30, 20)], 10),
            "none lately": ([(-9000, -8970, 20)], None),
        }
        found = page.evaluate(
            """async (cases) => {
                const {Overhead} = await import("/ui/overhead.js");
                return cases.map(([pictures]) => {
                    const overhead = new Overhead();
                    for (const picture of pictures) overhead.add(...picture);
                    return overhead.eachMs(200);
                });
            }""",
            list(cases.values()),
        )
        assert dict(zip(cases, found, strict=True)) == {
            name: expected if expected is None else pytest.approx(expected)
            for name, (_, expected) in cases.items()
        }

    def test_the_last_known_stands_while_there_are_no_pictures(self, page: Page):
        found = page.evaluate(
            """async () => {
                const {Overhead} = await import("/ui/overhead.js");
                const overhead = new Overhead();
                overhead.add(0, 30, 20);
                return [200, 60000].map((nowMs) => overhead.eachMs(nowMs));
            }"""
        )
        assert found == [10, 10]


class TestTimeline:
    def test_figures_are_of_the_last_seconds(self, page: Page):
        found = page.evaluate(
            """async () => {
                const {Lane} = await import("/ui/timeline.js");
                const lane = new Lane(null, null);
                const add = (atMs, share, ap, point) =>
                    lane.add({atMs, share, ap, point, own: false});
                add(0, .5, .9, "old");
                for (const atMs of [6000, 7000]) add(atMs, .5, .6, "a");
                add(8000, .5, .3, "b");
                add(9000, null, 0, null);
                const empty = [20000, 40000].map((nowMs) => lane.isEmpty(nowMs));
                return [lane.summary(10000), lane.summary(20000), ...empty];
            }"""
        )
        summary, nothing, is_empty, is_empty_later = found
        assert summary == {
            "inTime": 0.75,
            "ap": pytest.approx(1.5 / 4),
            "rate": pytest.approx(3 / 4),
            "point": "a",
        }
        assert (nothing, is_empty, is_empty_later) == (None, False, True)
