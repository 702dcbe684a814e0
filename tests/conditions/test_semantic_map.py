"""Maps: indices survive every file kind, resizing and mirroring; a wrong index is an error that names file and value."""

from __future__ import annotations

import json
import struct
import zlib
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from alphabar.conditions.kinds import KINDS, load_with_conditions, read_settings
from alphabar.conditions.semantic_map import (
    NOTHING,
    MapFiles,
    fit_nearest,
    instance_edges,
    palette,
    read_class_file,
    read_instances,
)
from alphabar.data.decode import read_picture
from alphabar.data.pictures import mirror
from alphabar.errors import ConfigurationError, DataError, UnusableData
from alphabar.networks.cond import Doors
from alphabar.settings.conditions import MapSettings
from alphabar.settings.data import DataSettings

from .making import encoder, indices, save_palette, save_png

COLOURS = [(255, 255, 255), (0, 0, 0), (255, 0, 0), (0, 128, 255)]
NAMES = ["sky", "line", "hair", "water"]
HEX = ["#ffffff", "#000000", "#ff0000", "#0080ff"]
MAP = indices(1, 4, seed=3)[0]


def reader(**settings) -> MapFiles:
    return MapFiles(MapSettings(**{"classes": NAMES, **settings}))


def in_colours(array: np.ndarray) -> np.ndarray:
    return np.array(COLOURS, np.uint8)[array]


# files


def test_a_palette_png_keeps_its_indices_whatever_its_colours(tmp_path):
    """Converted to grey, white 0 and black 1 would become 255 and 0."""
    path = save_palette(tmp_path / "a.png", MAP, COLOURS)
    assert Image.open(path).mode == "P"
    np.testing.assert_array_equal(reader().indices(path), MAP)
    same_colours = save_palette(tmp_path / "b.png", MAP, [(7, 7, 7)] * 4)
    np.testing.assert_array_equal(reader().indices(same_colours), MAP)


def test_grey_pngs_hold_indices_in_8_16_and_1_bit(tmp_path):
    np.testing.assert_array_equal(reader().indices(save_png(tmp_path / "8.png", MAP)), MAP)
    np.testing.assert_array_equal(reader().indices(save_png(tmp_path / "16.png", MAP.astype(np.uint16))), MAP)
    bits = MAP > 1
    Image.fromarray(bits).save(tmp_path / "1.png")
    assert Image.open(tmp_path / "1.png").mode == "1"
    np.testing.assert_array_equal(reader().indices(tmp_path / "1.png"), bits)


@pytest.mark.parametrize("bits", [2, 4])
def test_grey_pngs_of_2_and_4_bits_hold_indices_too(tmp_path, bits):
    """Which Pillow reads, stretched to 8 bits, but does not write."""
    values, per_byte = np.arange(16).reshape(4, 4) % 2**bits, 8 // bits
    rows = values.reshape(4, -1, per_byte) << (bits * np.arange(per_byte)[::-1])
    scanlines = b"".join(b"\0" + row.sum(1).astype(np.uint8).tobytes() for row in rows)

    def chunk(kind: bytes, content: bytes) -> bytes:
        return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib.crc32(kind + content))

    header = chunk(b"IHDR", struct.pack(">IIBBBBB", 4, 4, bits, 0, 0, 0, 0))
    body = chunk(b"IDAT", zlib.compress(scanlines)) + chunk(b"IEND", b"")
    (tmp_path / "x.png").write_bytes(b"\x89PNG\r\n\x1a\n" + header + body)
    found = MapFiles(MapSettings(classes=[str(i) for i in range(16)])).indices(tmp_path / "x.png")
    np.testing.assert_array_equal(found, values)
    with Image.open(tmp_path / "x.png") as image:
        np.testing.assert_array_equal(MapFiles(MapSettings(classes=[str(i) for i in range(16)])).indices(image), values)


def test_an_image_of_pillow_is_a_map_too(tmp_path):
    np.testing.assert_array_equal(reader().indices(Image.fromarray(MAP)), MAP)
    with Image.open(save_palette(tmp_path / "a.png", MAP, COLOURS)) as image:
        np.testing.assert_array_equal(reader().indices(image), MAP)
        np.testing.assert_array_equal(read_instances(image, MAP.shape), MAP)


