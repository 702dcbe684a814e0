"""What folders, metadata and array files offer, and what each of them refuses by name."""

from __future__ import annotations

import os
import zipfile

import numpy as np
import pytest

from alphabar.data.sources import list_pictures, read_array, read_metadata, to_uint8_values
from alphabar.errors import DataError

from .making import noise, save_many

# folders


def listed(folder):
    return [picture.name for picture in list_pictures(folder)[0]]


def test_pictures_are_listed_below_the_folder_in_the_order_of_their_names(tmp_path):
    names = ["b.png", "a/z.PNG", "a/b/c.JpG", "ü 猫/ein Bild.webp", "a.b/x.tiff", "B.jpeg", "c.jfif"]
    for name in names:
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).touch()
    assert listed(tmp_path) == sorted(names)
    pictures = {picture.name: picture for picture in list_pictures(tmp_path)[0]}
    assert all(picture.path == tmp_path / name for name, picture in pictures.items())
    assert {name: picture.folder for name, picture in pictures.items()} == {
        "b.png": None, "B.jpeg": None, "c.jfif": None, "a/z.PNG": "a", "a/b/c.JpG": "b", "ü 猫/ein Bild.webp": "ü 猫", "a.b/x.tiff": "a.b",
    }  # fmt: skip


def test_hidden_files_are_passed_over_and_others_counted(tmp_path):
    for name in (
        "a.png",
        ".hidden.png",
        "._a.png",
        ".thumbs/b.png",
        "__MACOSX/c.png",
        "notes.txt",
        "README",
        "sub/labels.json",
        ".DS_Store",
    ):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).touch()
    assert listed(tmp_path) == ["a.png"]
    assert list_pictures(tmp_path)[1] == 3


def test_a_folder_below_a_hidden_one_is_read_when_it_is_the_source(tmp_path):
    (tmp_path / ".cache/photos").mkdir(parents=True)
    (tmp_path / ".cache/photos/a.png").touch()
    assert listed(tmp_path / ".cache/photos") == ["a.png"]


def test_what_is_called_like_a_picture_is_listed_even_if_it_cannot_be_one(tmp_path):
    """So that the report can name it."""
    (tmp_path / "folder.png").mkdir()
    (tmp_path / "folder.png/inside.png").touch()
    (tmp_path / "gone.png").symlink_to(tmp_path / "nothing.png")
    assert listed(tmp_path) == ["folder.png", "folder.png/inside.png", "gone.png"]


def test_links_to_folders_are_followed_but_nothing_is_listed_twice(tmp_path):
    data, outside = tmp_path / "data", tmp_path / "outside"
    for name in (data / "cats/a.png", outside / "b.png"):
        name.parent.mkdir(parents=True)
        name.touch()
    (data / "dogs").symlink_to(outside)
    (data / "all").symlink_to(data / "cats")  # inside: listed under its own name
    (data / "cats/loop").symlink_to(data)
    (outside / "round").symlink_to(outside)
    assert listed(data) == ["cats/a.png", "dogs/b.png"]
    (tmp_path / "link").symlink_to(data)
    assert listed(tmp_path / "link") == ["cats/a.png", "dogs/b.png"]


def test_a_folder_that_cannot_be_read_is_an_error(tmp_path, monkeypatch):
    (tmp_path / "secret").mkdir()
    (tmp_path / "a.png").touch()
    scandir = os.scandir

    def refuse(path):
        if str(path).endswith("secret"):
            raise PermissionError(13, "Permission denied", str(path))
        return scandir(path)

    monkeypatch.setattr(os, "scandir", refuse)
    with pytest.raises(DataError, match=r"secret: Permission denied; .*move it"):
        list_pictures(tmp_path)


@pytest.mark.parametrize(
    ("names", "found"), [([], "found: nothing"), (["a.txt", "b.PSD", "Makefile"], r"found: \.psd, \.txt, Makefile")]
)
def test_a_folder_without_pictures_says_what_it_has_and_what_it_should_have(tmp_path, names, found):
    for name in names:
        (tmp_path / name).touch()
    with pytest.raises(DataError, match=rf"no pictures in .*{found}\); alphabar reads .*\.jpg.*\.png"):
        list_pictures(tmp_path)


# metadata


def csv(folder, text, encoding="utf-8"):
    (folder / "metadata.csv").write_text(text, encoding=encoding)
    return folder


def jsonl(folder, text):
    (folder / "metadata.jsonl").write_text(text, encoding="utf-8")
    return folder


