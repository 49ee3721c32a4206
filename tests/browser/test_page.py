"""The page at ``/``, as people use it: in a browser."""

from __future__ import annotations

import base64
import contextlib
import re
from collections.abc import Iterator, Mapping
from typing import Literal

import pytest
from PIL import Image
from playwright.sync_api import Browser, Page, expect

from tests.browser.conftest import slide
from tests.e2e.process import Server
from tests.serving.fakes import JPEG, encode, picture

NO_ANSWER_DEPTH, SLOW_DEPTH = 1, 2
"""See ``tests.e2e.fake_server``."""


def upload(page: Page, data: bytes = JPEG, name: str = "a.jpg", kind: str = "image/jpeg") -> None:
    page.locator("#file").set_input_files({"name": name, "mimeType": kind, "buffer": data})


def pixel(page: Page, x: int, y: int) -> tuple[int, int, int]:
    data = page.locator("#canvas").evaluate(
        "(canvas, [x, y]) => [...canvas.getContext('2d').getImageData(x, y, 1, 1).data]", [x, y]
    )
    return tuple(data[:3])


def size(page: Page) -> tuple[int, int]:
    width, height = page.locator("#canvas").evaluate("canvas => [canvas.width, canvas.height]")
    return width, height


class TestOpening:
    def test_the_deepest_exit_is_allowed(self, fresh: Page):
        assert fresh.locator("#depth").input_value() == "3"
        expect(fresh.locator("#depth-out")).to_have_text("3")

    def test_the_budget_is_enough_for_the_deepest_exit(self, fresh: Page, site: Server):
        with site.client() as client:
            exits = client.get("/v1/models").json()["models"][0]["exits"]
        shown = float(fresh.locator("#budget-out").inner_text().removesuffix(" ms"))
        assert 2 * exits[-1]["min_budget_ms"] <= shown <= 2.2 * exits[-1]["min_budget_ms"]

    def test_the_model_is_named_and_nothing_else_is_shown(self, fresh: Page):
        expect(fresh.locator("#model")).to_have_text("cells, 3 exits, 128 x 96")
        for hidden in ("#result", "#problem", "#canvas"):
            expect(fresh.locator(hidden)).to_be_hidden()

    def test_the_charts_have_their_axes(self, fresh: Page):
        fresh.wait_for_function(
            """() => ["served", "fixed"].every((lane) => {
                const canvas = document.getElementById(`lane-${lane}`);
                const {width, height} = canvas;
                return canvas.getContext("2d").getImageData(0, 0, width, height).data.some(Boolean);
            })"""
        )

    def test_it_fetches_nothing_from_elsewhere(self, browser: Browser, site: Server):
        asked: list[str] = []
        page = browser.new_page(base_url=site.url)
        page.on("request", lambda request: asked.append(request.url))
        page.goto("/")
        expect(page.locator("#model")).to_contain_text("cells")
        page.close()
        assert all(url.startswith((site.url, "data:")) for url in asked)

    def test_the_routes_are_described_without_anything_from_elsewhere(
        self, browser: Browser, site: Server
    ):
        asked: list[str] = []
        told: list[str] = []
        page = browser.new_page(base_url=site.url)
        page.on("request", lambda request: asked.append(request.url))
        page.on("console", lambda message: told.append(message.text))  # a policy broken, say
        page.goto("/")
        page.get_by_role("link", name="API").click()
        expect(page.get_by_role("heading", name="POST /v1/detect")).to_be_visible()
        page.get_by_role("link", name="POST /v1/detect").click()
        assert told == []
        page.get_by_role("link", name="openapi.json").click()
        expect(page.locator("body")).to_contain_text("openapi")
        page.close()
        assert all(url.startswith((site.url, "data:")) for url in asked)

    @pytest.mark.parametrize("answer", ["bad gateway", "nobody"])
    def test_a_model_list_that_could_not_be_read_is_asked_for_again(
        self, browser: Browser, site: Server, answer: str
    ):
        page = browser.new_page(base_url=site.url)
        if answer == "nobody":
            page.route("**/v1/models", lambda route: route.abort())
        else:
            page.route("**/v1/models", lambda route: route.fulfill(status=502, body="<html>"))
        page.goto("/")
        expect(page.locator("#model")).to_contain_text("not connected")
        page.unroute("**/v1/models")
        slide(page, "budget", 100)
        upload(page)
        expect(page.locator("#exits .reached")).to_be_visible()
        expect(page.locator("#model")).to_contain_text("cells")
        page.close()


