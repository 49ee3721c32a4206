from __future__ import annotations

import asyncio
import struct
import threading
import tracemalloc
import zlib
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image as PillowImage

from serving.core.errors import (
    InvalidImage,
    InvalidRequest,
    Overloaded,
    PayloadTooLarge,
    ShedReason,
    UnsupportedImage,
)
from serving.core.letterbox import PAD_VALUE, Letterbox, ModelInput, fit
from serving.core.ports import Image
from serving.imaging.decoding import (
    MAX_JPEG_SEGMENTS,
    MAX_PNG_CHUNKS,
    DecodePool,
    DecodeTimes,
    ExpectedInput,
    Header,
    LazyPixels,
    load_image,
    probe,
    refit,
)
from serving.imaging.pixels import BACKGROUND
from tests.properties import examples
from tests.serving.fakes import FakeClock, encode, picture

QUARTERS = {(0.25, 0.25): (220, 30, 30), (0.25, 0.75): (30, 200, 30), (0.75, 0.25): (30, 30, 210)}


def letterboxed(width: int, height: int) -> ModelInput:
    return ModelInput(width, height, "letterbox")


def assert_upright(pixels: Image, placement: Letterbox, tolerance: int = 12) -> None:
    """The picture's quarters are where ``fakes.picture`` puts them."""
    for (down, right), color in QUARTERS.items():
        y = int(down * placement.resized_height)
        x = int(right * placement.resized_width)
        np.testing.assert_allclose(pixels[y, x].astype(int), color, atol=tolerance)


def test_refit_is_the_same_picture_in_a_smaller_input() -> None:
    frame, _ = load_image(encode(picture(256, 192), "PNG"), letterboxed(256, 224))
    small = refit(frame, letterboxed(96, 64))
    assert (small.shape, small.dtype) == ((64, 96, 3), np.uint8)
    placement = fit(256, 224, 96, 64)
    assert (placement.resized_width, placement.resized_height) == (73, 64)
    assert (small[:, 73:] == PAD_VALUE).all()
    assert_upright(small, fit(256, 192, 73, 64))
    assert (small[-8:, :73] == PAD_VALUE).all()  # the padding of the frame, made smaller
    assert (refit(frame, letterboxed(256, 224)) == frame).all()


def test_refit_of_a_stretched_picture_is_a_plain_resize() -> None:
    frame, placement = load_image(encode(picture(64, 48), "PNG"), ModelInput(96, 96, "stretch"))
    assert placement == Letterbox(64, 48, 96, 96)
    small = refit(frame, ModelInput(48, 32, "stretch"))
    resized = PillowImage.fromarray(frame).resize((48, 32), PillowImage.Resampling.BILINEAR)
    assert (small == np.asarray(resized)).all()
    assert_upright(small, Letterbox(64, 48, 48, 32))


@pytest.mark.parametrize("size", [(640, 480), (500, 333), (333, 500), (1280, 960), (90, 200)])
@pytest.mark.parametrize("resize", ["letterbox", "stretch"])
def test_lazy_pixels_are_those_that_accuracy_is_measured_on(
    size: tuple[int, int], resize: str
) -> None:
    data = encode(picture(*size), "JPEG")
    frame, small = ModelInput(428, 428, resize), ModelInput(300, 300, resize)
    assert small.is_scaled(frame)
    used: list[ModelInput] = []
    known, _ = load_image(data, small)
    lazy = LazyPixels(data, probe(data), frame, {small: known}, used.append)
    assert (lazy.shape, lazy.dtype) == ((428, 428, 3), np.uint8)
    assert refit(lazy, small) is known
    expected, in_frame = load_image(data, frame)
    assert (refit(lazy, frame) == expected).all()
    assert (np.asarray(lazy) == expected).all()
    assert used == [small], "told once, of the first"
    # Where the image lies, mapped from the small input to the frame and on to the image.
    _, placement = load_image(data, small)
    corner = np.array([[0, 0, placement.resized_width, placement.resized_height]], np.float32)
    boxes = in_frame.to_original(small.place(428, 428).to_original(corner))
    np.testing.assert_allclose(boxes, [[0, 0, *size]], atol=max(size) / 300)


