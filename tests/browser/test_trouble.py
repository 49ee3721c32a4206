"""The page when something goes wrong: a server that goes and comes, files that are no images, a
camera that is taken away, and people who are quicker than answers."""

from __future__ import annotations

import re

import pytest
from playwright.sync_api import Browser, Page, Route, expect

from tests.browser.conftest import slide
from tests.browser.test_page import size, upload
from tests.e2e.process import Server
from tests.serving.fakes import JPEG, encode, picture

KEEP_MEDIA = """() => {
    const ask = navigator.mediaDevices.getUserMedia.bind(navigator.mediaDevices);
    window.media = [];
    navigator.mediaDevices.getUserMedia = async (...wanted) => {
        const found = await ask(...wanted);
        media.push(found);
        return found;
    };
}"""
NUM_LIVE = "() => media.filter((each) => each.getTracks()[0].readyState === 'live').length"


def hold(page: Page) -> list[Route]:
    """The detection requests that come from now on, for the test to let go."""
    held: list[Route] = []

    def keep(route: Route) -> None:
        held.append(route)

    page.route("**/v1/detect*", keep)
    return held


class TestAServerThatIsAway:
    def test_it_is_found_when_it_is_back_whatever_it_serves_then(self, page: Page, site: Server):
        with site.client() as client:
            (model,) = client.get("/v1/models").json()["models"]
        other = {**model, "name": "other", "exits": model["exits"][:2]}
        page.route("**/v1/**", lambda route: route.abort())
        upload(page)
        expect(page.locator("#problem-title")).to_have_text("The server did not answer")
        expect(page.locator("#problem-detail")).to_contain_text("Nobody answers at 127.0.0.1")
        expect(page.locator("#model")).to_contain_text("not connected")
        expect(page.locator("#model")).to_contain_text("Trying again.")
        page.unroute("**/v1/**")
        page.route("**/v1/models", lambda route: route.fulfill(json={"models": [other]}))
        expect(page.locator("#model")).to_have_text("other, 2 exits, 128 x 96")
        expect(page.locator("#fixed option")).to_have_text(["exit 1", "exit 2"])
        expect(page.locator("#depth")).to_have_js_property("value", "2")
        expect(page.locator("#exits .reached")).to_have_text("2")
        expect(page.locator("#problem")).to_be_hidden()

    def test_one_that_hangs_is_not_waited_for_for_ever(self, page: Page):
        page.evaluate(
            "() => { AbortSignal.timeout = () =>"
            " AbortSignal.abort(new DOMException('', 'TimeoutError')); }"
        )
        upload(page)
        expect(page.locator("#problem-title")).to_have_text("The server did not answer")
        expect(page.locator("#problem-detail")).to_contain_text("has said nothing for 12 seconds")

    def test_a_sample_that_cannot_be_fetched_is_told_and_not_pressed(self, page: Page):
        page.route("**/ui/*.jpg", lambda route: route.abort())
        page.locator("#samples button").first.click()
        expect(page.locator("#problem-title")).to_have_text("The server did not answer")
        expect(page.locator("#samples [aria-pressed=true]")).to_have_count(0)

    def test_that_an_answer_is_waited_for_is_said(self, page: Page):
        held = hold(page)
        expect(page.locator("#viewer")).not_to_have_attribute("aria-busy", "true")
        with page.expect_request("**/v1/detect*"):
            upload(page)
        expect(page.locator("#viewer")).to_have_attribute("aria-busy", "true")
        held[0].continue_()
        expect(page.locator("#viewer")).to_have_attribute("aria-busy", "false")

    def test_answers_that_break_off_are_told(self, page: Page):
        page.route("**/v1/detect*", lambda route: route.fulfill(body="{}\n"))
        page.evaluate(
            """() => {
                const pipe = ReadableStream.prototype.pipeThrough;
                ReadableStream.prototype.pipeThrough = () => new ReadableStream({
                    start: (controller) => controller.error(new TypeError("network error")),
                });
            }"""
        )
        page.locator("#streaming").check()
        upload(page)
        expect(page.locator("#problem-detail")).to_contain_text("broke off")


class TestFilesThatAreNoImages:
    @pytest.mark.parametrize(
        ("name", "kind", "data", "title", "detail"),
        [
            ("a.jpg", "image/jpeg", b"no image", "Not an image", "a.jpg. Choose a JPEG, PNG or"),
            ("a.jpg", "image/jpeg", b"", "Not an image", "a.jpg is empty."),
            ("a.heic", "image/heic", b"\0\0\0\x1cftypheic", "Not an image", "a.heic. Choose a"),
            (
                *("a.svg", "image/svg+xml"),
                b"<svg xmlns='http://www.w3.org/2000/svg' width='9' height='9'/>",
                *("(415)", "none of JPEG, PNG and WebP"),
            ),
            ("a.gif", "image/gif", encode(picture(8, 8), "GIF"), "(415)", "none of JPEG, PNG"),
        ],
        ids=["text", "empty", "heic", "svg", "gif"],
    )
    def test_why_is_told_and_none_counts_as_late(
        self, page: Page, name: str, kind: str, data: bytes, title: str, detail: str
    ):
        upload(page, data, name, kind)
        expect(page.locator("#problem-title")).to_contain_text(title)
        expect(page.locator("#problem-detail")).to_contain_text(detail)
        expect(page.locator("#figures-served dd").first).to_have_text("\u2013")

    def test_the_server_looks_at_what_the_browser_has_no_name_for(self, page: Page):
        upload(page, JPEG, "picture", "")
        expect(page.locator("#exits .reached")).to_have_text("3")


