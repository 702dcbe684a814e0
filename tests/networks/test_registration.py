"""Plugins that cannot be loaded say why; a registration replaces neither a built-in kind nor the kind of another class."""

from __future__ import annotations

import re
import sys
from functools import partial
from pathlib import Path

import pytest
import torch

import alphabar
from alphabar.conditions import kinds as condition_kinds
from alphabar.conditions.base import Encoder
from alphabar.errors import ConfigurationError
from alphabar.networks import NETWORKS, register
from alphabar.networks.mlp import MLP
from alphabar.settings.networks import NETWORK_SETTINGS, MLPSettings, NetworkSettings

from ..cli.running import run_command_line
from ..registering import registrations_forgotten

TRANSFORMER = Path(__file__).parents[2] / "docs" / "snippets" / "transformer.py"


@pytest.fixture(autouse=True)
def _forgotten():
    with registrations_forgotten():
        yield


@pytest.fixture
def transformer():
    """The plugin as a module."""
    return alphabar.load_plugin(TRANSFORMER)


# --- plugins --------------------------------------------------------------------------------------------------------------------

BAD = {
    "raises.py": ("x = 1\nraise ValueError('no luck')", r"raises.py, line 2 failed: ValueError: no luck"),
    "syntax.py": ("x = 1\n\nx = = 2", r"syntax.py, line 3 failed: SyntaxError"),
    "imports.py": ("import a_module_that_is_not_there", r"imports.py, line 1 failed: ModuleNotFoundError"),
    "exits.py": ("import sys\nsys.exit(0)", r"exits.py, line 2 failed: SystemExit"),
    "text.txt": ("x = 1", r"--plugin takes a Python file that registers something, got .*text.txt"),
    "builtin.py": (
        "from alphabar.networks import register\nfrom alphabar.networks.mlp import MLP\n"
        "from alphabar.settings.networks import MLPSettings\nregister('mlp', MLPSettings, MLP)",
        r"builtin.py, line 4 failed: .*network kind 'mlp' is built in and cannot be replaced by MLP",
    ),
}


@pytest.mark.parametrize("name", BAD)
def test_a_plugin_that_cannot_be_loaded_says_why(name, monkeypatch, capsys, tmp_path):
    content, expected = BAD[name]
    (tmp_path / name).write_text(content)
    arguments = ("train", "digits", "--out", tmp_path / "run", "--plugin", tmp_path / name)
    code, _, text = run_command_line(monkeypatch, capsys, *arguments)
    assert code == 2
    assert re.search(expected, " ".join(text.split())), text
    assert not (tmp_path / "run").exists()
    assert f"alphabar_plugin_{Path(name).stem}" not in sys.modules


def test_a_plugin_that_is_missing_says_so(monkeypatch, capsys, tmp_path):
    for path in (tmp_path / "nowhere.py", tmp_path):
        code, _, text = run_command_line(monkeypatch, capsys, "info", tmp_path, "--plugin", path)
        assert code == 2
        assert "--plugin takes a Python file that registers something, got" in " ".join(text.split())


def test_a_plugin_runs_once():
    first = alphabar.load_plugin(TRANSFORMER)
    assert alphabar.load_plugin(str(TRANSFORMER)) is first
    assert alphabar.load_plugin(TRANSFORMER.parent / ".." / "snippets" / "transformer.py") is first


# --- registration ---------------------------------------------------------------------------------------------------------------


def test_a_built_in_kind_is_not_replaced(transformer):
    before = NETWORKS["mlp"]
    with pytest.raises(
        ConfigurationError, match=r"network kind 'mlp' is built in .* by MLP; register it under another name"
    ):
        register("mlp", MLPSettings, MLP)
    reader = condition_kinds.KINDS["class"].reader
    with pytest.raises(ConfigurationError, match=r"condition kind 'class' is built in .* by LabelEncoder"):
        condition_kinds.register("class", reader, condition_kinds.KINDS["class"].encoder)
    assert NETWORKS["mlp"] is before


def test_a_kind_is_replaced_by_a_class_of_its_name_only(transformer, tmp_path):
    copy = tmp_path / "transformer.py"
    copy.write_text(TRANSFORMER.read_text(encoding="utf-8"), encoding="utf-8")
    again = alphabar.load_plugin(copy)
    assert NETWORKS["transformer"].network is again.Transformer is not transformer.Transformer
    assert NETWORK_SETTINGS["transformer"] is again.TransformerSettings
    other = type("Other", (transformer.Transformer,), {})
    with pytest.raises(
        ConfigurationError, match=r"'transformer' is already registered by the class Transformer .* got Other"
    ):
        register("transformer", transformer.TransformerSettings, other)
    assert NETWORKS["transformer"].network is again.Transformer


def test_a_condition_is_replaced_by_an_encoder_of_its_name_only():
    angle = alphabar.load_plugin(TRANSFORMER.with_name("angle.py"))
    condition_kinds.register("angle", angle.AngleReader(), angle.AngleEncoder)
    other = type("Other", (Encoder,), {})
    with pytest.raises(
        ConfigurationError, match="condition kind 'angle' is already registered by the class AngleEncoder"
    ):
        condition_kinds.register("angle", angle.AngleReader(), other)


def test_classes_that_are_no_network_and_settings_of_another_kind_are_refused(transformer):
    registering = partial(register, "new")
    with pytest.raises(ConfigurationError, match=r"'new' needs a subclass of alphabar.networks.Network, got .*Linear"):
        registering(transformer.TransformerSettings, torch.nn.Linear)
    with pytest.raises(ConfigurationError, match=r"'new' needs settings that subclass NetworkSettings, got .*dict"):
        registering(dict, transformer.Transformer)
    for settings in (transformer.TransformerSettings, NetworkSettings):
        with pytest.raises(ConfigurationError, match=r'write kind: Literal\["new"\] = "new" in it'):
            registering(settings, transformer.Transformer)
    assert "new" not in NETWORKS
