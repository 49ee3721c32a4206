from __future__ import annotations

import struct
import zlib
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image as PillowImage

from serving.core.errors import InvalidImage, InvalidRequest, RequestCancelled
from serving.core.letterbox import PAD_VALUE, PLACEMENTS, Letterbox, ModelInput, fit
from serving.core.ports import Image
from serving.imaging.decoding import LazyPixels, decode_all, load_image, refit
from serving.imaging.pixels import BACKGROUND, PNG_SIGNATURE
from serving.imaging.probing import probe
from tests.properties import examples
from tests.serving.fakes import encode, picture
from tests.serving.imaging.files import chunk, samples

SAMPLES = samples(64, 48)
IN_COLOR = [name for name in SAMPLES if "grey" not in name]

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
@pytest.mark.parametrize("resize", PLACEMENTS)
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
    left, top = placement.left, placement.top
    right, bottom = left + placement.resized_width, top + placement.resized_height
    corner = np.array([[left, top, right, bottom]], np.float32)
    boxes = in_frame.to_original(small.place(428, 428).to_original(corner))
    np.testing.assert_allclose(boxes, [[0, 0, *size]], atol=max(size) / 300)


def test_inputs_of_other_proportions_are_not_scaled() -> None:
    wide, square = letterboxed(640, 512), letterboxed(300, 300)
    assert not wide.is_scaled(square)
    assert wide.is_scaled(letterboxed(320, 256))
    assert not square.is_scaled(ModelInput(300, 300, "stretch"))
    assert ModelInput(640, 512, "stretch").is_scaled(ModelInput(300, 300, "stretch"))


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


