"""From a source to a training set, a held-out set and a report, with nothing lost, mixed up or hushed up."""

from __future__ import annotations

import collections
import json
import math
import os
import shutil
import threading
import time
import tracemalloc
import weakref
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from PIL import Image

from alphabar.conditions.kinds import load_with_conditions
from alphabar.data import load as load_module
from alphabar.data.load import allocate, in_order
from alphabar.data.pictures import Rows
from alphabar.errors import ConfigurationError, DataError, StorageError
from alphabar.settings.data import DataSettings

from .making import exif, load, noise, npz, photo, save, save_many

# broken files


@pytest.fixture
def mixed(tmp_path) -> Path:
    """Three good pictures among everything that can be wrong with one."""
    save(tmp_path / "good.png", photo(40, 40, 1))
    save(tmp_path / "sub/good.jpg", photo(50, 30, 2))
    save(tmp_path / "sub/GOOD.BMP", photo(30, 30, 3))
    for name in ("cut.png", "cut.jpg"):
        raw = save(tmp_path / name, noise(40, 40)).read_bytes()
        (tmp_path / name).write_bytes(raw[: len(raw) // 2])
    (tmp_path / "words.png").write_text("these are words")
    (tmp_path / "empty.gif").touch()
    (tmp_path / "folder.png").mkdir()
    (tmp_path / "link.png").symlink_to(tmp_path / "gone.png")
    Image.fromarray(np.array([[-1.0, 7.0]], np.float32)).save(tmp_path / "range.tif")
    (tmp_path / "notes.txt").touch()
    return tmp_path


def test_broken_files_are_reported_by_name_and_skipped(mixed):
    loaded = load(mixed, held_out=0)
    assert loaded.train.names == ["good.png", "sub/GOOD.BMP", "sub/good.jpg"]
    assert loaded.report.count == 3
    assert loaded.report.other_files == 1
    skipped = dict(loaded.report.skipped)
    assert sorted(skipped) == ["cut.jpg", "cut.png", "empty.gif", "folder.png", "link.png", "range.tif", "words.png"]
    assert skipped["folder.png"] == "is a folder"
    assert skipped["link.png"] == "is a broken link"
    assert skipped["words.png"] == skipped["empty.gif"] == "cannot be read as a picture: it has no known picture format"
    assert "truncated" in skipped["cut.jpg"]
    assert "from -1 to 7" in skipped["range.tif"]
    assert not any(str(mixed) in reason for reason in skipped.values())
    for name, height, width, seed in (("good.png", 40, 40, 1), ("sub/GOOD.BMP", 30, 30, 3)):
        picture = loaded.train.pictures[loaded.train.names.index(name)]
        reference = np.asarray(Image.fromarray(photo(height, width, seed)).resize((32, 32), Image.Resampling.LANCZOS))
        np.testing.assert_allclose(picture.astype(int), reference, atol=1)


def test_strict_refuses_a_set_with_a_broken_file(mixed):
    with pytest.raises(DataError, match=r"7 of 10 pictures cannot be used; the first, .*leave out --strict"):
        load(mixed, strict=True)
    for path in mixed.iterdir():
        if path.name not in ("good.png", "sub", "cut.jpg"):
            shutil.rmtree(path) if path.is_dir() else path.unlink()
    with pytest.raises(DataError, match=r"1 of 4 pictures.*cut\.jpg, cannot be read"):  # its header is whole
        load(mixed, strict=True)
    (mixed / "cut.jpg").unlink()
    assert load(mixed, strict=True).report.count == 3


def test_a_folder_of_nothing_but_broken_files_is_an_error(tmp_path):
    for name in ("a.png", "b.jpg"):
        (tmp_path / name).write_text("words")
    with pytest.raises(DataError, match=r"none of the 2 pictures in .* is readable; the first, a\.png, cannot be read"):
        load(tmp_path)


def test_sources_that_are_not_there_or_of_another_kind_are_refused(tmp_path):
    (tmp_path / "a.zip").touch()
    (tmp_path / "empty").mkdir()
    for source, said in (
        ("nowhere", "does not exist"),
        ("a.zip", "is not a folder, .npy or .npz file"),
        ("empty", "no pictures in .*found: nothing"),
    ):
        with pytest.raises(DataError, match=said):
            load(tmp_path / source)
    with pytest.raises(DataError, match=r"'fashion-mnits' does not exist; .*did you mean 'fashion-mnist'"):
        load("fashion-mnits")


def test_a_wrong_background_is_said_before_anything_is_decoded(tmp_path):
    save(tmp_path / "a.png", noise(8, 8))  # no alpha, so it would not be needed
    with pytest.raises(ConfigurationError, match=r"data\.background.*'wite'"):
        load(tmp_path, background="wite")


def test_large_pictures_are_read_without_a_warning_and_absurd_ones_reported(tmp_path, monkeypatch, recwarn):
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 1000)  # Pillow warns above, and refuses above twice that
    save_many(tmp_path, ["a.png"], 20)
    save_many(tmp_path, ["large.png"], 40)
    save_many(tmp_path, ["huge.png"], 60)
    loaded = load(tmp_path)
    assert loaded.report.count == 2
    assert [name for name, _ in loaded.report.skipped] == ["huge.png"]
    assert not recwarn.list


# what the report says


def test_the_report_describes_what_was_found(tmp_path):
    save(tmp_path / "a.png", noise(20, 50, 3, 1))
    save(tmp_path / "b.png", noise(40, 70, 1, 2))
    save(tmp_path / "c.png", noise(90, 10, 4, 3))
    Image.fromarray(noise(30, 60, 3, 5)).save(tmp_path / "d.jpg", exif=exif(6))  # shown 60 high and 30 wide
    frames = [Image.fromarray(noise(60, 60, 1, k)[..., 0]) for k in range(3)]
    frames[0].save(tmp_path / "e.gif", save_all=True, append_images=frames[1:])
    report = load(tmp_path, held_out=0).report
    assert report.count == 5
    assert report.shape == (3, 32, 32)
    assert report.sizes == "20x10 to 90x70, median 60x50"
    assert report.modes == {"RGB": 2, "L": 2, "RGBA": 1}
    assert report.animated == 1
    assert report.enlarged == 3  # a is too low, c too narrow, d too narrow
    assert report.source == str(tmp_path)
    assert json.loads(json.dumps(report.to_json()))["count"] == 5


def test_progress_is_told_of_each_file(mixed):
    calls = []
    load_with_conditions(DataSettings(source=str(mixed)), progress=lambda *call: calls.append(call))
    assert [call for call in calls if call[0] == "reading headers"] == [
        ("reading headers", k, 10) for k in range(1, 11)
    ]
    decoding = [call for call in calls if call[0] == "decoding"]
    assert decoding == [("decoding", k, len(decoding)) for k in range(1, len(decoding) + 1)]


# size and channels


@pytest.mark.parametrize(
    ("sizes", "wanted"),
    [
        ([(16, 24)] * 2, (16, 24)),
        ([(64, 64)] * 2, (64, 64)),
        ([(65, 64)] * 2, (32, 32)),
        ([(16, 16), (16, 17)], (32, 32)),
        ([(200, 300)], (32, 32)),
    ],
)
def test_the_own_size_is_kept_if_all_agree_and_it_is_small(tmp_path, sizes, wanted):
    for k, size in enumerate(sizes):
        save(tmp_path / f"{k}.png", noise(*size))
    loaded = load(tmp_path)
    assert loaded.train.shape == (3, *wanted)
    assert loaded.settings.size == list(wanted)


def test_a_size_that_is_given_is_kept(tmp_path):
    save_many(tmp_path, ["a.png", "b.png"], 16)
    assert load(tmp_path, size="20x12").train.shape == (1, 20, 12)
    assert load(tmp_path, size=9).train.shape == (1, 9, 9)


@pytest.mark.parametrize("size", ["20x", "axb", "3x4x5", "-3", 0, [0, 4], [1, 2, 3]])
def test_a_size_that_is_none_is_refused(size):
    with pytest.raises(ConfigurationError, match=r"data\.size must be"):
        DataSettings(size=size)


def test_turned_photos_agree_in_the_size_they_are_shown_in(tmp_path):
    save(tmp_path / "a.png", photo(24, 16, 1))
    Image.fromarray(photo(16, 24, 2)).save(tmp_path / "b.tif", exif=exif(6))
    Image.fromarray(photo(16, 24, 3)).save(tmp_path / "c.jpg", exif=exif(8))
    assert load(tmp_path).settings.size == [24, 16]


def test_one_channel_if_all_are_grey_otherwise_three(tmp_path):
    save(tmp_path / "a.png", noise(8, 8, 1))
    Image.fromarray(noise(8, 8, 1, 1)[..., 0].astype(np.uint16) * 257).save(tmp_path / "b.png")
    Image.fromarray(noise(8, 8, 1, 2)[..., 0]).convert("1").save(tmp_path / "c.png")
    assert load(tmp_path).settings.channels == 1
    save(tmp_path / "d.png", noise(8, 8, 2))  # grey with alpha may stand before a coloured background
    assert load(tmp_path).settings.channels == 3
    for channels in (1, 2, 3, 4):
        assert load(tmp_path, channels=channels).train.shape == (channels, 8, 8)


def test_the_settings_come_back_with_nothing_left_open_and_load_the_same_again(tmp_path):
    save_many(tmp_path, [f"{k % 2}/{k}.png" for k in range(9)], 16)
    first = load(tmp_path)
    assert (first.settings.size, first.settings.channels, first.settings.class_from) == ([16, 16], 1, "none")
    again = load_with_conditions(first.settings)
    assert again.report == first.report
    assert again.settings == first.settings


def test_unknown_keys_of_the_settings_name_the_nearest():
    with pytest.raises(ConfigurationError, match=r"unknown key 'chanels'.*did you mean 'channels'"):
        DataSettings(chanels=3)


# many mixed files


def some_file(folder: Path, k: int, random: np.random.Generator) -> str | None:
    """A file of a random kind, size and place. Returns its name, None if it is no picture."""
    place = folder / random.choice(["", "a b", "ü/猫", "x.y", "deep/er/and/deeper", "'quoted' \"twice\"", "emoji 🙂"])
    place.mkdir(parents=True, exist_ok=True)
    mode = str(random.choice(["1", "L", "LA", "P", "RGB", "RGBA", "I;16", "CMYK", "broken", "other"]))
    height, width = random.integers(1, 90, 2)
    grey = random.integers(0, 256, (height, width), dtype=np.uint8)
    if mode == "other":
        (place / f"{k}.txt").write_text("words")
        return None
    if mode == "broken":
        path = place / f"broken {k}.jpeg"
        path.write_bytes(random.bytes(int(random.integers(0, 300))))
        return None
    image = Image.fromarray(grey.astype(np.uint16) * 257) if mode == "I;16" else Image.fromarray(grey).convert(mode)
    endings = {
        "1": "png bmp tif gif",
        "L": "png jpg webp PGM",
        "LA": "png tif",
        "P": "gif PNG bmp",
        "RGB": "JPG png webp ppm Tiff",
        "RGBA": "png webp",
        "I;16": "png tif",
        "CMYK": "jpg tif",
    }
    path = place / f"{mode.replace(';', '')} {k}.{random.choice(endings[mode].split())}"
    tags = (
        {"exif": exif(int(random.integers(1, 9)))} if path.suffix.lower() in (".jpg", ".png", ".tif", ".webp") else {}
    )
    image.save(path, **tags)
    return path.relative_to(folder).as_posix()


def test_hundreds_of_mixed_files_load_with_the_right_count(tmp_path):
    random = np.random.default_rng(0)
    files = [some_file(tmp_path, k, random) for k in range(400)]
    good = sorted(name for name in files if name)
    loaded = load(tmp_path, held_out=0)
    assert 250 < len(good) < 380
    assert loaded.train.names == good
    assert loaded.report.count == len(loaded.train) == len(good)
    assert loaded.train.pictures.shape == (len(good), 32, 32, 3)
    assert all("broken" in name for name, _ in loaded.report.skipped)
    assert len(good) + len(loaded.report.skipped) + loaded.report.other_files == 400


@given(st.integers(0, 10_000))
@settings(max_examples=15, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_any_folder_loads_with_what_is_good_in_it_or_says_why_not(tmp_path, seed):
    folder = tmp_path / str(seed)
    random = np.random.default_rng(seed)
    files = [some_file(folder, k, random) for k in range(random.integers(1, 9))]
    good = sorted(name for name in files if name)
    try:
        loaded = load(folder, held_out=0)
        names = loaded.train.names
    except DataError:
        names = []
    finally:
        shutil.rmtree(folder)
    assert names == good


# arrays

COLOUR = np.stack([noise(16, 24, 3, seed) for seed in range(20)])


@pytest.mark.parametrize("channels", [1, 2, 3, 4])
def test_a_size_scales_an_array_like_files(tmp_path, channels):
    pictures = np.stack([noise(16, 24, channels, seed) for seed in range(3)])
    loaded = load(npz(tmp_path, images=pictures), size="8x8", held_out=0)
    assert loaded.train.pictures.shape == (3, 8, 8, channels)
    save(tmp_path / "files/0.png", pictures[0])
    files = load(tmp_path / "files", size="8x8", channels=channels, held_out=0)
    np.testing.assert_array_equal(loaded.train.pictures[0], files.train.pictures[0])


def test_an_array_keeps_its_channels(tmp_path):
    path = npz(tmp_path, images=COLOUR)
    assert load(path, channels=3).settings.channels == 3
    with pytest.raises(ConfigurationError, match=r"has 3 channels, but data\.channels = 1; leave it out"):
        load(path, channels=1)


def test_an_array_is_the_same_set_in_any_order_of_axes(tmp_path):
    np.save(tmp_path / "last.npy", COLOUR)
    np.save(tmp_path / "first.npy", COLOUR.transpose(0, 3, 1, 2))
    one, other = load(tmp_path / "last.npy"), load(tmp_path / "first.npy")
    assert one.report.fingerprint == other.report.fingerprint
    assert one.train.fingerprint() == other.train.fingerprint()
    np.testing.assert_array_equal(one.train.batch(np.arange(5)).x_0, other.train.batch(np.arange(5)).x_0)


# memory


def content(loaded) -> list:
    return [part.pictures[np.arange(len(part))].tolist() for part in (loaded.train, loaded.held_out)]


@pytest.mark.parametrize("fraction", [0, 0.25])
def test_pictures_that_do_not_fit_in_memory_go_to_a_file_and_are_the_same(tmp_path, fraction):
    folder = save_many(tmp_path / "data", [f"{k}/{k}.png" for k in range(20)])
    (folder / "broken.png").touch()
    inside = load(folder, tmp_path / "none/inside.npy", class_from="folder", held_out=fraction)
    assert not (tmp_path / "none").exists()
    cache = tmp_path / "new/cache.npy"
    mapped = load(folder, cache, class_from="folder", held_out=fraction, memory_gb=1e-9)
    assert cache.is_file()
    assert mapped.report == inside.report
    assert [part.fingerprint() for part in (mapped.train, mapped.held_out)] == [
        part.fingerprint() for part in (inside.train, inside.held_out)
    ]
    assert content(mapped) == content(inside)
    assert mapped.train.labels.tolist() == inside.train.labels.tolist()
    batch = np.array([3, 0]), np.array([True, False])
    np.testing.assert_array_equal(mapped.train.batch(*batch).x_0, inside.train.batch(*batch).x_0)


def test_a_part_of_a_mapped_set_is_not_copied_into_memory(tmp_path):
    folder = save_many(tmp_path / "data", [f"{k}.png" for k in range(20)])
    loaded = load(folder, tmp_path / "cache.npy", memory_gb=1e-9, held_out=0.25)
    for part in (loaded.train, loaded.held_out):
        assert isinstance(part.pictures, Rows)
        assert isinstance(part.pictures.array, np.memmap)
    assert np.array_equal(np.load(tmp_path / "cache.npy"), loaded.train.pictures.array)


def test_a_mapped_array_file_stays_one(tmp_path):
    np.save(tmp_path / "x.npy", COLOUR)
    loaded = load(tmp_path / "x.npy", tmp_path / "cache.npy", held_out=0.25)
    assert isinstance(loaded.train.pictures.array, np.memmap)
    assert not (tmp_path / "cache.npy").exists()
    assert loaded.report.fingerprint == load(npz(tmp_path, images=COLOUR), held_out=0.25).report.fingerprint


def test_memory_is_used_up_to_the_limit(tmp_path):
    cache = tmp_path / "c.npy"
    shapes = {"": (10, 10, 10, 1)}
    assert not isinstance(allocate(shapes, 1e-6, cache)[""], np.memmap)
    assert isinstance(allocate(shapes, 0.99e-6, cache)[""], np.memmap)
    assert not isinstance(allocate(shapes, 0.99e-6, None)[""], np.memmap)


def test_memory_is_shared_by_pictures_and_conditions(tmp_path):
    shapes = {"": (10, 10, 10, 1), "map": (10, 10, 10, 1)}
    inside = allocate(shapes, 2e-6, tmp_path / "c.npy")
    assert not any(isinstance(array, np.memmap) for array in inside.values())
    outside = allocate(shapes, 1.5e-6, tmp_path / "c.npy")  # each alone would fit
    assert all(isinstance(array, np.memmap) for array in outside.values())
    assert {name: array.shape for name, array in outside.items()} == shapes
    assert sorted(path.name for path in tmp_path.iterdir()) == ["c.npy", "map.npy"]


def test_a_disk_too_small_is_noticed_before_it_is_full(tmp_path, monkeypatch):
    """A mapped file takes its room when it is filled, and running out then ends the process without a word."""
    usage = collections.namedtuple("usage", "free")
    monkeypatch.setattr(shutil, "disk_usage", lambda path: usage(math.prod((10, 8, 8, 1)) - 1))
    with pytest.raises(StorageError, match=r"c\.npy: the decoded pictures need 6\.4e-07 GB, .* are free; make room"):
        allocate({"": (5, 8, 8, 1), "map": (5, 8, 8, 1)}, 1e-9, tmp_path / "c.npy")
    assert not (tmp_path / "c.npy").exists()


def kept_in_memory(path: Path, n: int) -> int:
    """Bytes that a set of n mapped pictures keeps once it is loaded."""
    np.save(path, np.random.default_rng(0).integers(0, 256, (n, 6, 6, 1), np.uint8))
    load(path)
    tracemalloc.start()
    loaded = load(path)
    try:
        assert len(loaded.train) + len(loaded.held_out) == n
        return tracemalloc.get_traced_memory()[0]
    finally:
        tracemalloc.stop()


def test_of_a_mapped_picture_little_but_its_index_is_kept_in_memory(tmp_path):
    few, many = (kept_in_memory(tmp_path / "x.npy", n) for n in (1000, 11_000))
    assert (many - few) / 10_000 <= 4 + 0.05 * 36 + 0.5  # the index, the report's list of what is held out, rounding


def test_the_fingerprint_of_a_folder_changes_with_its_content_and_classes_and_not_with_its_place(tmp_path):
    one = save_many(tmp_path / "one", ["a/0.png", "a/1.png", "b/2.png"])
    shutil.copytree(one, tmp_path / "two")
    prints = {load(folder, class_from="folder").report.fingerprint for folder in (one, tmp_path / "two")}
    assert len(prints) == 1
    prints.add(load(one).report.fingerprint)
    (one / "b").rename(one / "c")
    prints.add(load(one, class_from="folder").report.fingerprint)
    (one / "a/1.png").rename(one / "c/1.png")
    prints.add(load(one, class_from="folder").report.fingerprint)
    picture = noise(8, 8, 1, seed=2)
    picture[7, 7, 0] ^= 1
    save(one / "c/2.png", picture)
    prints.add(load(one, class_from="folder").report.fingerprint)
    assert len(prints) == 5


# decoding by several workers


def test_results_come_in_order_within_a_bounded_window():
    begun, lock = [], threading.Lock()

    def double(item: int) -> int:
        with lock:
            begun.append(item)
        time.sleep(0.002 * (item % 3))
        return 2 * item

    with ThreadPoolExecutor(4) as pool:
        for i, result in enumerate(in_order(pool, double, range(50), 6)):
            assert result == 2 * i
            assert max(begun) <= i + 6
    assert sorted(begun) == list(range(50))
    assert list(in_order(ThreadPoolExecutor(1), double, [], 6)) == []


@pytest.mark.parametrize("ending", ["an error of an item", "the generator is closed"])
def test_what_has_not_begun_is_cancelled(ending):
    begun, gate = [], threading.Event()

    def wait(item: int) -> int:
        begun.append(item)
        if item > 0:
            gate.wait(10)
        elif ending == "an error of an item":
            raise DataError("broken")
        return item

    with ThreadPoolExecutor(1) as pool:
        results = in_order(pool, wait, range(100), 20)
        if ending == "an error of an item":
            with pytest.raises(DataError, match="broken"):
                next(results)
        else:
            assert next(results) == 0
            results.close()
        gate.set()
    assert len(begun) <= 2


def test_a_reading_that_is_interrupted_leaves_the_other_pictures_alone(tmp_path, monkeypatch):
    save_many(tmp_path, [f"{k}.png" for k in range(200)])
    read = []
    original = load_module.read_picture
    monkeypatch.setattr(load_module, "read_picture", lambda path, *rest: read.append(path) or original(path, *rest))

    def interrupt(what: str, done: int, total: int) -> None:
        if what == "decoding":
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        load_with_conditions(DataSettings(source=str(tmp_path)), progress=interrupt)
    assert len(read) <= (os.cpu_count() or 1) * (load_module.AHEAD + 1)


def test_no_map_of_a_file_is_open_while_it_is_renamed(tmp_path, monkeypatch):
    """Windows renames no file that is mapped."""
    maps, replace = [], Path.replace
    opening = np.lib.format.open_memmap

    def watched(path, *rest, **options):
        opened = opening(path, *rest, **options)
        maps.append((Path(path), weakref.ref(opened)))
        return opened

    def refusing(self, target):
        if any(path in (self, Path(target)) and opened() is not None for path, opened in maps):
            raise PermissionError(13, "the file is in use")
        return replace(self, target)

    monkeypatch.setattr(np.lib.format, "open_memmap", watched)
    monkeypatch.setattr(Path, "replace", refusing)
    shapes = {"": (3, 4, 5, 1), "map": (3, 4, 5, 2)}
    arrays = allocate(shapes, 1e-9, tmp_path / "cache" / "pictures.npy")
    for name, shape in shapes.items():
        arrays[name][:] = 7
        arrays[name].flush()
        again = np.load(tmp_path / "cache" / f"{name or 'pictures'}.npy")
        assert (again.shape, again.dtype, int(again.min())) == (shape, np.uint8, 7)
    assert len(list((tmp_path / "cache").iterdir())) == 2
