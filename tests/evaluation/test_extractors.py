"""Extractors of one's own, and features that are kept."""

from __future__ import annotations

import logging
import threading
import zipfile

import numpy as np
import pytest
import torch
from torch import nn

from alphabar.errors import ConfigurationError
from alphabar.evaluation import extractors
from alphabar.evaluation.extractors import ScriptExtractor, features, load_extractor, pick_extractor


class Means(nn.Module):
    """The mean of each channel, and its square."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return torch.cat([x.mean((2, 3)), x.mean((2, 3)).square()], 1)


def pictures(n: int = 6, channels: int = 3) -> np.ndarray:
    return np.random.default_rng(0).integers(0, 256, (n, 8, 8, channels), dtype=np.uint8)


@pytest.fixture
def script(tmp_path):
    torch.jit.script(Means()).save(str(tmp_path / "means.pt"))
    return tmp_path / "means.pt"


def test_torchscript_and_exported_files(script, tmp_path):
    batch = torch.export.Dim("n", min=1, max=1000)
    program = torch.export.export(Means(), (torch.zeros(2, 3, 8, 8),), dynamic_shapes=({0: batch},))
    torch.export.save(program, tmp_path / "means.pt2")
    expected = pictures().mean((1, 2)) / 127.5 - 1
    for path in (script, tmp_path / "means.pt2"):
        found = features(load_extractor(path), pictures())
        np.testing.assert_allclose(found[:, :3], expected, atol=1e-5)
        assert found.shape == (6, 6)


class Heard(logging.Handler):
    """The messages that a logger hands on."""

    def __init__(self) -> None:
        super().__init__()
        self.messages: list[str] = []

    def emit(self, record: logging.LogRecord) -> None:
        self.messages.append(record.getMessage())


@pytest.fixture
def heard(monkeypatch) -> Heard:
    handler = Heard()
    for name in ("torch.export", "elsewhere"):
        monkeypatch.setattr(logging.getLogger(name), "handlers", [handler])
        monkeypatch.setattr(logging.getLogger(name), "propagate", False)
    return handler


def test_a_foreign_file_is_an_error_without_a_trace_in_the_log(heard, tmp_path):
    with zipfile.ZipFile(tmp_path / "foreign.pt2", "w") as archive:
        archive.writestr("x/version", "9")
    with pytest.raises(ConfigurationError, match=r"foreign\.pt2 is no TorchScript or torch\.export file"):
        load_extractor(tmp_path / "foreign.pt2")
    assert not heard.messages


def test_while_a_file_is_loaded_all_else_is_logged_as_ever(heard, tmp_path, monkeypatch):
    (tmp_path / "model.pt2").touch()

    def loading(path):
        logging.getLogger("torch.export").warning("of the file")
        logging.getLogger("elsewhere").warning("of another logger")
        thread = threading.Thread(target=lambda: logging.getLogger("torch.export").warning("of another thread"))
        thread.start()
        thread.join()
        raise ValueError

    monkeypatch.setattr(torch.export, "load", loading)
    with pytest.raises(ConfigurationError):
        load_extractor(tmp_path / "model.pt2")
    logging.getLogger("torch.export").warning("afterwards")
    assert heard.messages == ["of another logger", "of another thread", "afterwards"]


@pytest.mark.parametrize("damage", ["text", "PK..", "words", "infinite", "absent folder"])
def test_a_damaged_cache_or_one_that_cannot_be_written_is_no_reason_to_stop(damage, script, tmp_path, monkeypatch):
    monkeypatch.setenv("ALPHABAR_CACHE", str(tmp_path / "cache"))
    expected = features(load_extractor(script), pictures(), keep=True)
    (file,) = (tmp_path / "cache" / "features").iterdir()
    match damage:
        case "words":
            np.save(file, np.array(["a"] * 6))
        case "infinite":
            np.save(file, np.full(expected.shape, np.inf, np.float32))
        case "absent folder":
            (tmp_path / "file").write_text("")
            monkeypatch.setenv("ALPHABAR_CACHE", str(tmp_path / "file"))
        case _:
            file.write_text(damage)
    assert torch.equal(features(load_extractor(script), pictures(), keep=True), expected)


@pytest.mark.filterwarnings("error::UserWarning")
def test_what_is_no_extractor_says_so(script, tmp_path):
    (tmp_path / "text.pt").write_text("hello")
    (tmp_path / "text.pt2").write_text("hello")
    for name in ("text.pt", "text.pt2"):
        with pytest.raises(ConfigurationError, match=r"no TorchScript or torch\.export file"):
            load_extractor(tmp_path / name)
    with pytest.raises(ConfigurationError, match="does not exist; make one: alphabar extractor"):
        load_extractor(tmp_path / "nowhere.pt")
    with pytest.raises(ConfigurationError, match="name what sees the pictures"):
        pick_extractor(None, None)
    with pytest.raises(ConfigurationError, match="not both"):
        pick_extractor(script, script)
    torch.jit.script(nn.Linear(3, 3)).save(str(tmp_path / "linear.pt"))
    with pytest.raises(ConfigurationError, match="does not take pictures of shape"):
        load_extractor(tmp_path / "linear.pt")(pictures())
    with pytest.raises(ConfigurationError, match="a row a picture"):
        ScriptExtractor(lambda x: x.sum(), "sum", "0")(pictures())
    with pytest.raises(ConfigurationError, match="a row a picture"):
        ScriptExtractor(lambda x: x.flatten(1).argmax(1), "a number each", "0")(pictures())


def test_features_of_data_are_computed_once(monkeypatch, tmp_path):
    monkeypatch.setenv("ALPHABAR_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(extractors, "BATCH", 4)
    calls: list[int] = []

    def count(x: torch.Tensor) -> torch.Tensor:
        calls.append(len(x))
        return Means()(x)

    extractor = ScriptExtractor(count, "means", "abc")
    first = features(extractor, pictures(), keep=True)
    assert calls == [4, 2]
    assert torch.equal(features(extractor, pictures(), keep=True), first)
    assert calls == [4, 2]
    features(extractor, pictures()[:, ::-1], keep=True)  # other data
    features(ScriptExtractor(count, "means", "abd"), pictures(), keep=True)  # another extractor
    assert len(calls) == 6
    for path in (tmp_path / "cache").rglob("*.npy"):
        path.write_bytes(path.read_bytes()[:50])  # cut off
    assert torch.equal(features(extractor, pictures(), keep=True), first)
    assert len(calls) == 8


@pytest.mark.parametrize("name", ["x.pt", "x.pt2"])
def test_of_a_damaged_file_one_line_is_said(name, tmp_path, capfd):
    (tmp_path / name).write_bytes(bytes(range(200)))
    with pytest.raises(ConfigurationError) as caught:
        load_extractor(tmp_path / name)
    said = str(caught.value)
    assert len(said.splitlines()) == 1
    assert "no TorchScript or torch.export file" in said
    assert "internal miniz error" not in said
    assert capfd.readouterr() == ("", "")