class TestAnImage:
    def check_answer(self, page: Page) -> None:
        expect(page.locator("#exits .reached")).to_have_text("3")
        expect(page.locator("#expected")).to_have_text("Expected AP 0.600")
        expect(page.locator("#classes")).to_contain_text("square")
        expect(page.locator("#timing")).to_contain_text("Total")
        expect(page.locator("#problem")).to_be_hidden()
        assert size(page) == (64, 48)

    def test_chosen(self, page: Page):
        upload(page)
        self.check_answer(page)

    def test_dropped(self, page: Page):
        transfer = page.evaluate_handle(
            """(text) => {
                const bytes = Uint8Array.from(atob(text), (c) => c.charCodeAt(0));
                const transfer = new DataTransfer();
                transfer.items.add(new File([bytes], "a.jpg", {type: "image/jpeg"}));
                return transfer;
            }""",
            base64.b64encode(JPEG).decode(),
        )
        stage = page.locator("#stage")
        stage.dispatch_event("dragover", {"dataTransfer": transfer})
        expect(stage).to_have_class("over")
        stage.dispatch_event("drop", {"dataTransfer": transfer})
        expect(stage).not_to_have_class("over")
        self.check_answer(page)

    def test_chosen_by_keyboard(self, page: Page):
        page.locator("#camera").focus()
        page.keyboard.press("Tab")
        expect(page.locator("#file")).to_be_focused()
        # What opens the browser's own dialog, which is not the page's to test.
        page.evaluate(
            "() => { document.activeElement.onclick = (event) => {"
            " event.preventDefault(); event.target.title = 'activated'; }; }"
        )
        page.keyboard.press("Enter")
        expect(page.locator("#file")).to_have_attribute("title", "activated")

    @pytest.mark.parametrize("orientation", range(1, 9))
    @pytest.mark.parametrize("kind", ["JPEG", "PNG", "WEBP"])
    def test_is_shown_upright_as_the_server_sees_it(self, page: Page, kind: str, orientation: int):
        exif = Image.Exif()
        exif[0x0112] = orientation
        data = encode(picture(64, 48), kind, exif=exif.tobytes())
        with page.expect_response("**/v1/detect*") as response:
            upload(page, data, f"a.{kind.lower()}", f"image/{kind.lower()}")
        expect(page.locator("#exits .reached")).to_have_text("3")
        image = response.value.json()["image"]
        assert size(page) == (image["width"], image["height"])
        # The boxes of the fake engine lie in the upper left; the lower right quarter is bare.
        upright = picture(64, 48)
        turns = {
            1: lambda p: p,
            2: lambda p: p[:, ::-1],
            3: lambda p: p[::-1, ::-1],
            4: lambda p: p[::-1],
            5: lambda p: p.transpose(1, 0, 2),
            6: lambda p: p[::-1].transpose(1, 0, 2),
            7: lambda p: p[::-1, ::-1].transpose(1, 0, 2),
            8: lambda p: p[:, ::-1].transpose(1, 0, 2),
        }
        expected = turns[orientation](upright)
        x, y = image["width"] * 3 // 4, image["height"] * 3 // 4
        assert list(pixel(page, x, y)) == pytest.approx(expected[y, x].tolist(), abs=12)

    def test_that_is_none_is_said_to_be_none(self, page: Page):
        upload(page, b"no image", "a.jpg")
        expect(page.locator("#problem-title")).to_have_text("Not an image")
        expect(page.locator("#problem-detail")).to_contain_text("a.jpg")


