"""Every kind of picture file is read as it looks, or reported: never a crash, never stretched, never clipped to white."""

from __future__ import annotations

import contextlib
import os
from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from PIL import Image

from alphabar.data.decode import Header, read_header, read_picture
from alphabar.errors import ConfigurationError, DataError
from alphabar.settings.conditions import check_colour

from .making import COLOUR, GREY, exif, noise, photo, png, png_16_bit, save, stored_turned

HEIGHT, WIDTH = 16, 24
SIZE = (HEIGHT, WIDTH)
RAMP = np.tile(np.linspace(0, 255, WIDTH).round().astype(np.uint8), (HEIGHT, 1))
COLOURS = np.stack([RAMP, RAMP[:, ::-1], np.full_like(RAMP, 60)], axis=2)
FEW_COLOURS = COLOURS // 64 * 64
ALPHA = np.where(np.arange(HEIGHT)[:, None] < HEIGHT // 2, 255, 0).astype(np.uint8) * np.ones((1, WIDTH), np.uint8)
BLACK_OR_WHITE = np.where(RAMP > 127, 255, 0).astype(np.uint8)


def read(path: Path) -> np.ndarray:
    """As a folder is read: all headers first, then the pictures."""
    read_header(path)
    return read_picture(path, (8, 8), 3)


def of_mode(mode: str) -> Image.Image:
    """The test picture in each of Pillow's modes that a file can have."""
    if mode in ("RGB", "CMYK", "YCbCr"):
        return Image.fromarray(COLOURS).convert(mode)
    if mode == "P":
        return Image.fromarray(FEW_COLOURS).quantize(64)
    if mode in ("RGBA", "PA"):
        return Image.fromarray(np.dstack([COLOURS, ALPHA])).convert(mode)
    if mode == "LA":
        return Image.fromarray(np.dstack([RAMP, ALPHA]))
    return {
        "1": Image.fromarray(BLACK_OR_WHITE).convert("1"),
        "L": Image.fromarray(RAMP),
        "I;16": Image.fromarray(RAMP.astype(np.uint16) * 257),
        "I": Image.fromarray(RAMP.astype(np.int32) * 257),
        "F": Image.fromarray(RAMP.astype(np.float32) / 255),
    }[mode]


def look_of(mode: str) -> np.ndarray:
    """The same as it should be read: (H, W, 3), what is transparent in blue."""
    grey = np.repeat(RAMP[:, :, None], 3, axis=2)
    look = {"1": np.repeat(BLACK_OR_WHITE[:, :, None], 3, axis=2), "P": FEW_COLOURS}.get(mode)
    if look is None:
        look = grey if mode in ("L", "LA", "I;16", "I", "F") else COLOURS
    return np.where(ALPHA[:, :, None] == 0, [0, 0, 255], look) if mode in ("LA", "RGBA", "PA") else look


EXACT = [
    ("1", "png"), ("1", "bmp"), ("1", "tif"), ("1", "pbm"), ("L", "png"), ("L", "bmp"), ("L", "tif"), ("L", "pgm"), ("L", "tga"),
    ("LA", "png"), ("LA", "tif"), ("P", "png"), ("P", "gif"), ("P", "bmp"), ("RGB", "png"), ("RGB", "bmp"), ("RGB", "ppm"),
    ("RGB", "tif"), ("RGB", "ico"), ("RGBA", "png"), ("RGBA", "tif"), ("RGBA", "tga"), ("I;16", "png"), ("I;16", "tif"),
    ("I", "tif"), ("I", "pgm"), ("F", "tif"), ("RGB", "webp"), ("RGBA", "webp"),
]  # fmt: skip
LOSSY = [("PA", "tif"), ("CMYK", "jpg"), ("CMYK", "tif"), ("YCbCr", "tif"), ("L", "jpg"), ("RGB", "jpg"), ("RGB", "jp2"), ("RGB", "avif"), ("RGBA", "avif")]  # fmt: skip


@pytest.mark.parametrize(("mode", "ending", "tolerance"), [(*e, 1) for e in EXACT] + [(*e, 12) for e in LOSSY])
def test_each_mode_of_each_format_is_read_as_it_looks(tmp_path, mode, ending, tolerance):
    """Lossless kinds exactly (16 bit and CMYK within rounding), lossy ones closely, in 3 channels and in grey."""
    path = tmp_path / f"picture.{ending}"
    options = {
        "jpg": {"quality": 95},
        "avif": {"quality": 95},
        "webp": {"lossless": True},
        "ico": {"sizes": [(WIDTH, HEIGHT)]},
    }
    try:
        of_mode(mode).save(path, **options.get(ending, {}))
    except (KeyError, OSError):
        pytest.skip(f"this Pillow writes no {ending} of mode {mode}")
    header = read_header(path)
    assert (header.height, header.width, header.frames) == (HEIGHT, WIDTH, 1)
    look = look_of(mode)
    picture = read_picture(path, SIZE, 3, "blue")
    assert picture.shape == (*SIZE, 3)
    assert picture.dtype == np.uint8
    worst, mean = np.abs(picture.astype(int) - look).max(), np.abs(picture.astype(int) - look).mean()
    assert mean <= tolerance
    assert worst <= (tolerance if tolerance == 1 else 80)  # 4:2:0 chroma smears at the edge of the alpha
    grey = read_picture(path, SIZE, 1, "blue").astype(int)
    assert np.abs(grey[..., 0] - look @ [0.299, 0.587, 0.114]).mean() <= tolerance


@pytest.mark.parametrize("mode", ["1", "L", "LA", "P", "RGB", "RGBA", "I;16", "PA", "CMYK", "F"])
@pytest.mark.parametrize("channels", [1, 2, 3, 4])
def test_every_mode_becomes_every_number_of_channels(tmp_path, mode, channels):
    path = tmp_path / "picture.tif"
    of_mode(mode).save(path)
    picture = read_picture(path, SIZE, channels)
    assert picture.shape == (*SIZE, channels)
    if channels in (2, 4):
        np.testing.assert_array_equal(
            picture[..., -1], ALPHA if mode in ("LA", "RGBA", "PA") else np.full_like(ALPHA, 255)
        )


def test_alpha_is_laid_over_the_background_in_proportion(tmp_path):
    path = save(tmp_path / "a.png", np.dstack([np.full((4, 4, 3), 200, np.uint8), np.full((4, 4), 51, np.uint8)]))
    assert read_picture(path, (4, 4), 3, "#0000ff")[0, 0].tolist() == pytest.approx(
        [40, 40, 244], abs=1
    )  # 0.2 of the picture
    assert (read_picture(path, (4, 4), 3)[0, 0] > 240).all()  # white if nothing is said
    assert read_picture(path, (4, 4), 4)[0, 0].tolist() == [200, 200, 200, 51]


@pytest.mark.parametrize(("ending", "transparency"), [("png", 0), ("gif", 0), ("png", bytes([0, 128]))])
def test_transparent_colours_of_a_palette_show_the_background(tmp_path, ending, transparency):
    image = Image.fromarray(np.array([[0, 1, 2, 0]], np.uint8).repeat(4, axis=0)).convert("P")
    image.putpalette([10, 20, 30, 100, 100, 100, 250, 0, 0])
    path = tmp_path / f"p.{ending}"
    image.save(path, transparency=transparency)
    half = [50, 178, 50] if isinstance(transparency, bytes) else [100, 100, 100]
    look = read_picture(path, (4, 4), 3, "lime")[0].tolist()
    assert look[0] == look[3] == [0, 255, 0]
    assert look[1] == pytest.approx(half, abs=1)
    assert look[2] == [250, 0, 0]
    assert read_picture(path, (4, 4), 4)[0, :, 3].tolist() == [
        0,
        128 if isinstance(transparency, bytes) else 255,
        255,
        0,
    ]


@pytest.mark.parametrize(("values", "key"), [(RAMP[:4, :4], 11), (COLOURS[:4, :4], (11, 244, 60))])
def test_a_colour_marked_transparent_shows_the_background(tmp_path, values, key):
    """PNGs without a palette may name one colour instead of an alpha channel."""
    path = tmp_path / "k.png"
    Image.fromarray(np.ascontiguousarray(values)).save(path, transparency=key)
    picture = read_picture(path, (4, 4), 3, "blue")
    assert picture[0, 1].tolist() == [0, 0, 255]
    assert picture[0, 2].tolist() != [0, 0, 255]


def test_16_bit_grey_keeps_its_shape_and_is_not_clipped_to_white(tmp_path):
    values = np.tile(np.arange(256, dtype=np.uint16) * 257, (8, 1))
    values[1, 1:] -= 100  # less than half a level
    picture = read_picture(png_16_bit(tmp_path / "g.png", values, GREY), (8, 256), 1)[..., 0]
    np.testing.assert_array_equal(picture[0], np.arange(256))
    np.testing.assert_array_equal(picture[1], np.arange(256))


def test_a_16_bit_grey_marked_transparent_shows_the_background(tmp_path):
    values = np.array([[1000, 1001, 60000, 1000]] * 4, np.uint16)
    picture = read_picture(png_16_bit(tmp_path / "g.png", values, GREY, clear=1000), (4, 4), 1, "white")[..., 0]
    assert picture[0].tolist() == [255, 4, 233, 255]


def test_16_bit_colour_is_read(tmp_path):
    values = np.stack([np.tile(np.arange(16) * 4369, (4, 1)), np.full((4, 16), 65535), np.zeros((4, 16))], axis=2)
    picture = read_picture(png_16_bit(tmp_path / "c.png", values, COLOUR), (4, 16), 3)
    np.testing.assert_array_equal(picture[0], np.stack([np.arange(16) * 17, np.full(16, 255), np.zeros(16)], axis=1))


@pytest.mark.parametrize("ending", ["png", "pgm"])
def test_a_dark_16_bit_picture_stays_dark(tmp_path, ending):
    """Values up to 255 of 65535 are black, whatever mode Pillow gives them."""
    path = tmp_path / f"dark.{ending}"
    Image.fromarray(np.full((8, 8), 200, np.uint16)).save(path)
    assert read_picture(path, (8, 8), 1).max() <= 1


@pytest.mark.parametrize(
    ("values", "said"),
    [
        (np.array([[0, 70000]], np.int32), "70000"),
        (np.array([[-5, 100]], np.int32), "-5"),
        (np.array([[0, 300.5]], np.float32), "300.5"),
        (np.array([[-0.5, 0.5]], np.float32), "-0.5"),
        (np.array([[np.nan, 0.5]], np.float32), "nan"),
        (np.array([[np.inf, 0.5]], np.float32), "inf"),
    ],
)
def test_an_unclear_range_is_refused_and_not_guessed(tmp_path, values, said):
    path = tmp_path / "x.tif"
    Image.fromarray(values).save(path)
    with pytest.raises(DataError, match=f"{said}.*save it as 8 or 16 bit"):
        read_picture(path, (1, 2), 1)


def test_integer_and_float_pictures_in_8_bit_range_are_taken_as_they_are(tmp_path):
    for values in (RAMP.astype(np.int32), RAMP.astype(np.float32)):
        Image.fromarray(values).save(tmp_path / "x.tif")
        np.testing.assert_array_equal(read_picture(tmp_path / "x.tif", SIZE, 1)[..., 0], RAMP)


KINDS_WITH_ORIENTATION = [
    ("L", "tif"), ("RGB", "tif"), ("I;16", "tif"), ("RGBA", "tif"), ("RGB", "png"), ("P", "png"), ("I;16", "png"), ("LA", "png"),
    ("RGB", "jpg"), ("CMYK", "jpg"), ("RGB", "webp"), ("RGB", "avif"),
]  # fmt: skip


@pytest.mark.parametrize(("mode", "ending"), KINDS_WITH_ORIENTATION)
@pytest.mark.parametrize("orientation", range(1, 9))
def test_a_turned_picture_is_shown_upright_and_the_header_agrees(tmp_path, mode, ending, orientation):
    shown = np.full((16, 24, 3), 40, np.uint8)
    shown[:8, :8], shown[8:, :16] = 255, 140  # no two of the eight orientations look alike
    image = Image.fromarray(shown)
    image = (
        Image.fromarray(shown[:, :, 0].astype(np.uint16) * 257)
        if mode == "I;16"
        else image.quantize(3)
        if mode == "P"
        else image.convert(mode)
    )
    path = tmp_path / f"turned.{ending}"
    try:
        stored_turned(image, orientation).save(
            path, exif=exif(orientation), **({"quality": 95} if ending in ("jpg", "webp", "avif") else {})
        )
    except (KeyError, OSError):
        pytest.skip(f"this Pillow writes no {ending}")
    header = read_header(path)
    assert (header.height, header.width) == (16, 24)
    assert np.abs(read_picture(path, (16, 24), 3).astype(int) - shown).mean() < 4


def test_a_turned_jpeg_is_decoded_finely_enough(tmp_path):
    """Decoding at a fraction must mind the orientation: here the stored width becomes the height, of which little is wanted."""
    stripes = np.tile(np.where(np.arange(128) % 4 < 2, 0, 255).astype(np.uint8), (1024, 1))
    image = Image.fromarray(stripes)
    stored_turned(image, 6).save(tmp_path / "s.jpg", exif=exif(6), quality=95)
    assert read_picture(tmp_path / "s.jpg", (8, 128), 1).std() > 100


def test_a_wide_picture_is_cropped_in_the_middle_and_not_stretched(tmp_path):
    thirds = np.zeros((40, 120, 3), np.uint8)
    thirds[:, :40, 0] = thirds[:, 40:80, 1] = thirds[:, 80:, 2] = 255
    for name, array in (("wide.png", thirds), ("tall.png", thirds.transpose(1, 0, 2))):
        picture = read_picture(save(tmp_path / name, np.ascontiguousarray(array)), (20, 20), 3)
        np.testing.assert_allclose(
            picture, np.broadcast_to([0, 255, 0], (20, 20, 3)), atol=15
        )  # the others glimmer at the edge
    same = read_picture(tmp_path / "wide.png", (20, 60), 3)  # nothing to crop: all three are there
    assert [same[10, x].argmax() for x in (5, 30, 55)] == [0, 1, 2]


@pytest.mark.parametrize("side", [64, 96, 128])
def test_scaling_down_averages_instead_of_picking_pixels(tmp_path, side):
    board = (np.indices((side, side)).sum(0) % 2 * 255).astype(np.uint8)
    picture = read_picture(save(tmp_path / "board.png", board), (32, 32), 1)
    np.testing.assert_allclose(picture, np.full((32, 32, 1), 127.5), atol=26)
    assert abs(picture.mean() - 127.5) < 1.5


@pytest.mark.parametrize("ending", ["png", "jpg"])
def test_a_picture_much_larger_than_the_target_is_read_finely(tmp_path, ending):
    smooth = photo(1500, 2000)
    path = save(tmp_path / f"large.{ending}", smooth)
    small = read_picture(path, (24, 32), 3)
    reference = np.asarray(Image.fromarray(smooth).resize((32, 24), Image.Resampling.LANCZOS))
    assert np.abs(small.astype(int) - reference).mean() < 2


def test_a_small_picture_is_enlarged(tmp_path):
    picture = read_picture(save(tmp_path / "s.png", np.full((2, 3, 3), 90, np.uint8)), (16, 16), 3)
    assert (picture == 90).all()


def test_transparent_pixels_lend_no_colour_to_their_neighbours(tmp_path):
    """Scaled with alpha kept, a red square before transparent green stays red at its edge."""
    array = np.zeros((64, 64, 4), np.uint8)
    array[...] = [0, 255, 0, 0]
    array[13:50, 13:50] = [255, 0, 0, 255]
    picture = read_picture(save(tmp_path / "r.png", array), (16, 16), 4)
    assert picture[picture[..., 3] > 8][:, 1].max() < 30


@pytest.mark.parametrize("ending", ["gif", "webp", "png", "tif"])
def test_of_an_animation_the_first_frame_is_taken_and_the_frames_are_counted(tmp_path, ending):
    frames = [Image.new("RGB", (8, 8), colour) for colour in ("red", "lime", "blue")]
    path = tmp_path / f"a.{ending}"
    frames[0].save(path, save_all=True, append_images=frames[1:])
    assert read_header(path).frames == 3
    np.testing.assert_allclose(read_picture(path, (8, 8), 3), np.broadcast_to([255, 0, 0], (8, 8, 3)), atol=6)


def test_a_photo_with_its_preview_is_no_animation(tmp_path):
    """Phones write JPEGs with a second picture inside (MPO)."""
    image = Image.fromarray(photo(32, 32))
    image.save(tmp_path / "p.mpo", save_all=True, append_images=[image.resize((8, 8))], quality=95)
    path = (tmp_path / "p.mpo").rename(tmp_path / "p.jpg")
    assert read_header(path) == Header(32, 32, "RGB", 1)
    assert np.abs(read_picture(path, (32, 32), 3).astype(int) - photo(32, 32)).mean() < 6


def test_a_header_knows_which_modes_are_grey():
    for mode, grey in [
        ("1", 1),
        ("L", 1),
        ("I", 1),
        ("F", 1),
        ("I;16", 1),
        ("I;16B", 1),
        ("LA", 0),
        ("P", 0),
        ("RGB", 0),
        ("RGBA", 0),
    ]:
        assert Header(1, 1, mode, 1).grey == bool(grey)


ENDINGS = ["png", "jpg", "gif", "webp", "bmp", "tif", "ppm", "tga", "jp2"]


@pytest.mark.parametrize("ending", ENDINGS)
@pytest.mark.parametrize("kept", [0.3, 0.6, 0.9])
def test_a_truncated_file_is_reported(tmp_path, ending, kept):
    path = save(tmp_path / f"t.{ending}", noise(32, 40))
    whole = path.read_bytes()
    assert read(path).shape == (8, 8, 3)
    path.write_bytes(whole[: int(len(whole) * kept)])
    with pytest.raises(DataError, match=r"^cannot be read as a picture: \S"):
        read(path)


@pytest.mark.filterwarnings("ignore")
@given(
    st.sampled_from(["png", "jpg", "gif", "tif", "bmp"]),
    st.lists(st.tuples(st.floats(0, 0.999), st.integers(0, 255)), min_size=1, max_size=6),
)
@settings(max_examples=80, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_a_damaged_file_is_read_or_reported_but_never_crashes(tmp_path, ending, damage):
    path = save(tmp_path / f"d.{ending}", photo(16, 20))
    raw = bytearray(path.read_bytes())
    for place, value in damage:
        raw[int(place * len(raw))] = value
    path.write_bytes(raw)
    with contextlib.suppress(DataError):
        assert read(path).shape == (8, 8, 3)


@given(
    st.sampled_from(["1", "L", "LA", "P", "RGB", "RGBA", "I;16", "CMYK"]),
    st.tuples(st.integers(1, 70), st.integers(1, 70)),
    st.tuples(st.integers(1, 48), st.integers(1, 48)),
    st.integers(1, 4),
)
@settings(max_examples=80, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_any_size_becomes_any_other(tmp_path, mode, size, target, channels):
    grey = noise(*size, 1)[..., 0]
    image = Image.fromarray(grey.astype(np.uint16) * 257) if mode == "I;16" else Image.fromarray(grey).convert(mode)
    image.save(tmp_path / "x.tif")
    header = read_header(tmp_path / "x.tif")
    assert (header.height, header.width) == size
    picture = read_picture(tmp_path / "x.tif", target, channels)
    assert picture.shape == (*target, channels)
    if size == target and channels == 1 and mode in ("L", "I;16"):
        np.testing.assert_array_equal(picture[..., 0], grey)


@pytest.mark.parametrize(
    "content", [b"", b"\n", b"these are words, not pixels\n" * 9, b"\x89PNG\r\n\x1a\n", b"\xff\xd8\xff"]
)
def test_what_is_no_picture_is_reported_without_its_path(tmp_path, content):
    path = tmp_path / "no picture.png"
    path.write_bytes(content)
    for reader in (read_header, lambda p: read_picture(p, (8, 8), 3)):
        with pytest.raises(DataError, match=r"^cannot be read as a picture") as caught:
            reader(path)
        assert str(tmp_path) not in str(caught.value)


def test_postscript_is_not_run_whatever_it_is_called(tmp_path):
    """Pillow would hand it to Ghostscript: a programme from the data's author."""
    path = tmp_path / "picture.png"
    path.write_bytes(b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 10 10\n%%EndComments\nshowpage\n%%EOF\n")
    with pytest.raises(DataError, match="no known picture format"):
        read_header(path)


def test_what_is_no_file_is_said_to_be_none(tmp_path):
    (tmp_path / "folder.png").mkdir()
    (tmp_path / "link.png").symlink_to(tmp_path / "gone.png")
    os.mkfifo(tmp_path / "pipe.png")
    for name, said in (
        ("folder.png", "is a folder"),
        ("link.png", "is a broken link"),
        ("gone.png", "is no file"),
        ("pipe.png", "is no file"),
        ("x\0.png", "is no file"),
    ):
        with pytest.raises(DataError, match=said):
            read_header(tmp_path / name)


def test_an_absurd_size_is_reported(tmp_path):
    path = png(tmp_path / "bomb.png", b"\0\1\0\0\0\1\0\0\1\0\0\0\0", b"\0" * 1000)  # 65536 x 65536 in one bit
    with pytest.raises(DataError, match="exceeds limit"):
        read_header(path)
    with pytest.raises(DataError, match="exceeds limit"):
        read_picture(path, (8, 8), 1)


def test_an_unknown_background_is_a_matter_of_settings_and_not_of_the_picture(tmp_path):
    path = tmp_path / "a.png"
    of_mode("RGBA").save(path)
    with pytest.raises(ConfigurationError, match=r"data\.background.*'wite'"):
        read_picture(path, SIZE, 3, "wite")
    assert check_colour("#ff8000", "data.background") == (255, 128, 0)
    assert check_colour("white", "data.background") == (255, 255, 255)