class TestWhoIsQuickerThanAnswers:
    def test_no_boxes_of_one_picture_are_shown_on_another(self, page: Page):
        held = hold(page)
        with page.expect_request("**/v1/detect*"):
            upload(page)
        upload(page, encode(picture(32, 24), "JPEG"), "b.jpg")
        expect(page.locator("#canvas")).to_have_js_property("width", 32)
        with page.expect_request("**/v1/detect*"):  # which is sent once the first has ended
            held[0].continue_()
        expect(page.locator("#result")).to_be_hidden()
        held[1].continue_()
        expect(page.locator("#exits .reached")).to_have_text("3")
        assert size(page) == (32, 24)

    def test_a_picture_of_ones_own_is_no_sample(self, page: Page):
        page.locator("#samples button").first.click()
        expect(page.locator("#samples [aria-pressed=true]")).to_have_count(1)
        upload(page)
        expect(page.locator("#samples [aria-pressed=true]")).to_have_count(0)
        # Or a browser would not tell that the same file is chosen again.
        expect(page.locator("#file")).to_have_js_property("value", "")

    def test_a_camera_is_opened_once_however_often_it_is_asked_for(self, page: Page):
        page.evaluate(KEEP_MEDIA)
        page.evaluate("() => { for (let i = 0; i < 3; i++) document.all.camera.click(); }")
        page.wait_for_function("() => media.length === 3")
        expect(page.locator("#camera")).to_have_text("Stop")
        page.wait_for_function(f"() => ({NUM_LIVE})() === 1")

    def test_a_sample_wins_over_a_camera_that_is_still_opening(self, page: Page):
        page.evaluate(KEEP_MEDIA)
        page.evaluate(
            "() => { document.all.camera.click();"
            " document.querySelector('#samples button').click(); }"
        )
        expect(page.locator("#exits .reached")).to_have_text("3")
        page.wait_for_function(f"() => media.length === 1 && ({NUM_LIVE})() === 0")
        expect(page.locator("#camera")).to_have_text("Camera")


class TestACameraThatHasEnded:
    def test_its_last_picture_is_what_is_asked_about(self, page: Page):
        page.locator("#samples button").first.click()
        expect(page.locator("#exits .reached")).to_have_text("3")
        page.locator("#camera").click()
        expect(page.locator("#timing dt")).to_have_text(["Exit 3", "Total"])
        page.locator("#camera").click()
        with page.expect_response("**/v1/detect*") as response:
            slide(page, "score", 0.9)
        assert response.value.json()["image"]["width"] == size(page)[0]

    def test_by_itself_is_told(self, page: Page):
        page.evaluate(KEEP_MEDIA)
        page.locator("#camera").click()
        expect(page.locator("#camera")).to_have_text("Stop")
        page.evaluate("() => { media[0].getTracks()[0].dispatchEvent(new Event('ended')); }")
        expect(page.locator("#camera")).to_have_text("Camera")
        expect(page.locator("#problem-detail")).to_contain_text("unplugged")


class TestBudgets:
    def test_one_beyond_the_slider_can_be_allowed(self, page: Page):
        problem = {"title": "Too small", "status": 422, "detail": "-", "min_budget_ms": 3500}
        page.route("**/v1/detect*", lambda route: route.fulfill(status=422, json=problem))
        upload(page)
        allow = page.get_by_role("button", name="Allow 3500 ms")
        expect(allow).to_be_visible()  # so that the first request has been
        with page.expect_request("**/v1/detect*") as request:
            allow.click()
        assert request.value.headers["x-deadline-ms"] == "3500"
        expect(page.locator("#budget-out")).to_have_text("3500 ms")

    def test_a_screen_reader_is_told_milliseconds(self, page: Page):
        expect(page.locator("#budget")).to_have_attribute("aria-valuetext", "2000 ms")


class TestKeys:
    def test_what_shows_one_is_closed_by_escape(self, page: Page):
        page.get_by_text("Key", exact=True).click()
        page.get_by_label("API key").press("Escape")
        expect(page.get_by_label("API key")).to_be_hidden()
        expect(page.locator("#access summary")).to_be_focused()

    def test_an_image_without_one_is_told_what_is_missing(self, browser: Browser, site: Server):
        problem = {"title": "Unknown", "status": 401, "detail": "This server asks for a key."}
        page = browser.new_page(base_url=site.url)
        page.route("**/v1/**", lambda route: route.fulfill(status=401, json=problem))
        page.goto("/")
        expect(page.locator("#model")).to_contain_text("asks for a key")
        upload(page)
        expect(page.locator("#problem-title")).to_have_text(re.compile(r"Unknown \(401\)"))
        page.close()