class TestSliders:
    def test_each_asks_again(self, page: Page):
        upload(page)
        expect(page.locator("#exits .reached")).to_have_text("3")
        slide(page, "depth", SLOW_DEPTH)
        expect(page.locator("#exits .reached")).to_have_text("2")
        expect(page.locator("#exits .barred")).to_have_text("3")
        slide(page, "score", 0.6)
        expect(page.locator("#classes dt")).to_have_text(["square"])
        slide(page, "score", 0.95)
        expect(page.locator("#classes")).to_have_text("Nothing")

    def test_a_budget_that_is_too_small_names_one_that_is_not(self, page: Page):
        upload(page)
        expect(page.locator("#exits .reached")).to_have_text("3")
        slide(page, "budget", 0)
        expect(page.locator("#problem-title")).to_contain_text("(422)")
        expect(page.locator("#result")).to_be_hidden()
        suggested = float(re.sub("[^0-9.]", "", page.locator("#allow").inner_text()))
        page.locator("#allow").click()
        expect(page.locator("#budget-out")).not_to_have_text("2 ms")
        assert float(page.locator("#budget-out").inner_text().removesuffix(" ms")) >= suggested
        slide(page, "budget", 100)  # whether this busy machine can keep that one is not the page's
        expect(page.locator("#problem")).to_be_hidden()
        expect(page.locator("#result")).to_be_visible()

    def test_by_keyboard(self, page: Page):
        upload(page)
        expect(page.locator("#exits .reached")).to_have_text("3")
        page.locator("#depth").focus()
        page.keyboard.press("ArrowLeft")
        expect(page.locator("#depth-out")).to_have_text("2")
        expect(page.locator("#exits .reached")).to_have_text("2")


class TestStreaming:
    def test_every_exit_can_be_looked_at(self, page: Page):
        page.locator("#streaming").check()
        upload(page)
        expect(page.locator("#exits .reached")).to_have_text("3")
        expect(page.locator("#exits button")).to_have_text(["1", "2"])
        page.locator("#exits button").first.click()
        expect(page.locator("#exits .reached")).to_have_text("1")
        expect(page.locator("#expected")).to_have_text("Expected AP 0.400, on the way")
        expect(page.locator("#timing dt")).to_have_text(["Exit 1", "Exit 2", "Exit 3", "Total"])

    def test_an_error_event_is_told(self, page: Page):
        event = '{"event": "error", "title": "Engine failed", "status": 500, "detail": "It broke."}'
        page.route("**/v1/detect*", lambda route: route.fulfill(body=event + "\n"))
        page.locator("#streaming").check()
        upload(page)
        expect(page.locator("#problem-title")).to_have_text("Engine failed (500)")


class TestSeveralSizes:
    @contextlib.contextmanager
    def page(self, browser: Browser, site: Server, exits: Mapping[int, int]) -> Iterator[Page]:
        """The page of a server whose model has so many exits at each input size, and whose answers
        are of 172 and of 300 pixels."""
        with site.client() as client:
            (model,) = client.get("/v1/models").json()["models"]
            jpeg = {"Content-Type": "image/jpeg"}
            reply = client.post("/v1/detect", content=JPEG, headers=jpeg).json()
        models = [
            {
                **model,
                "input_width": side,
                "input_height": side,
                "exits": [
                    {**each, "operating_point": f"{side}x{side}/{each['depth']}"}
                    for each in model["exits"][:count]
                ],
            }
            for side, count in exits.items()
        ]
        merged = {**reply, "operating_point": "172x172/1+300x300/1", "exit_depth": 1}
        timing = {"Server-Timing": "read;dur=1, decode;dur=1, queue;dur=1, engine;dur=1"}
        page = browser.new_page(base_url=site.url)
        page.route("**/v1/models", lambda route: route.fulfill(json={"models": models}))
        page.route("**/v1/detect*", lambda route: route.fulfill(json=merged, headers=timing))
        page.goto("/")
        upload(page)
        yield page
        page.close()

    def test_every_point_that_an_answer_is_of_is_shown(self, browser: Browser, site: Server):
        with self.page(browser, site, {172: 1, 300: 2}) as page:
            expect(page.locator("#reached")).to_have_text("Operating point reached")
            expect(page.locator("#model")).to_have_text("cells, 2 exits, 172 x 172, 300 x 300")
            expect(page.locator("#exits span")).to_have_text(["172x172", "300x300/1", "300x300/2"])
            expect(page.locator("#exits .reached")).to_have_text(["172x172", "300x300/1"])
            expect(page.locator("#depth")).to_be_visible()

    def test_where_each_has_one_exit_none_is_to_be_chosen(self, browser: Browser, site: Server):
        with self.page(browser, site, {172: 1, 300: 1}) as page:
            expect(page.locator("#reached")).to_have_text("Input size reached, px")
            expect(page.locator("#model")).to_have_text("cells, 172, 300 px")
            expect(page.locator("#exits span")).to_have_text(["172", "300"])
            expect(page.locator("#exits .reached")).to_have_text(["172", "300"])
            expect(page.locator("#exits [aria-current]")).to_have_text(["172", "300"])
            expect(page.locator("#expected")).to_contain_text("172 + 300 px, expected AP")
            expect(page.locator("#fixed option")).to_have_text(["172 px", "300 px"])
            expect(page.locator("#figures-served")).to_contain_text("most often at, px172 + 300")
            for hidden in ("#depth", "#depth-label"):
                expect(page.locator(hidden)).to_be_hidden()