def test_inputs_of_other_proportions_are_not_scaled() -> None:
    wide, square = letterboxed(640, 512), letterboxed(300, 300)
    assert not wide.is_scaled(square)
    assert wide.is_scaled(letterboxed(320, 256))
    assert not square.is_scaled(ModelInput(300, 300, "stretch"))
    assert ModelInput(640, 512, "stretch").is_scaled(ModelInput(300, 300, "stretch"))


def test_the_expected_input_is_that_of_who_had_as_much_time() -> None:
    small, middle, large = (letterboxed(side, side) for side in (172, 300, 428))
    expected = ExpectedInput(large)
    assert expected.predict(0.02) == large, "nothing is known yet"
    expected.used(0.02, small)
    expected.used(0.1, middle)
    assert [expected.predict(left_s) for left_s in (0.01, 0.04, 0.09, 5.0)] == [
        *(small, small),
        *(middle, middle),
    ]
    expected.used(0.02, middle)
    assert expected.predict(0.02) == middle, "the newest of those who had as much"


def test_an_image_for_a_family_is_decoded_for_each_input() -> None:
    """As by itself, and not from the pixels of another."""
    frame, small = ModelInput(96, 96, "stretch"), ModelInput(48, 48, "stretch")
    data = encode(picture(320, 240), "JPEG", quality=95)
    image, placement = load_image(data, frame, (small, frame))
    assert placement == Letterbox(320, 240, 96, 96)
    for model_input in (small, frame):
        assert (refit(image, model_input) == load_image(data, model_input)[0]).all()
    assert (refit(image, small) != refit(load_image(data, frame)[0], small)).any()
    alone, _ = load_image(data, frame, (frame,))
    assert isinstance(alone, np.ndarray)


def png(width: int, height: int, *chunks: tuple[bytes, bytes]) -> bytes:
    """A PNG with any header and any further chunks."""

    def chunk(kind: bytes, data: bytes) -> bytes:
        crc = zlib.crc32(kind + data)
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", crc)

    head = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + b"".join(chunk(*c) for c in ((b"IHDR", head), *chunks))


SAMPLES = {
    "jpeg": encode(picture(64, 48), "JPEG", quality=95),
    "jpeg-progressive": encode(picture(64, 48), "JPEG", quality=95, progressive=True),
    "png": encode(picture(64, 48), "PNG"),
    "webp": encode(picture(64, 48), "WEBP", quality=95),
    "webp-lossless": encode(picture(64, 48), "WEBP", lossless=True),
    "webp-extended": encode(
        PillowImage.fromarray(picture(64, 48)).convert("RGBA"), "WEBP", quality=95, exif=b"\0"
    ),
}


class TestProbe:
    @pytest.mark.parametrize("name", SAMPLES)
    def test_reads_the_size(self, name: str) -> None:
        assert probe(SAMPLES[name]) == Header(name.split("-", maxsplit=1)[0], 64, 48)

    @pytest.mark.parametrize(
        ("data", "error"),
        [
            (b"", InvalidImage),
            (b"hello, this is text", UnsupportedImage),
            (b"GIF89a\x01\x00\x01\x00", UnsupportedImage),
            (b"BM" + bytes(60), UnsupportedImage),
            (b"\xff\xd8\xff", InvalidImage),
            (b"\x89PNG\r\n\x1a\n", InvalidImage),
            (b"RIFF\0\0\0\0WEBP", InvalidImage),
            (b"RIFF\0\0\0\0WEBPVP9 " + bytes(30), InvalidImage),
            (png(0, 5), InvalidImage),
        ],
    )
    def test_refuses(self, data: bytes, error: type[Exception]) -> None:
        with pytest.raises(error):
            probe(data)

    def test_refuses_too_many_pixels_whatever_is_behind_the_header(self) -> None:
        assert probe(png(100, 50), 5000) == Header("png", 100, 50)
        with pytest.raises(PayloadTooLarge, match="40000 x 40000"):
            probe(png(40_000, 40_000), 25_000_000)

    def test_bounds_the_walk_that_pillow_would_do(self) -> None:
        with pytest.raises(InvalidImage):
            probe(png(8, 8, *[(b"tEXt", b"")] * MAX_PNG_CHUNKS))
        comment = b"\xff\xfe\x00\x02"
        with pytest.raises(InvalidImage):
            probe(SAMPLES["jpeg"][:2] + comment * MAX_JPEG_SEGMENTS + SAMPLES["jpeg"][2:])
        with pytest.raises(InvalidImage):
            probe(SAMPLES["jpeg"][:2] + comment + bytes(1000) + SAMPLES["jpeg"][2:])