def test_a_palette_with_a_transparent_index_keeps_it(tmp_path):
    path = save_palette(tmp_path / "a.png", MAP, COLOURS)
    Image.open(path).save(tmp_path / "b.png", transparency=0)
    np.testing.assert_array_equal(reader().indices(tmp_path / "b.png"), MAP)


@pytest.mark.parametrize("mode", ["RGB", "RGBA"])
def test_a_colour_picture_is_read_by_the_colours_of_the_classes(tmp_path, mode):
    Image.fromarray(in_colours(MAP)).convert(mode).save(tmp_path / "a.png")
    np.testing.assert_array_equal(reader(colours=HEX).indices(tmp_path / "a.png"), MAP)


def test_of_two_classes_of_one_colour_the_first_is_read(tmp_path):
    """Palettes are often filled up with black."""
    colours = [*HEX, *["#000000"] * 252]
    path = save_png(tmp_path / "a.png", in_colours(MAP))
    np.testing.assert_array_equal(reader(classes=[], colours=colours).indices(path), MAP)


def test_arrays_and_paths_as_text_are_taken_too(tmp_path):
    path = save_palette(tmp_path / "a.png", MAP, COLOURS)
    for given in (str(path), MAP, MAP[..., None], MAP.astype(np.int64)):
        np.testing.assert_array_equal(reader().indices(given), MAP)
    for wrong in (MAP.astype(np.float32), np.zeros((4, 4, 3), np.uint8), np.zeros(4, np.uint8)):
        with pytest.raises(DataError, match=r"a map must be whole numbers \(H, W\), got"):
            reader().indices(wrong)


def test_a_map_turned_by_exif_is_turned_as_pictures_are(tmp_path):
    tags = Image.Exif()
    tags[0x0112] = 6
    tall = np.arange(12, dtype=np.uint8).reshape(4, 3) % 4
    Image.fromarray(tall).save(tmp_path / "a.png", exif=tags)
    np.testing.assert_array_equal(reader().indices(tmp_path / "a.png"), np.rot90(tall, -1))


# what is wrong is named


@pytest.mark.parametrize("value", [4, 77, 254])
@pytest.mark.parametrize("kind", ["index", "palette"])
def test_an_index_without_class_is_an_error_that_names_file_and_value(tmp_path, kind, value):
    array = MAP.copy()
    array[5, 6] = value
    path = tmp_path / "street 7.png"
    if kind == "index":
        save_png(path, array)
    else:
        save_palette(path, array, [(i, i, i) for i in range(256)])
    with pytest.raises(
        UnusableData, match=rf"map street 7\.png: index {value} has no class; known: 0\.\.3 and 255 \(ignored\); mend"
    ):
        reader().indices(path)


def test_the_largest_class_is_allowed_and_the_next_is_not(tmp_path):
    assert reader().indices(np.full((2, 2), 3)).max() == 3
    for wrong in (4, -1, 256, 1000):
        with pytest.raises(UnusableData, match=rf"map array: index {wrong} has no class"):
            reader().indices(np.full((2, 2), wrong))


def test_an_unknown_colour_is_an_error_that_names_file_and_colour(tmp_path):
    picture = in_colours(MAP).copy()
    picture[2, 3] = 1, 2, 3
    path = save_png(tmp_path / "a.png", picture)
    with pytest.raises(UnusableData, match=r"map a\.png: colour #010203 has no class; known: #ffffff, #000000"):
        reader(colours=HEX).indices(path)
    with pytest.raises(
        UnusableData,
        match=r"map a\.png: a colour picture, but the colours of the classes are not known; .*classes\.csv",
    ):
        reader().indices(path)


def test_pixels_of_the_ignored_index_belong_to_no_class():
    array = np.array([[0, 255], [9, 3]], np.uint8)
    with pytest.raises(UnusableData, match=r"index 9 .*known: 0\.\.3 and 255 \(ignored\)"):
        reader().indices(array)
    assert reader(ignore=9).indices(np.array([[0, 9]])).tolist() == [[0, NOTHING]]
    assert reader(ignore=0).indices(np.array([[0, 3]])).tolist() == [[NOTHING, 3]]
    with pytest.raises(UnusableData, match=r"index 255 has no class; known: 0\.\.3;"):
        reader(ignore=None).indices(np.array([[0, 255]]))
    built = encoder("map", classes=NAMES)
    one_hot = built(built.read([np.full((8, 8), 255)], []), 1).modulation
    assert one_hot.abs().sum() == 0