def test_without_metadata_there_is_none(tmp_path):
    assert read_metadata(tmp_path) is None


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig"])
def test_csv_rows_are_read_with_or_without_a_byte_order_mark(tmp_path, encoding):
    csv(tmp_path, 'file_name,kind,said\n猫.png,cat,"mi, au"\nsub/b.png,dog,\n', encoding)
    assert read_metadata(tmp_path) == [
        ("猫.png", {"file_name": "猫.png", "kind": "cat", "said": "mi, au"}),
        ("sub/b.png", {"file_name": "sub/b.png", "kind": "dog", "said": ""}),
    ]


def test_jsonl_rows_are_read_and_empty_lines_skipped(tmp_path):
    jsonl(tmp_path, '\ufeff{"file_name": "a.png", "age": 3}\n\n{"file_name": "b.png", "age": null}\n')
    assert [row["age"] for _, row in read_metadata(tmp_path)] == [3, None]


def test_the_metadata_decide_which_pictures_there_are_and_in_which_order(tmp_path):
    save_many(tmp_path, ["a.png", "b.png", "sub/c.png"])
    csv(tmp_path, "file_name,kind\nsub/c.png,x\na.png,y\n./b.png,y\nsub\\c.png,z\n")
    pictures, others = list_pictures(tmp_path)
    assert [picture.name for picture in pictures] == ["sub/c.png", "a.png", "b.png", "sub/c.png"]
    assert [picture.row["kind"] for picture in pictures] == ["x", "y", "y", "z"]
    assert others == 0


@pytest.mark.parametrize(
    "name",
    ["/etc/x.png", "../x.png", "a/../../x.png", "..", "C:\\x.png", "c:x.png", "\\\\server\\share\\x.png", "..\\x.png"],
)
def test_a_name_that_leads_out_of_the_folder_is_refused_with_its_line(tmp_path, name):
    csv(tmp_path, f"file_name\ngood.png\n{name}\n")
    with pytest.raises(DataError, match=r"metadata\.csv, line 3: .*leads out of the folder"):
        read_metadata(tmp_path)


@pytest.mark.parametrize("name", ["12:30.png", "a..b.png", "...png", "a b/ü.png", "."])
def test_odd_names_inside_the_folder_are_allowed(tmp_path, name):
    assert read_metadata(csv(tmp_path, f"file_name\n{name}\n"))[0][0] == name


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("name,kind\na.png,x\n", r"line 2: no 'file_name' \(found: name, kind\); each row needs one"),
        ("file_name;kind\na.png;x\n", r"found: file_name;kind"),
        ("file_name,kind\na.png,x\n,y\n", "line 3: no 'file_name'"),
        (
            'file_name,said\na.png,"two\nlines"\nb.png,one, two\n',
            "line 4: more values than the header has columns; put quotes",
        ),
        ("", "lists no pictures"),
        ("file_name,kind\n", "lists no pictures"),
    ],
)
def test_csv_that_cannot_be_right_is_refused_with_its_line(tmp_path, text, said):
    with pytest.raises(DataError, match=said):
        read_metadata(csv(tmp_path, text))


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ('{"file_name": "a.png"}\n{"name": "b.png"}\n', r"line 2: no 'file_name' \(found: name\)"),
        ('{"file_name": "a.png"}\n{"file_name": 7}\n', "line 2: no 'file_name'"),
        ('["a.png"]\n', r'line 1: no \'file_name\' \(found: \["a.png"\]\)'),
        ('{"file_name": "a.png"', "jsonl, line 1: Expecting"),
        ("\n", "lists no pictures"),
    ],
)
def test_jsonl_that_cannot_be_right_is_refused_with_its_line(tmp_path, text, said):
    with pytest.raises(DataError, match=said):
        read_metadata(jsonl(tmp_path, text))


def test_metadata_in_another_encoding_are_refused(tmp_path):
    csv(tmp_path, "file_name\ngrün.png\n", "latin-1")
    with pytest.raises(DataError, match=r"cannot read .*metadata\.csv"):
        read_metadata(tmp_path)


# arrays

GREY = noise(9, 7, 5)[None].transpose(3, 1, 2, 0)  # (5, 9, 7, 1)
COLOUR = np.stack([noise(9, 7, 3, seed) for seed in range(5)])  # (5, 9, 7, 3)


