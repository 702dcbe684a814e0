"""The network of FID on random weights: its shapes and names, its resizing, and what it refuses."""

from __future__ import annotations

import hashlib
import os
from pathlib import Path

import numpy as np
import pytest
import torch

from alphabar.errors import ConfigurationError
from alphabar.evaluation import inception
from alphabar.evaluation.inception import Inception, load_inception, resize_bilinear


@pytest.fixture(scope="module")
def weights() -> dict[str, torch.Tensor]:
    torch.manual_seed(0)
    values = Inception().half().state_dict()
    return {name: value for name, value in values.items() if not name.endswith("num_batches_tracked")}


@pytest.fixture(scope="module")
def saved(weights, tmp_path_factory) -> Path:
    """A file whose name tells its hash, as the official one's does."""
    folder = tmp_path_factory.mktemp("inception")
    torch.save(weights, folder / "x.pth")
    digest = hashlib.sha256((folder / "x.pth").read_bytes()).hexdigest()
    return (folder / "x.pth").rename(folder / f"weights-inception-2015-12-05-{digest[:8]}.pth")


def test_the_network_has_the_published_size_and_names(weights):
    """Szegedy et al. 2016 give under 25 million parameters; with 1008 classes and without the auxiliary head it is 23,850,960."""
    with torch.device("meta"):
        network = Inception()
    assert sum(p.numel() for p in network.parameters()) == 23_850_960
    for name, shape in {
        "Conv2d_1a_3x3.conv.weight": (32, 3, 3, 3),
        "Mixed_5b.branch5x5_2.bn.running_var": (64,),
        "Mixed_6c.branch7x7dbl_5.conv.weight": (192, 160, 1, 7),
        "Mixed_7a.branch7x7x3_4.conv.weight": (192, 192, 3, 3),
        "Mixed_7c.branch3x3dbl_3b.conv.weight": (384, 384, 3, 1),
        "fc.bias": (1008,),
    }.items():
        assert tuple(weights[name].shape) == shape
    assert len(weights) == 94 * 5 + 2  # 94 convolutions with their normalisation, and the last layer


def test_features_of_grey_and_colour_pictures(saved):
    extractor = load_inception(saved)
    grey = np.random.default_rng(0).integers(0, 256, (2, 12, 10, 1), dtype=np.uint8)
    found = extractor(grey)
    assert found.shape == (2, 2048)
    assert found.isfinite().all()
    assert torch.equal(found, extractor(grey.repeat(3, axis=3)))
    assert not extractor.official  # random weights are not the official ones, whatever their name
    assert "not the official ones" in extractor.name
    with pytest.raises(ConfigurationError, match="4 channels"):
        extractor(grey.repeat(4, axis=3))


def test_resizing_looks_at_i_times_the_factor():
    x = torch.tensor([[0.0, 8, 4, 6]]).reshape(1, 1, 1, 4).expand(1, 1, 3, 4)
    found = resize_bilinear(x, 8)[0, 0, 0]
    assert found.tolist() == [0, 4, 8, 6, 4, 5, 6, 6]
    down = resize_bilinear(torch.arange(9.0).reshape(1, 1, 1, 9).expand(1, 1, 9, 9), 6)[0, 0, 0]
    torch.testing.assert_close(down, torch.arange(6) * 1.5)
    same = torch.rand(1, 3, 7, 7)
    torch.testing.assert_close(resize_bilinear(same, 7), same)


def test_pooling_leaves_the_padding_out():
    ones = torch.ones(1, 1, 4, 4)
    assert torch.equal(inception.average(ones), ones)


def test_a_changed_file_is_refused(saved, tmp_path):
    path = tmp_path / "weights-inception-2015-12-05-6726825d.pth"
    path.write_bytes(saved.read_bytes())
    with pytest.raises(ConfigurationError, match="should have a SHA-256 that begins with 6726825d"):
        load_inception(path)


@pytest.mark.parametrize("change", ["missing", "unknown", "shape"])
def test_another_networks_weights_are_refused(change, weights, tmp_path):
    wrong = dict(weights)
    match change:
        case "missing":
            del wrong["Mixed_6a.branch3x3.bn.bias"]
        case "unknown":
            wrong["AuxLogits.fc.weight"] = torch.zeros(1)
        case "shape":
            wrong["fc.bias"] = torch.zeros(1000)
    torch.save(wrong, tmp_path / "x.pth")
    with pytest.raises(ConfigurationError, match=r"another network's.*1 in all"):
        load_inception(tmp_path / "x.pth")


class Runs:
    """A pickle that would run code."""

    def __reduce__(self):
        return os.system, ("touch harm",)


def test_nothing_is_unpickled(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    torch.save({"fc.bias": Runs()}, "bad.pth")
    with pytest.raises(ConfigurationError, match="not a file of weights"):
        load_inception(Path("bad.pth"))
    assert not Path("harm").exists()
    Path("text.pth").write_text("hello")
    for name in ("text.pth", "nowhere.pth"):
        with pytest.raises(ConfigurationError, match="--inception"):
            load_inception(Path(name))
    torch.save([1, 2], "list.pth")
    with pytest.raises(ConfigurationError, match="tensors by name"):
        load_inception(Path("list.pth"))