class TestDecode:
    @pytest.mark.parametrize("name", SAMPLES)
    def test_every_format(self, name: str) -> None:
        pixels, placement = load_image(SAMPLES[name], letterboxed(128, 128))
        assert placement == Letterbox(64, 48, 128, 96)
        assert (pixels.shape, pixels.dtype) == ((128, 128, 3), np.uint8)
        assert (pixels[96:] == PAD_VALUE).all()
        assert_upright(pixels, placement)

    @pytest.mark.parametrize("name", SAMPLES)
    def test_stretched_to_fill_the_input(self, name: str) -> None:
        pixels, placement = load_image(SAMPLES[name], ModelInput(128, 128, "stretch"))
        assert placement == Letterbox(64, 48, 128, 128)
        assert pixels.shape == (128, 128, 3)
        assert_upright(pixels, placement)
        corners = placement.to_original(np.array([[64, 64, 128, 128]], np.float32))
        assert corners.tolist() == [[32, 24, 64, 48]]

    @pytest.mark.parametrize("kind", ["JPEG", "PNG", "WEBP"])
    def test_one_pixel(self, kind: str) -> None:
        pixels, placement = load_image(encode(picture(1, 1), kind), letterboxed(32, 16))
        assert placement == Letterbox(1, 1, 16, 16)
        assert (pixels[:, 16:] == PAD_VALUE).all()
        np.testing.assert_allclose(pixels[:, :16].astype(int), 90, atol=6)

    def test_an_image_that_fills_the_input_is_not_touched(self) -> None:
        pixels, placement = load_image(SAMPLES["png"], letterboxed(64, 48))
        assert placement == Letterbox(64, 48, 64, 48)
        assert (pixels == picture(64, 48)).all()

    @pytest.mark.parametrize("kind", ["JPEG", "PNG"])
    def test_scaling_far_down_averages(self, kind: str) -> None:
        # One-pixel stripes, at any phase, become their mean; a sampled image would not.
        stripes = np.zeros((960, 1280, 3), dtype=np.uint8)
        stripes[:, ::2] = 255
        pixels, placement = load_image(encode(stripes, kind, quality=95), letterboxed(128, 96))
        assert placement == Letterbox(1280, 960, 128, 96)
        np.testing.assert_allclose(pixels.astype(int), 127, atol=4)

    def test_draft_scaling_keeps_the_geometry(self) -> None:
        # An odd size at 1/4: a quarter of it is not a whole number of pixels.
        edge = np.zeros((301, 403, 3), dtype=np.uint8)
        edge[:, 200:] = 255
        pixels, placement = load_image(encode(edge, "JPEG", quality=95), letterboxed(100, 100))
        row = pixels[30, : placement.resized_width, 0].astype(float)
        found = placement.resized_width - row.sum() / 255
        assert found == pytest.approx(200 * placement.resized_width / 403, abs=0.15)

    @pytest.mark.parametrize("orientation", range(1, 9))
    @pytest.mark.parametrize("kind", ["JPEG", "PNG", "WEBP"])
    def test_orientation(self, kind: str, orientation: int) -> None:
        # What a camera held otherwise would have stored of the same scene.
        undo: dict[int, Any] = {
            2: PillowImage.Transpose.FLIP_LEFT_RIGHT,
            3: PillowImage.Transpose.ROTATE_180,
            4: PillowImage.Transpose.FLIP_TOP_BOTTOM,
            5: PillowImage.Transpose.TRANSPOSE,
            6: PillowImage.Transpose.ROTATE_90,
            7: PillowImage.Transpose.TRANSVERSE,
            8: PillowImage.Transpose.ROTATE_270,
        }
        stored = PillowImage.fromarray(picture(64, 48))
        if orientation in undo:
            stored = stored.transpose(undo[orientation])
        exif = PillowImage.Exif()
        exif[0x0112] = orientation
        data = encode(stored, kind, quality=95, exif=exif.tobytes())
        pixels, placement = load_image(data, letterboxed(64, 64))
        assert placement == Letterbox(64, 48, 64, 48)
        assert_upright(pixels, placement, tolerance=25)

    @pytest.mark.filterwarnings("ignore:Corrupt EXIF data")  # Pillow's; the server silences it
    @pytest.mark.parametrize("exif", [b"Exif\0\0", b"Exif\0\0II*\0\xff\xff\xff\xff", b"Exif\0\0MM"])
    def test_damaged_exif_means_upright(self, exif: bytes) -> None:
        data = encode(picture(64, 48), "JPEG", quality=95, exif=exif)
        assert_upright(*load_image(data, letterboxed(64, 48)))

    @pytest.mark.parametrize("mode", ["CMYK", "L"])
    def test_jpeg_modes(self, mode: str) -> None:
        image = PillowImage.fromarray(picture(64, 48)).convert(mode)
        pixels, _ = load_image(encode(image, "JPEG", quality=95), letterboxed(64, 48))
        expected = np.asarray(image.convert("RGB")).astype(int)
        assert np.abs(pixels.astype(int) - expected).mean() < 4

    @pytest.mark.parametrize("mode", ["1", "L", "P", "RGB", "RGBA", "LA"])
    def test_png_modes(self, mode: str) -> None:
        image = PillowImage.fromarray(picture(64, 48)).convert(mode)
        pixels, _ = load_image(encode(image, "PNG"), letterboxed(64, 48))
        np.testing.assert_allclose(pixels, np.asarray(image.convert("RGB")), atol=1)

    def test_sixteen_bit_grey_is_scaled_not_clipped(self) -> None:
        levels = np.linspace(0, 65535, 64 * 48).astype(np.uint16).reshape(48, 64)
        pixels, _ = load_image(encode(levels, "PNG"), letterboxed(64, 48))
        assert (pixels == (levels >> 8)[..., None]).all()

    @pytest.mark.parametrize(
        "transparent",
        [
            encode(PillowImage.new("RGBA", (8, 8), (9, 9, 9, 0)), "PNG"),
            encode(PillowImage.new("LA", (8, 8), (9, 0)), "PNG"),
            encode(PillowImage.new("RGB", (8, 8), (9, 9, 9)), "PNG", transparency=(9, 9, 9)),
            encode(PillowImage.new("P", (8, 8), 0), "PNG", transparency=bytes(1)),
            encode(PillowImage.new("RGBA", (8, 8), (9, 9, 9, 0)), "WEBP", lossless=True),
        ],
    )
    def test_transparency_shows_the_background(self, transparent: bytes) -> None:
        pixels, _ = load_image(transparent, letterboxed(8, 8))
        assert (pixels == BACKGROUND).all()

    def test_half_transparency_is_blended(self) -> None:
        half = PillowImage.new("RGBA", (8, 8), (0, 0, 0, 128))
        pixels, _ = load_image(encode(half, "PNG"), letterboxed(8, 8))
        np.testing.assert_allclose(pixels, 127, atol=1)

    @pytest.mark.parametrize("kind", ["PNG", "WEBP"])
    def test_animations_show_their_first_frame(self, kind: str) -> None:
        frames = [PillowImage.new("RGB", (64, 48), color) for color in ("white", "black")]
        first = PillowImage.fromarray(picture(64, 48))
        data = encode(first, kind, save_all=True, append_images=frames, lossless=True)
        assert_upright(*load_image(data, letterboxed(64, 48)))

    @pytest.mark.parametrize("name", SAMPLES)
    def test_truncated(self, name: str) -> None:
        data = SAMPLES[name]
        with pytest.raises(InvalidImage):
            load_image(data[: len(data) * 3 // 4], letterboxed(64, 64))

    def test_a_file_that_contradicts_itself(self) -> None:
        # A second header, which Pillow would believe, promises far more than the first.
        again = struct.pack(">IIBBBBB", 40_000, 40_000, 8, 2, 0, 0, 0)
        data = png(8, 8, (b"IHDR", again), (b"IDAT", zlib.compress(bytes(1000))))
        assert probe(data, 100) == Header("png", 8, 8)
        with pytest.raises(InvalidImage, match="contradicts"):
            load_image(data, letterboxed(64, 64))

    def test_a_bomb_allocates_nothing(self) -> None:
        bomb = png(40_000, 40_000, (b"IDAT", zlib.compress(bytes(1 << 20))))
        tracemalloc.start()
        try:
            with pytest.raises(PayloadTooLarge):
                probe(bomb, 25_000_000)
            assert tracemalloc.get_traced_memory()[1] < 100_000
        finally:
            tracemalloc.stop()

    @examples(300)
    @given(data=st.data())
    def test_only_core_errors_come_out_of_any_bytes(self, data: st.DataObject) -> None:
        original = SAMPLES[data.draw(st.sampled_from(sorted(SAMPLES)))]
        damaged = bytearray(original[: data.draw(st.integers(0, len(original)))])
        positions = st.integers(0, max(0, len(damaged) - 1))
        for position in data.draw(st.lists(positions, max_size=8)):
            if damaged:
                damaged[position] = data.draw(st.integers(0, 255))
        try:
            header = probe(bytes(damaged), 100_000)
            assert header.num_pixels <= 100_000
            pixels, _ = load_image(bytes(damaged), letterboxed(32, 32))
        except InvalidRequest:
            return
        assert pixels.shape == (32, 32, 3)

    @examples(100)
    @given(st.sampled_from([b"\xff\xd8\xff", b"\x89PNG\r\n\x1a\n", b"RIFF", b""]), st.binary())
    def test_only_core_errors_come_out_of_noise(self, magic: bytes, noise: bytes) -> None:
        with pytest.raises(InvalidRequest):
            load_image(magic + noise, letterboxed(32, 32))


class TestTimes:
    def test_starts_from_a_seed_and_follows_what_is_seen(self) -> None:
        times = DecodeTimes(FakeClock())
        header = Header("jpeg", 640, 480)
        before_s = times.predict(header)
        assert 0 < before_s < 0.1
        for _ in range(20):
            times.observe(header, 10 * before_s)
        assert times.predict(header) == pytest.approx(10 * before_s)

    def test_grows_with_the_image_and_knows_formats_apart(self) -> None:
        times = DecodeTimes(FakeClock())
        large_s = times.predict(Header("png", 4000, 3000))
        assert large_s > 10 * times.predict(Header("png", 640, 480))
        for _ in range(20):
            times.observe(Header("jpeg", 10, 10), 1.0)
        assert times.predict(Header("png", 4000, 3000)) == large_s

    def test_one_slow_image_changes_nothing(self) -> None:
        times = DecodeTimes(FakeClock())
        header = Header("webp", 640, 480)
        before_s = times.predict(header)
        times.observe(header, 100 * before_s)
        assert times.predict(header) == before_s

    def test_forgets_by_time_alone(self) -> None:
        clock = FakeClock()
        times = DecodeTimes(clock)
        header = Header("jpeg", 640, 480)
        before_s = times.predict(header)
        for _ in range(100):
            times.observe(header, 5.0)
        clock.now += 31
        assert times.predict(header) == before_s


class TestPool:
    @staticmethod
    def pool(**options: Any) -> DecodePool:
        defaults: dict[str, Any] = {
            "num_workers": 1,
            "max_pending": 1,
            "clock": FakeClock(),
            "observe": lambda *_: None,
        }
        return DecodePool(letterboxed(64, 48), **(defaults | options))

    def test_decodes_and_tells(self) -> None:
        seen: list[tuple[str, float]] = []
        pool = self.pool(observe=lambda *told: seen.append(told))
        data = SAMPLES["png"]
        pixels, _ = asyncio.run(pool.decode(data, probe(data)))
        pool.close()
        assert (pixels == picture(64, 48)).all()
        assert seen == [("png", 0.0)]

    def test_lazily_for_the_input_that_was_wanted_last(self) -> None:
        frame, small = letterboxed(64, 48), letterboxed(32, 24)
        pool = self.pool(lazily=True)
        data = SAMPLES["png"]

        async def scenario() -> list[Any]:
            images = []
            for left_s in (0.1, 0.1):
                image, placement = await pool.decode(data, probe(data), left_s)
                assert placement == frame.place(64, 48)
                assert (refit(image, small) == load_image(data, small)[0]).all()
                images.append(image)
            return images

        first, second = asyncio.run(scenario())
        pool.close()
        assert set(first._decoded) == {frame, small}
        assert set(second._decoded) == {small}

    def test_lazily_decoding_refuses_what_is_damaged_at_once(self) -> None:
        pool = self.pool(lazily=True)
        data = SAMPLES["jpeg"][:-300]
        with pytest.raises(InvalidImage):
            asyncio.run(pool.decode(data, probe(SAMPLES["jpeg"])))
        pool.close()

    def test_accounts_for_all_that_its_thread_computes(self) -> None:
        spent: list[float] = []
        # Around two images: before and after decoding, and once more when all is done.
        instants = iter((1.0, 3.0, 4.0, 9.0, 10.0, 16.0))
        pool = self.pool(spent=spent.append, processor_clock=lambda: next(instants))
        data = SAMPLES["png"]

        async def scenario() -> None:
            for _ in range(2):
                await pool.decode(data, probe(data))

        asyncio.run(scenario())
        pool.close()
        assert spent == [4.0, 12.0]

    def test_errors_come_through_and_free_the_slot(self) -> None:
        pool = self.pool()
        data = SAMPLES["jpeg"][:-300]

        async def scenario() -> None:
            for _ in range(5):
                with pytest.raises(InvalidImage):
                    await pool.decode(data, probe(SAMPLES["jpeg"]))

        asyncio.run(scenario())
        pool.close()

    def test_refuses_when_full_and_recovers(self, monkeypatch: pytest.MonkeyPatch) -> None:
        gate = threading.Event()

        def slow(*_: object) -> tuple[npt.NDArray[np.uint8], Letterbox]:
            gate.wait()
            return np.zeros((48, 64, 3), np.uint8), Letterbox(1, 1, 1, 1)

        monkeypatch.setattr("serving.imaging.decoding.decode", slow)
        pool = self.pool()
        header = Header("jpeg", 640, 480)

        async def scenario() -> None:
            running = asyncio.ensure_future(pool.decode(b"", header))
            waiting = asyncio.ensure_future(pool.decode(b"", header))
            await asyncio.sleep(0)
            with pytest.raises(Overloaded) as refused:
                await pool.decode(b"", header)
            assert refused.value.reason is ShedReason.REJECTED_SATURATED
            assert refused.value.retry_after_s > 0
            waiting.cancel()  # a client that left makes room at once
            await asyncio.gather(waiting, return_exceptions=True)
            replacement = asyncio.ensure_future(pool.decode(b"", header))
            await asyncio.sleep(0)
            gate.set()
            await asyncio.gather(running, replacement)

        asyncio.run(scenario())
        pool.close()