@pytest.mark.parametrize("ending", ["npy", "npz", "NPY", "NPZ"])
@pytest.mark.parametrize(
    ("stored", "wanted"),
    [
        (GREY[..., 0], GREY),
        (GREY, GREY),
        (GREY.transpose(0, 3, 1, 2), GREY),
        (COLOUR, COLOUR),
        (COLOUR.transpose(0, 3, 1, 2), COLOUR),
        (COLOUR[..., [0, 1, 2, 0]], COLOUR[..., [0, 1, 2, 0]]),
        (COLOUR[..., [0, 1, 2, 0]].transpose(0, 3, 1, 2), COLOUR[..., [0, 1, 2, 0]]),
        (COLOUR[..., :2], COLOUR[..., :2]),
        (np.asfortranarray(COLOUR), COLOUR),
        (COLOUR[:1], COLOUR[:1]),
    ],
)
def test_arrays_are_read_in_each_order_of_their_axes(tmp_path, ending, stored, wanted):
    path = tmp_path / f"x.{ending}"
    with path.open("wb") as stream:
        np.save(stream, stored) if ending.lower() == "npy" else np.savez(stream, images=stored)
    pictures, labels, _ = read_array(path)
    np.testing.assert_array_equal(pictures, wanted)
    assert pictures.dtype == np.uint8
    assert labels is None


@pytest.mark.parametrize(
    ("stored", "wanted"),
    [
        (np.arange(256, dtype=np.uint16) * 257, np.arange(256)),
        ((np.arange(256) * 257).astype(">u2"), np.arange(256)),
        (np.array([0, 128, 129, 65535 - 128, 65535], np.uint16), [0, 0, 1, 255, 255]),
        (np.array([True, False]), [255, 0]),
        (np.array([0.0, 0.5, 1.0]), [0, 128, 255]),
        (np.array([0.0, 0.00195, 0.00197], np.float32), [0, 0, 1]),  # half a level is 0.00196
        (np.arange(256, dtype=np.float32) / 255, np.arange(256)),
        (np.arange(256, dtype=np.float16) / np.float16(255), np.arange(256)),
        (np.arange(256) / 127.5 - 1, np.arange(256)),
        (np.array([-1.0, 0.0, 1.0 + 1e-9]), [0, 128, 255]),
        (np.arange(256, dtype=np.int64), np.arange(256)),
        (np.arange(256, dtype=np.uint32), np.arange(256)),
        (np.zeros(3), [0, 0, 0]),
    ],
)
def test_values_of_each_type_become_levels(stored, wanted):
    levels = to_uint8_values(stored.reshape(1, -1, 1, 1), "x")
    assert levels.dtype == np.uint8
    np.testing.assert_array_equal(levels.ravel(), wanted)


@pytest.mark.parametrize(
    ("values", "said"),
    [
        (np.array([0.0, 255.0]), "float64 from 0 to 255"),
        (np.array([-3.0, 3.0], np.float32), "float32 from -3 to 3"),
        (np.array([0.0, np.nan]), "nan"),
        (np.array([-np.inf, 0.0]), "-inf"),
        (np.array([-0.01, 1.0]), "from -0.01 to 1"),  # neither [0, 1] nor [-1, 1]
        (np.array([-1, 255]), "int64 from -1 to 255"),
        (np.array([0, 256], np.uint32), "uint32 from 0 to 256"),
        (np.array([0, 255], np.uint16), "uint16 from 0 to 255"),  # divided by 257 they would be black
        (np.array([1j, 0]), "complex128"),
        (np.array(["a", "b"]), "<U1"),
        (np.array([b"a"]), "S1"),
        (np.zeros(2, "M8[s]"), "datetime64"),
        (np.zeros(2, [("r", "u1"), ("g", "u1")]), "'r', 'u1'"),
    ],
)
def test_values_of_an_unclear_range_or_type_are_refused(values, said):
    with pytest.raises(DataError, match=rf"^here: values of type .*{said}.*; expected uint8"):
        to_uint8_values(values.reshape(1, -1, 1, 1), "here")


@pytest.mark.parametrize("shape", [(5,), (5, 4), (0, 8, 8), (2, 0, 8), (2, 8, 8, 5), (2, 5, 8, 8), (2, 1, 8, 8, 1), ()])
def test_arrays_of_another_shape_are_refused(tmp_path, shape):
    np.save(tmp_path / "x.npy", np.zeros(shape, np.uint8))
    with pytest.raises(DataError, match=r"\(N, H, W\)|cannot read arrays"):
        read_array(tmp_path / "x.npy")