def with_maps(folder: Path, arrays: list[np.ndarray], colours: list[tuple[int, int, int]] | None = COLOURS) -> Path:
    g = np.random.default_rng(0)
    for i, array in enumerate(arrays):
        save_png(folder / "images" / f"{i}.png", g.integers(0, 256, (*array.shape, 1), dtype=np.uint8))
        if colours is None:
            save_png(folder / "maps" / f"{i}.png", array)
        else:
            save_palette(folder / "maps" / f"{i}.png", array, colours)
    return folder


def load(folder: Path, conditions=None, **settings):
    return load_with_conditions(DataSettings(source=str(folder), **{"held_out": 0, **settings}), conditions=conditions)


def test_a_wrong_index_in_the_data_ends_the_reading_and_is_not_skipped(tmp_path):
    arrays = [*indices(4, 4), np.full((8, 8), 4, np.uint8)]
    with_maps(tmp_path, arrays, None)
    (tmp_path / "classes.txt").write_text("\n".join(NAMES))
    with pytest.raises(UnusableData, match=r"map 4\.png: index 4 has no class; known: 0\.\.3 and 255"):
        load(tmp_path)
    assert len(load(tmp_path, {"map": {"classes": [*NAMES, "more"]}}).train) == 5


def test_a_damaged_map_is_reported_and_its_picture_left_out(tmp_path):
    with_maps(tmp_path, list(indices(4, 4)))
    (tmp_path / "maps" / "2.png").write_bytes(b"\x89PNG nothing")
    loaded = load(tmp_path)
    assert loaded.train.names == ["images/0.png", "images/1.png", "images/3.png"]
    assert loaded.report.skipped[0][0] == "images/2.png"
    assert "cannot be read as a picture" in loaded.report.skipped[0][1]


# classes and colours


def test_class_files_of_every_kind(tmp_path):
    (tmp_path / "a.txt").write_text("\ufeffsky\n\n 头发 \nroad, wet\n", encoding="utf-8")
    (tmp_path / "b.json").write_text(json.dumps(["sky", "头发"]))
    (tmp_path / "c.json").write_text(json.dumps({"sky": "#ffffff", "头发": "#ff0000"}))
    (tmp_path / "d.csv").write_text('name\nsky\n"road, wet"\n')
    (tmp_path / "e.csv").write_text("index,name,colour\n1,头发,#ff0000\n0,sky,#ffffff\n", encoding="utf-8-sig")
    assert read_class_file(tmp_path / "a.txt") == (["sky", "头发", "road, wet"], [])
    assert read_class_file(tmp_path / "b.json") == (["sky", "头发"], [])
    assert read_class_file(tmp_path / "c.json") == (["sky", "头发"], ["#ffffff", "#ff0000"])
    assert read_class_file(tmp_path / "d.csv") == (["sky", "road, wet"], [])
    (tmp_path / "f.csv").write_text("name,color\nsky,white\n")
    assert read_class_file(tmp_path / "f.csv") == (["sky"], ["white"])
    assert read_class_file(tmp_path / "e.csv") == (["sky", "头发"], ["#ffffff", "#ff0000"])


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("a.csv", "index,name\n0,a\n2,b\n"),
        ("a.csv", "index,name\nx,a\n"),
        ("a.csv", "index,title\n0,a\n"),
        ("a.csv", "index,name,colour\n0,a,\n1,b,#ff0000\n"),
        ("a.json", "{"),
        ("a.json", "3"),
        ("gone.txt", None),
    ],
)
def test_a_class_file_that_says_nothing_clear_is_refused(tmp_path, name, content):
    if content is not None:
        (tmp_path / name).write_text(content)
    with pytest.raises(ConfigurationError, match=rf"cannot read class names from .*{name}"):
        read_class_file(tmp_path / name)