class TestDecode:
    @pytest.mark.parametrize("name", IN_COLOR)
    def test_every_format(self, name: str) -> None:
        pixels, placement = load_image(SAMPLES[name], letterboxed(128, 128))
        assert placement == Letterbox(64, 48, 128, 96)
        assert (pixels.shape, pixels.dtype) == ((128, 128, 3), np.uint8)
        assert (pixels[96:] == PAD_VALUE).all()
        assert_upright(pixels, placement)

    @pytest.mark.parametrize("name", IN_COLOR)
    def test_stretched_to_fill_the_input(self, name: str) -> None:
        pixels, placement = load_image(SAMPLES[name], ModelInput(128, 128, "stretch"))
        assert placement == Letterbox(64, 48, 128, 128)
        assert pixels.shape == (128, 128, 3)
        assert_upright(pixels, placement)
        corners = placement.to_original(np.array([[64, 64, 128, 128]], np.float32))
        assert corners.tolist() == [[32, 24, 64, 48]]

    @pytest.mark.parametrize(("width", "height"), [(128, 128), (129, 96), (64, 129)])
    def test_centred_with_an_odd_pixel_behind(self, width: int, height: int) -> None:
        pixels, placement = load_image(
            SAMPLES["png"], ModelInput(width, height, "letterbox-centre")
        )
        corner, _ = load_image(SAMPLES["png"], letterboxed(width, height))
        across, down = placement.resized_width, placement.resized_height
        left, top = (width - across) // 2, (height - down) // 2
        assert (placement.left, placement.top) == (left, top)
        inside = np.s_[top : top + down, left : left + across]
        assert (pixels[inside] == corner[:down, :across]).all()
        around = np.ones((height, width), bool)
        around[inside] = False
        assert (pixels[around] == PAD_VALUE).all()

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

    def test_a_checkpoint_stops_it_and_its_error_comes_through(self) -> None:
        calls = []

        def checkpoint() -> None:
            calls.append(1)
            if len(calls) == 3:
                raise RequestCancelled("Enough.")

        data = SAMPLES["jpeg"]
        with pytest.raises(RequestCancelled, match="Enough"):
            decode_all(data, probe(data), (letterboxed(64, 48),), checkpoint, len(data) // 8)
        assert len(calls) == 3

    @pytest.mark.parametrize("name", SAMPLES)
    @pytest.mark.parametrize("block_bytes", [1, 100])
    def test_the_size_of_blocks_changes_nothing(self, name: str, block_bytes: int) -> None:
        data, model_input = SAMPLES[name], letterboxed(64, 48)
        decoded = decode_all(data, probe(data), (model_input,), lambda: None, block_bytes)
        assert (decoded[model_input][0] == load_image(data, model_input)[0]).all()


def with_chunks(data: bytes, *chunks: bytes, at_end: bool = False) -> bytes:
    """A PNG with these chunks after its header, or after its pixels."""
    place = len(data) - len(chunk(b"IEND", b"")) if at_end else len(PNG_SIGNATURE) + 25
    return data[:place] + b"".join(chunks) + data[place:]


LARGE_TEXT = zlib.compress(bytes(2**20 + 1))


class TestMetadata:
    """What nobody needs is not looked at: neither refused for its size nor unpacked."""

    @pytest.mark.parametrize("at_end", [False, True])
    @pytest.mark.parametrize(
        "text",
        [
            chunk(b"iCCP", b"scan\0\0" + LARGE_TEXT),
            chunk(b"zTXt", b"mxfile\0\0" + LARGE_TEXT),
            chunk(b"iTXt", b"workflow\0\1\0\0\0" + LARGE_TEXT),
            chunk(b"iTXt", b"damaged\0\1\0\0\0" + b"\x99"),
            chunk(b"zTXt", b"unknown method\0\7"),
        ],
    )
    def test_of_a_png_of_any_size(self, text: bytes, at_end: bool) -> None:
        data = with_chunks(SAMPLES["png"], text, text, at_end=at_end)
        assert (load_image(data, letterboxed(64, 48))[0] == picture(64, 48)).all()

    def test_any_number_of_profiles_unpacks_nothing(self, monkeypatch: pytest.MonkeyPatch) -> None:
        def unpack(*_: object) -> bytes:
            raise AssertionError("unpacked")

        monkeypatch.setattr("PIL.PngImagePlugin._safe_zlib_decompress", unpack)
        data = with_chunks(SAMPLES["png"], *[chunk(b"iCCP", b"x\0\0" + LARGE_TEXT)] * 1000)
        assert (load_image(data, letterboxed(64, 48))[0] == picture(64, 48)).all()

    def test_what_turns_an_image_is_still_read(self) -> None:
        exif = PillowImage.Exif()
        exif[0x0112] = 6
        turned = encode(picture(64, 48), "PNG", exif=exif.tobytes())
        data = with_chunks(turned, chunk(b"iCCP", b"scan\0\0" + LARGE_TEXT))
        pixels, placement = load_image(data, letterboxed(64, 64))
        assert (placement.original_width, placement.original_height) == (48, 64)
        assert (pixels == load_image(turned, letterboxed(64, 64))[0]).all()


class TestMissingEnd:
    """A JPEG ends with a marker. Without it, all pixels may be there, or not."""

    @pytest.mark.parametrize("name", ["jpeg", "jpeg-progressive", "jpeg-grey"])
    @pytest.mark.parametrize("size", [(64, 48), (333, 250), (1000, 700)])
    def test_is_not_missed_if_all_pixels_are_there(self, name: str, size: tuple[int, int]) -> None:
        data = samples(*size)[name]
        assert data.endswith(b"\xff\xd9")
        for model_input in (letterboxed(*size), letterboxed(64, 48)):
            whole, _ = load_image(data, model_input)
            for end in (b"", b"\xff"):
                pixels, _ = load_image(data[:-2] + end, model_input)
                assert (pixels == whole).all()

    @pytest.mark.parametrize("name", ["jpeg", "jpeg-progressive", "jpeg-grey"])
    @pytest.mark.parametrize("left_out", [0.02, 0.1, 0.5])
    def test_is_refused_with_the_pixels_before_it(self, name: str, left_out: float) -> None:
        data = samples(333, 250)[name]
        with pytest.raises(InvalidImage):
            load_image(data[: int(len(data) * (1 - left_out))], letterboxed(64, 48))

    def test_that_of_a_thumbnail_is_not_taken_for_it(self) -> None:
        thumbnail = SAMPLES["jpeg"]
        data = samples(333, 250)["jpeg"]
        segment = b"\xff\xed" + struct.pack(">H", 2 + len(thumbnail)) + thumbnail
        with_thumbnail = data[:2] + segment + data[2:]
        whole, _ = load_image(data, letterboxed(64, 48))
        assert (load_image(with_thumbnail[:-2], letterboxed(64, 48))[0] == whole).all()

    def test_what_follows_the_end_is_not_looked_at(self) -> None:
        data = SAMPLES["jpeg"] + b"video" + b"\xff\xda" * 9
        assert not probe(data).coding.lacks_end
        assert (
            load_image(data, letterboxed(64, 48))[0]
            == load_image(SAMPLES["jpeg"], letterboxed(64, 48))[0]
        ).all()