@pytest.mark.parametrize("names", [("images", "labels"), ("x", "y"), ("faces", "y")])
def test_pictures_and_labels_of_an_archive_are_found_by_name_or_shape(tmp_path, names):
    np.savez_compressed(tmp_path / "x.npz", **{names[0]: COLOUR, names[1]: np.arange(5)})
    pictures, labels, _ = read_array(tmp_path / "x.npz")
    np.testing.assert_array_equal(pictures, COLOUR)
    np.testing.assert_array_equal(labels, np.arange(5))


@pytest.mark.parametrize(
    ("arrays", "said"),
    [
        ({"a": COLOUR, "b": COLOUR}, r"named 'images', got a \(5, 9, 7, 3\), b"),
        ({"labels": np.arange(5)}, r"named 'images', got labels \(5,\)"),
        ({}, "no arrays"),
        ({"images": COLOUR, "labels": np.arange(4)}, r"5 pictures but labels of shape \(4,\); expected \(5,\)"),
        ({"images": COLOUR, "labels": np.eye(5)}, r"labels of shape \(5, 5\)"),
    ],
)
def test_an_archive_that_does_not_say_what_is_what_is_refused(tmp_path, arrays, said):
    np.savez(tmp_path / "x.npz", **arrays)
    with pytest.raises(DataError, match=said):
        read_array(tmp_path / "x.npz")


def test_pickled_objects_are_refused(tmp_path):
    """Reading them would run what the author of the file likes."""
    objects = np.array([{"a": 1}, None], dtype=object)
    np.save(tmp_path / "x.npy", objects, allow_pickle=True)
    np.savez(tmp_path / "x.npz", images=COLOUR[:2], labels=objects)
    for name in ("x.npy", "x.npz"):
        with pytest.raises(DataError, match="cannot read arrays from"):
            read_array(tmp_path / name)


@pytest.mark.parametrize("name", ["x.npy", "x.npz"])
@pytest.mark.parametrize("kept", [0, 3, 0.05, 0.3, 0.6, 0.9, 0.99])
def test_a_truncated_array_file_is_refused(tmp_path, name, kept):
    path = tmp_path / name
    np.save(path, COLOUR) if name.endswith("npy") else np.savez_compressed(path, images=COLOUR)
    raw = path.read_bytes()
    path.write_bytes(raw[: kept if isinstance(kept, int) else int(len(raw) * kept)])
    with pytest.raises(DataError, match="cannot read arrays from"):
        read_array(path)


def test_a_damaged_archive_is_refused_or_read_but_never_crashes(tmp_path):
    """A zip with a wrong byte raises many kinds of error, by the place of the byte."""
    np.savez_compressed(tmp_path / "x.npz", images=COLOUR, labels=np.arange(5))
    raw = (tmp_path / "x.npz").read_bytes()
    random = np.random.default_rng(0)
    refused = 0
    for _ in range(300):
        damaged = bytearray(raw)
        damaged[random.integers(len(raw))] = random.integers(256)
        (tmp_path / "x.npz").write_bytes(damaged)
        try:
            read_array(tmp_path / "x.npz")
        except DataError:
            refused += 1
    assert refused > 100


def test_words_in_an_array_file_are_refused(tmp_path):
    for name in ("x.npy", "x.npz"):
        (tmp_path / name).write_text("these are words")
        with pytest.raises(DataError, match="cannot read arrays from"):
            read_array(tmp_path / name)


def test_an_archive_may_hold_other_files(tmp_path):
    np.savez(tmp_path / "x.npz", images=COLOUR)
    with zipfile.ZipFile(tmp_path / "x.npz", "a") as archive:
        archive.writestr("README.txt", "hello")
    np.testing.assert_array_equal(read_array(tmp_path / "x.npz")[0], COLOUR)


def test_a_large_array_of_bytes_stays_on_the_disk(tmp_path):
    np.save(tmp_path / "x.npy", COLOUR.transpose(0, 3, 1, 2))
    assert isinstance(read_array(tmp_path / "x.npy")[0], np.memmap)


def test_metadata_that_cannot_be_read_names_the_line_or_the_encoding(tmp_path):
    (tmp_path / "metadata.jsonl").write_text('{"file_name": "a.png"}\n\n{bad\n')
    with pytest.raises(DataError, match=r"jsonl, line 3: .*each line is one JSON object"):
        read_metadata(tmp_path)
    (tmp_path / "metadata.csv").write_bytes("file_name,text\na.png,\xe9\n".encode("latin-1"))
    with pytest.raises(DataError, match="save it as UTF-8"):
        read_metadata(tmp_path)