@pytest.mark.parametrize("kind", ["csv", "json"])
def test_the_class_file_of_the_data_gives_names_and_colours(tmp_path, kind):
    arrays = list(indices(3, 4))
    for i, array in enumerate(arrays):
        save_png(tmp_path / "images" / f"{i}.png", np.full((8, 8, 1), i, np.uint8))
        save_png(tmp_path / "maps" / f"{i}.png", in_colours(array))
    if kind == "csv":
        lines = [f"{i},{name},{colour}" for i, (name, colour) in enumerate(zip(NAMES, HEX, strict=True))]
        (tmp_path / "classes.csv").write_text("\n".join(["index,name,colour", *lines]))
    else:
        (tmp_path / "classes.json").write_text(json.dumps(dict(zip(NAMES, HEX, strict=True))))
    loaded = load(tmp_path)
    assert loaded.conditions["map"]["classes"] == NAMES
    assert loaded.conditions["map"]["colours"] == HEX
    np.testing.assert_array_equal(loaded.train.values["map"][..., 0], np.stack(arrays))


@pytest.mark.parametrize("own", [[], ["#101010", "#202020", "#303030", "#404040"]])
def test_a_class_file_that_is_named_gives_names_and_colours_too(tmp_path, own):
    lines = [f"{i},{name},{colour}" for i, (name, colour) in enumerate(zip(NAMES, HEX, strict=True))]
    (tmp_path / "my classes.csv").write_text("\n".join(["index,name,colour", *lines]))
    settings = read_settings("map", {"classes": str(tmp_path / "my classes.csv"), "colours": own})
    assert settings.classes == NAMES
    assert settings.colours == (own or HEX)
    with pytest.raises(ConfigurationError, match=r"conditions\.map: cannot read class names from nowhere\.txt"):
        read_settings("map", {"classes": "nowhere.txt"})


def test_without_a_class_file_there_are_as_many_classes_as_the_largest_index_tells(tmp_path):
    arrays = list(indices(3, 3))
    arrays[1][0, 0] = 255
    arrays[2][0, 0] = 6
    loaded = load(with_maps(tmp_path, arrays, None))
    assert loaded.conditions["map"]["classes"] == [str(i) for i in range(7)]
    assert loaded.conditions["map"]["colours"] == []


def test_colours_come_from_the_palette(tmp_path):
    loaded = load(with_maps(tmp_path, list(indices(3, 3))))
    assert loaded.conditions["map"]["classes"] == ["0", "1", "2"]
    assert loaded.conditions["map"]["colours"] == HEX[:3]
    built = encoder("map", **loaded.conditions["map"])
    drawn, _ = built.show(loaded.train.values["map"])
    np.testing.assert_array_equal(drawn, in_colours(loaded.train.values["map"][..., 0]))


def test_classes_without_colours_are_drawn_apart_and_nothing_in_white():
    colours = palette(MapSettings(classes=NAMES, colours=HEX[1:2]))
    assert len(colours) == 256
    assert colours[0] == (0, 0, 0)
    assert len(set(colours[:20])) == 20
    assert colours[NOTHING] == (255, 255, 255)


# geometry


@pytest.mark.parametrize("size", [(8, 8), (6, 12), (12, 6), (5, 7), (40, 40)])
def test_a_map_is_resized_as_its_picture_is_and_mixes_no_indices(tmp_path, size):
    """Cover, then crop the middle: a map and a picture of the same two levels agree but for the pixels on the border between them."""
    drawn = np.zeros((48, 72), np.uint8)
    drawn[9:40, 11:39] = 3
    drawn[20:30, 30:66] = 3
    picture = read_picture(save_png(tmp_path / "a.png", drawn * 80), size, 1)[..., 0].astype(float)
    found = fit_nearest(reader().indices(save_palette(tmp_path / "b.png", drawn, COLOURS)), size)
    assert found.shape == size
    assert set(np.unique(found)) == {0, 3}
    clear = (picture < 60) | (picture > 180)
    assert clear.mean() > 0.5
    np.testing.assert_array_equal(found[clear] * 80 > 120, picture[clear] > 120)


def test_resizing_keeps_values_that_are_far_apart():
    array = np.kron(np.array([[0, 3], [3, 0]], np.uint8), np.ones((7, 7), np.uint8))
    found = fit_nearest(array, (5, 5))
    assert set(np.unique(found)) == {0, 3}
    np.testing.assert_array_equal(fit_nearest(array, (8, 14)), array[3:11])  # the middle, nothing scaled
    np.testing.assert_array_equal(fit_nearest(array, (2, 2)), [[0, 3], [3, 0]])