class TestSamples:
    def test_each_is_asked_about(self, page: Page):
        for button in page.locator("#samples button").all():
            button.click()
            expect(button).to_have_attribute("aria-pressed", "true")
            expect(page.locator("#samples [aria-pressed=true]")).to_have_count(1)
            expect(page.locator("#exits .reached")).to_have_text("3")
            natural = button.locator("img").evaluate("image => image.naturalWidth")
            expect(page.locator("#canvas")).to_have_js_property("width", natural)

    def test_by_keyboard(self, page: Page):
        page.locator("#samples button").first.focus()
        page.keyboard.press("Tab")
        page.keyboard.press("Enter")
        expect(page.locator("#samples button").nth(1)).to_have_attribute("aria-pressed", "true")
        expect(page.locator("#exits .reached")).to_have_text("3")

    def test_each_says_what_it_shows(self, page: Page):
        for image in page.locator("#samples img").all():
            assert image.get_attribute("alt")


class TestErrors:
    def test_late(self, page: Page):
        slide(page, "depth", NO_ANSWER_DEPTH)
        slide(page, "budget", 55)
        upload(page)
        expect(page.locator("#problem-title")).to_contain_text("(504)")

    def test_what_is_no_json_is_told_by_its_status(self, page: Page):
        page.route("**/v1/detect*", lambda route: route.fulfill(status=502, body="<html>"))
        upload(page)
        expect(page.locator("#problem-title")).to_have_text("Not a reply of this server (502)")
        expect(page.locator("#problem-detail")).to_contain_text("502")

    def test_nobody_there(self, page: Page):
        page.route("**/v1/detect*", lambda route: route.abort())
        upload(page)
        expect(page.locator("#problem-title")).to_have_text("The server did not answer")

    def test_the_next_image_makes_good(self, page: Page):
        page.route("**/v1/detect*", lambda route: route.abort())
        upload(page)
        expect(page.locator("#problem")).to_be_visible()
        page.unroute("**/v1/detect*")
        upload(page)
        expect(page.locator("#problem")).to_be_hidden()
        expect(page.locator("#exits .reached")).to_have_text("3")


class TestLooks:
    @pytest.mark.parametrize("width", [320, 390, 768, 1280])
    def test_nothing_is_wider_than_the_window(self, browser: Browser, site: Server, width: int):
        page = browser.new_page(base_url=site.url, viewport={"width": width, "height": 844})
        page.goto("/")
        expect(page.locator("#model")).to_contain_text("cells")
        slide(page, "budget", 100)
        upload(page, encode(picture(1600, 300), "JPEG"))
        expect(page.locator("#exits .reached")).to_have_text("3")
        assert page.evaluate("document.documentElement.scrollWidth") <= width
        page.close()

    @pytest.mark.parametrize("scheme", ["light", "dark"])
    def test_text_can_be_read(
        self, browser: Browser, site: Server, scheme: Literal["light", "dark"]
    ) -> None:
        page = browser.new_page(base_url=site.url, color_scheme=scheme)
        page.goto("/")
        expect(page.locator("#model")).to_contain_text("cells")
        slide(page, "budget", 100)
        upload(page)
        expect(page.locator("#exits .reached")).to_have_text("3")
        for place in ("#model", "#timing", "#expected", "label[for=budget]"):
            assert contrast(page, place) >= 4.5, place
        page.close()

    def test_a_label_is_read_on_every_color(self, page: Page):
        """WCAG's ratio of what is written to what it is written on, of the colors of classes."""
        ratios = page.evaluate(
            """async () => {
                const {classColor, inkOn} = await import("/ui/picture.js");
                const pen = document.createElement("canvas").getContext("2d");
                const luminance = (hex) => {
                    const [r, g, b] = [1, 3, 5].map((at) => {
                        const share = parseInt(hex.slice(at, at + 2), 16) / 255;
                        return share <= .04045 ? share / 12.92 : ((share + .055) / 1.055) ** 2.4;
                    });
                    return .2126 * r + .7152 * g + .0722 * b;
                };
                return [...Array(90).keys()].map((id) => {
                    pen.fillStyle = classColor(id);
                    const both = [luminance(pen.fillStyle), luminance(inkOn(pen.fillStyle))];
                    return (Math.max(...both) + .05) / (Math.min(...both) + .05);
                });
            }"""
        )
        assert min(ratios) >= 4.5

    def test_labels_are_not_over_one_another_nor_out_of_the_picture(self, page: Page):
        cases = [
            [[0, 20, 90, 80]],  # above its box
            [[0, 5, 90, 80]],  # no room above
            [[90, 20, 100, 80]],  # too wide for the rest of the line
            [[10, 20, 90, 80], [5, 22, 90, 90]],  # the second where the first is
            [[0, 0, 100, 5]] * 3,  # more than there is room for
        ]
        found = page.evaluate(
            """async (cases) => {
                const {labelPlaces} = await import("/ui/picture.js");
                return cases.map((boxes) => labelPlaces(boxes, boxes.map(() => 40), 10, 100, 100));
            }""",
            cases,
        )
        assert found == [
            [[0, 10]],
            [[0, 5]],
            [[60, 10]],
            [[10, 10], [5, 22]],
            [[0, 0], [0, 0], [0, 0]],
        ]

    def test_all_of_the_sources_can_be_seen(self, browser: Browser, site: Server):
        page = browser.new_page(base_url=site.url, viewport={"width": 320, "height": 700})
        page.goto("/")
        expect(page.locator("#model")).to_contain_text("cells")
        inside, camera = (page.locator(each).bounding_box() for each in ("#viewer", "#camera"))
        assert inside is not None
        assert camera is not None
        assert camera["x"] + camera["width"] < inside["x"] + inside["width"]
        page.close()


def contrast(page: Page, place: str) -> float:
    """WCAG's contrast ratio of the text at ``place`` to what is behind it."""
    text, ground = page.locator(place).first.evaluate(
        """(element) => {
            let behind = element;
            while (getComputedStyle(behind).backgroundColor === "rgba(0, 0, 0, 0)")
                behind = behind.parentElement;
            return [getComputedStyle(element).color, getComputedStyle(behind).backgroundColor];
        }"""
    )
    light, dark = sorted((luminance(text), luminance(ground)), reverse=True)
    return (light + 0.05) / (dark + 0.05)


def luminance(color: str) -> float:
    """WCAG's relative luminance of ``rgb(r, g, b)``."""
    shares = [int(value) / 255 for value in re.findall(r"\d+", color)[:3]]
    red, green, blue = (
        share / 12.92 if share <= 0.04045 else ((share + 0.055) / 1.055) ** 2.4 for share in shares
    )
    return 0.2126 * red + 0.7152 * green + 0.0722 * blue