def test_a_map_of_another_size_is_resized_and_says_so(tmp_path):
    built, notes = encoder("map", classes=NAMES), []
    big = np.kron(MAP, np.ones((3, 3), np.uint8))
    values = built.read([save_palette(tmp_path / "big.png", big, COLOURS), MAP, big], notes)
    assert notes == [
        "map big.png is 24x24, resized to 8x8 (nearest neighbour) as in training",
        "map array is 24x24, resized to 8x8 (nearest neighbour) as in training",
    ]
    np.testing.assert_array_equal(values, np.stack([MAP] * 3)[..., None])


def test_edges_lie_on_both_sides_of_the_border_between_instances(tmp_path):
    numbers = np.zeros((4, 6), np.uint8)
    numbers[:, 3:] = 1
    numbers[2:, :3] = 9
    expected = np.zeros((4, 6), np.uint8)
    expected[:, 2:4] = 1
    expected[1:3, :3] = 1
    np.testing.assert_array_equal(instance_edges(numbers, (4, 6)), expected)
    colours = np.stack([numbers, numbers // 2, numbers * 3], axis=-1)
    for given in (numbers, colours, save_png(tmp_path / "a.png", numbers), save_png(tmp_path / "c.png", colours)):
        np.testing.assert_array_equal(instance_edges(read_instances(given, (8, 12)), (4, 6)), expected)
    assert not instance_edges(np.ones((4, 6), np.uint8), (4, 6)).any()


def test_instances_of_the_data_become_one_more_channel(tmp_path):
    maps = [np.zeros((8, 8), np.uint8) for _ in range(3)]
    with_maps(tmp_path, maps)
    for i in range(3):
        numbers = np.zeros((8, 8), np.uint8)
        numbers[:, 4 + i :] = 7
        save_png(tmp_path / "objects" / f"{i}.png", numbers)
    loaded = load(tmp_path, {"map": {"instances": "objects"}})
    values = loaded.train.values["map"]
    assert values.shape == (3, 8, 8, 2)
    assert [values[i, 0, :, 1].nonzero()[0].tolist() for i in range(3)] == [[3, 4], [4, 5], [5, 6]]
    cond = encoder("map", **loaded.conditions["map"])(values, 3).modulation
    assert cond.shape == (3, 2, 8, 8)
    np.testing.assert_array_equal(cond[:, 1].numpy(), values[..., 1])
    assert (cond[:, 0] == 1).all()


def test_an_instance_map_that_cannot_lie_over_its_map_is_reported_by_name(tmp_path):
    with_maps(tmp_path, [np.zeros((8, 12), np.uint8) for _ in range(4)])
    for name, size in (("0", (8, 12)), ("1", (12, 8)), ("2", (17, 25))):
        save_png(tmp_path / "objects" / f"{name}.png", np.zeros(size, np.uint8))
    (tmp_path / "objects" / "3.png").write_bytes(b"nothing")
    loaded = load(tmp_path, {"map": {"instances": "objects"}})
    assert loaded.train.names == ["images/0.png", "images/2.png"]
    (_, shape), (_, damage) = loaded.report.skipped
    assert shape == "instance map 1.png is 12x8, its map 8x12: another aspect; give one that lies over the map"
    assert damage.startswith("instance map 3.png cannot be read as a picture")


def test_an_instance_map_of_another_aspect_is_refused_when_asked_for_too(tmp_path):
    built, notes = encoder("map", classes=NAMES, instances="objects"), []
    tall = save_png(tmp_path / "tall.png", np.zeros((16, 8), np.uint8))
    with pytest.raises(DataError, match=r"instance map tall\.png is 16x8, its map 8x8: another aspect"):
        built.read([(MAP, tall)], notes)
    assert built.read([(MAP, np.zeros((24, 24), np.uint8))], notes).shape == (1, 8, 8, 2)


# doors


@pytest.mark.parametrize("door", ["modulation", "concat"])
def test_maps_are_one_hot_in_their_door(door):
    built = encoder("map", classes=NAMES, door=door)
    arrays = list(indices(3, 4))
    one_hot = getattr(built(built.read(arrays, []), 3), door)
    assert one_hot.shape == (3, 4, 8, 8)
    assert (one_hot.sum(1) == 1).all()
    np.testing.assert_array_equal(one_hot.argmax(1).numpy(), np.stack(arrays))
    assert KINDS["map"].encoder.doors(built.settings, (3, 8, 8)) == Doors(**{door: 4})


def test_a_map_has_nothing_to_learn_and_needs_pictures():
    assert not list(encoder("map", classes=NAMES).parameters())
    with pytest.raises(ConfigurationError, match=r"a map goes with pictures, the data has shape \(2,\)"):
        KINDS["map"].encoder.doors(MapSettings(classes=NAMES), (2,))


def test_left_and_right_change_places_in_a_mirrored_map():
    settings = MapSettings(classes=["skin", "left hand", "right hand"], swap=[[1, 2]])
    swap = KINDS["map"].reader.mirrored_indices(settings)
    values = np.array([[[[1, 5], [0, 6], [2, 7], [255, 8]]]] * 2, np.uint8)
    mirrored = mirror(values, np.array([False, True]), swap)
    np.testing.assert_array_equal(mirrored[0], values[0])
    assert mirrored[1, 0, :, 0].tolist() == [255, 1, 0, 2]
    assert mirrored[1, 0, :, 1].tolist() == [8, 7, 6, 5]  # edges have no left and right
    assert KINDS["map"].reader.mirrored_indices(MapSettings(classes=NAMES)) is None


def test_a_class_that_is_not_there_cannot_be_swapped():
    values = np.array([[[[0], [3]]]], np.uint8)
    for settings in (MapSettings(swap=[[1, 99]]), MapSettings(classes=["a", "b", "c", "d"], swap=[[99, 1]])):
        with pytest.raises(ConfigurationError, match=r"there is no class 99, only 0\.\.3"):
            KINDS["map"].reader.settle(settings, values)


def test_values_from_python_of_unknown_classes_have_none():
    values = np.full((1, 8, 8, 1), 9, np.uint8)
    assert encoder("map", classes=NAMES)(torch.from_numpy(values), 1).modulation.abs().sum() == 0


# palettes that disagree with the classes


def test_a_palette_in_another_order_than_the_classes_is_read_by_its_colours(tmp_path):
    """Tools that save PNGs may sort a palette anew, file by file."""
    own = save_palette(tmp_path / "own.png", MAP, COLOURS)
    order = [2, 0, 3, 1]
    table = np.argsort(order).astype(np.uint8)
    shuffled = save_palette(tmp_path / "shuffled.png", table[MAP], [COLOURS[i] for i in order])
    for path in (own, shuffled):
        np.testing.assert_array_equal(reader(colours=HEX).indices(path), MAP)


def test_a_palette_colour_that_no_class_has_is_an_error_that_names_it(tmp_path):
    wrong = [(255, 255, 255), (0, 0, 0), (1, 2, 3), (0, 128, 255)]
    path = save_palette(tmp_path / "wrong.png", MAP, wrong)
    with pytest.raises(UnusableData, match=r"map wrong\.png: index 2 has colour #010203, which no class has"):
        reader(colours=HEX).indices(path)


def test_a_jpeg_is_no_map(tmp_path):
    Image.fromarray(MAP).save(tmp_path / "a.jpg")
    with pytest.raises(UnusableData, match="JPEG changes the values"):
        reader().indices(tmp_path / "a.jpg")


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"swap": [[4]]}, "pairs of class indices"),
        ({"swap": [[1, 300]]}, "pairs of class indices"),
        ({"colours": ["nocolour"]}, "colours must be a colour name"),
        ({"classes": [str(i) for i in range(256)]}, "up to 255 classes"),
    ],
)
def test_settings_that_make_no_sense_are_refused(settings, message):
    with pytest.raises(ConfigurationError, match=message):
        read_settings("map", settings)


def test_instances_are_for_models_that_were_trained_with_them():
    built = encoder("map", shape=(1, *MAP.shape), classes=NAMES)
    with pytest.raises(ConfigurationError, match="takes a map alone"):
        built.read([(MAP, MAP)], [])
