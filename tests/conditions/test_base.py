"""The contract of every kind: null values, dropping, doors; how parts of several encoders and batches are put together."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from alphabar.conditions.base import Encoder, hide
from alphabar.conditions.kinds import (
    KINDS,
    all_doors,
    build_encoders,
    kind_of,
    load_with_conditions,
    read_settings,
    register,
)
from alphabar.data.readers import Offer, Reader
from alphabar.errors import ConfigurationError, DataError
from alphabar.networks.cond import Cond, Doors, merge, stack
from alphabar.settings.conditions import ConditionSettings
from alphabar.settings.data import DataSettings

from ..data.making import with_metadata
from ..registering import registrations_forgotten
from .making import SHAPE, SIZES, TEXT, assert_same, doors_of, encoder, indices, noise, rows


@dataclass(frozen=True)
class Case:
    name: str
    settings: dict[str, Any]
    inputs: list[Any]
    doors: set[str]
    widths: Doors


MAPS, PICTURES, MASKS = list(indices()), list(noise()), [a * 85 for a in indices()]
CASES = {
    "class": Case("class", {"classes": ["a", "b", "c"]}, ["c", "a", "b"], {"vector"}, Doors()),
    "text": Case("text", TEXT, ["a red circle", "猫", "left of a blue square"], {"vector", "tokens"}, Doors(tokens=True)),
    "map": Case("map", {"classes": list("abcd")}, MAPS, {"modulation"}, Doors(modulation=4)),
    "map beside the input": Case("map", {"classes": list("abcd"), "door": "concat"}, MAPS, {"concat"}, Doors(concat=4)),
    "map with instances": Case(
        "map", {"classes": list("abcd"), "instances": "i"}, list(zip(MAPS, MAPS, strict=True)), {"modulation"}, Doors(modulation=5)
    ),
    "pair": Case("image", {"channels": 3}, PICTURES, {"concat"}, Doors(concat=4)),
    "grey pair": Case("image", {"channels": 1}, PICTURES, {"concat"}, Doors(concat=2)),
    "super-resolution": Case("image", {"task": "super-resolution", "scale": 2}, PICTURES, {"concat", "vector"}, Doors(concat=4)),
    "without augmentation": Case(
        "image", {"task": "super-resolution", "scale": 2, "augmentation": 0}, PICTURES, {"concat"}, Doors(concat=4)
    ),
    "colorize": Case("image", {"task": "colorize"}, PICTURES, {"concat"}, Doors(concat=2)),
    "inpaint": Case("image", {"task": "inpaint"}, list(zip(PICTURES, MASKS, strict=True)), {"concat"}, Doors(concat=4)),
    "edges": Case("image", {"task": "edges"}, PICTURES, {"concat"}, Doors(concat=2)),
}  # fmt: skip


@pytest.fixture(params=CASES, ids=lambda name: name.replace(" ", "-"))
def case(request) -> Case:
    return CASES[request.param]


def null_and_given(case: Case) -> tuple[Encoder, np.ndarray]:
    built = encoder(case.name, **case.settings)
    return built, built.read(case.inputs, [])


def test_not_given_is_all_dropped_is_all_null(case):
    built, values = null_and_given(case)
    nothing = built(None, 3)
    assert_same(built(values, 3, torch.ones(3, dtype=torch.bool)), nothing)
    assert_same(built(built.read([None] * 3, []), 3), nothing)


def test_dropping_hides_the_marked_and_leaves_the_others_alone(case):
    built, values = null_and_given(case)
    given, dropped = built(values, 3), built(values, 3, torch.tensor([False, True, False]))
    assert_same(rows(dropped, [0, 2]), rows(given, [0, 2]))
    assert_same(rows(dropped, [1]), built(None, 1), 1e-5)  # a batch of another size may round differently
    with pytest.raises(AssertionError):
        assert_same(rows(given, [1]), built(None, 1), 1e-5)
    assert_same(built(values, 3, torch.zeros(3, dtype=torch.bool)), given)


def test_null_and_given_items_mix_in_one_request(case):
    built, _ = null_and_given(case)
    mixed = built(built.read([case.inputs[0], None, case.inputs[2]], []), 3)
    given = built(built.read(case.inputs, []), 3)
    assert_same(rows(mixed, [0, 2]), rows(given, [0, 2]), 1e-5)  # a batch of other lengths may round differently
    assert_same(rows(mixed, [1]), built(None, 1), 1e-5)


def test_each_kind_uses_its_doors_in_their_shapes(case):
    built, values = null_and_given(case)
    settings = read_settings(case.name, case.settings)
    assert KINDS[case.name].encoder.doors(settings, SHAPE) == case.widths
    for cond in (built(values, 3), built(None, 3)):
        assert doors_of(cond) == case.doors
        for name in case.doors - {"tokens"}:
            expected = {
                "vector": (16,),
                "modulation": (case.widths.modulation, 8, 8),
                "concat": (case.widths.concat, 8, 8),
            }
            assert getattr(cond, name).shape == (3, *expected[name])
            assert getattr(cond, name).dtype == torch.float32
        if cond.tokens is not None:
            assert cond.tokens.shape == (*cond.token_mask.shape, 12)
            assert cond.token_mask.dtype == torch.bool
            assert cond.token_mask.any(1).all()  # attention to nothing at all would be not a number


def test_values_show_as_pictures_or_words(case):
    built, values = null_and_given(case)
    if built.derived:
        values = built.derive(torch.zeros(3, *SHAPE), [(0, i) for i in range(3)])
    drawn, words = built.show(values)
    assert (drawn is None) != (words is None)
    if drawn is not None:
        assert drawn.shape == (3, 8, 8, 3)
        assert drawn.dtype == np.uint8
    else:
        assert words == case.inputs


def test_the_encoders_of_a_model_are_one_module_and_take_null_for_what_is_not_given():
    torch.manual_seed(0)
    encoders = build_encoders(
        {"class": {"classes": ["a", "b"]}, "text": TEXT, "map": {"classes": ["x"]}, "image": {}}, SIZES
    )
    assert [name for name, _ in encoders.items()] == ["class", "text", "map", "image"]
    assert {name.split(".")[1] for name, _ in encoders.named_parameters()} == {"class", "text"}  # the others have none
    nn.init.ones_(encoders["text"].null_vector)  # 0 at the start, which a sum would not show
    labels = torch.tensor([0, 1])
    together = encoders({"class": labels}, 2)
    apart = [encoders[name](labels if name == "class" else None, 2) for name, _ in encoders.items()]
    torch.testing.assert_close(together.vector, apart[0].vector + apart[1].vector)
    assert_same(Cond(None, together.tokens, together.token_mask), Cond(None, apart[1].tokens, apart[1].token_mask))
    assert together.concat.shape == (2, 4, 8, 8)
    assert together.modulation.shape == (2, 1, 8, 8)
    drop = {"class": torch.tensor([True, True])}
    assert_same(encoders({"class": labels}, 2, drop), encoders({}, 2))
    with pytest.raises(
        ConfigurationError, match=r"unknown condition 'txt'; did you mean 'text'\? known: class, image, map, text"
    ):
        encoders({"txt": ["x"]}, 1)


def test_merging_adds_vectors_and_puts_all_else_side_by_side():
    one = Cond(
        torch.ones(2, 3), torch.zeros(2, 4, 5), torch.ones(2, 4, dtype=torch.bool), None, torch.zeros(2, 1, 8, 8)
    )
    two = Cond(
        torch.ones(2, 3) * 2,
        torch.ones(2, 3, 5),
        torch.zeros(2, 3, dtype=torch.bool),
        torch.ones(2, 2, 8, 8),
        torch.ones(2, 2, 8, 8),
    )
    merged = merge([one, Cond(), two])
    assert (merged.vector == 3).all()
    assert merged.tokens.shape == (2, 7, 5)
    assert merged.token_mask.tolist() == [[True] * 4 + [False] * 3] * 2
    assert (merged.tokens[:, 4:] == 1).all()
    assert torch.equal(merged.modulation, two.modulation)
    assert merged.concat.shape == (2, 3, 8, 8)
    assert (merged.concat[:, 1:] == 1).all()
    assert merge([]) == Cond()


def test_stacking_pads_tokens_and_masks_the_padding():
    short = Cond(torch.zeros(2, 3), torch.ones(2, 1, 5), torch.ones(2, 1, dtype=torch.bool))
    long = Cond(torch.ones(1, 3), torch.ones(1, 4, 5), torch.tensor([[True, True, True, False]]))
    stacked = stack([short, long])
    assert stacked.vector[:, 0].tolist() == [0, 0, 1]
    assert stacked.tokens.shape == (3, 4, 5)
    assert stacked.token_mask.tolist() == [[True, False, False, False]] * 2 + [[True, True, True, False]]
    assert torch.equal(stacked.tokens[:2, :1], short.tokens)
    assert stacked.modulation is stacked.concat is None
    assert stack([Cond(), Cond()]) == Cond()


def test_the_doors_of_several_conditions_add_up():
    conditions = {
        "text": TEXT,
        "map": {"classes": list("abc")},
        "depth": {"kind": "image", "channels": 1},
        "image": {"task": "inpaint"},
    }
    assert all_doors(conditions, SHAPE) == Doors(concat=2 + 4, modulation=3, tokens=True)
    assert all_doors({}, SHAPE) == Doors()


def test_hiding_takes_a_number_or_a_tensor_of_one_item():
    x, drop = torch.ones(2, 3), torch.tensor([True, False])
    assert hide(x, drop, torch.tensor([1.0, 2.0, 3.0])).tolist() == [[1, 2, 3], [1, 1, 1]]
    assert hide(torch.tensor([4, 5]), drop, 9).tolist() == [9, 5]
    assert hide(x, None) is x


def test_an_unknown_kind_or_setting_names_the_nearest_and_the_condition():
    with pytest.raises(ConfigurationError, match=r"condition 'imge' has the unknown kind 'imge'; did you mean 'image'"):
        kind_of("imge", {})
    with pytest.raises(
        ConfigurationError, match=r"conditions\.depth: unknown key 'tsk' in ImageSettings; did you mean 'task'"
    ):
        read_settings("depth", {"kind": "image", "tsk": "edges"})
    with pytest.raises(ConfigurationError, match=r"conditions\.class: .*dropout"):
        read_settings("class", {"dropout": 1.0})


class AngleReader(Reader):
    """Reads the column of the condition's name."""

    def offer(self, name, settings, catalogue):
        if name not in catalogue.columns():
            return None
        return Offer(f"column {name!r}", lambda file, size: angle(file.row[name]), settings)


class Angle(Encoder):
    """A continuous attribute, as a user would add one."""

    def __init__(self, settings: ConditionSettings, sizes: Any) -> None:
        super().__init__(settings)
        self.to_vector = nn.Linear(2, sizes.vector_dim)

    def read(self, inputs, notes):
        return np.stack([np.zeros(2, np.float32) if text is None else angle(text) for text in inputs])

    def forward(self, values, n, drop=None):
        values = torch.zeros(n, 2) if values is None else torch.as_tensor(values)
        return Cond(vector=self.to_vector(hide(values, drop)))


def angle(text: str) -> np.ndarray:
    if not text:
        raise DataError("has no angle")
    return np.array([np.cos(np.deg2rad(float(text))), np.sin(np.deg2rad(float(text)))], np.float32)


@pytest.fixture
def _angle_kind():
    with registrations_forgotten():
        register("angle", AngleReader(), Angle)
        yield


@pytest.mark.usefixtures("_angle_kind")
def test_a_kind_of_ones_own_is_read_from_a_column(tmp_path):
    with_metadata(tmp_path, "file_name,angle\n" + "".join(f"{k}.png,{30 * k if k != 5 else ''}\n" for k in range(12)))
    loaded = load_with_conditions(DataSettings(source=str(tmp_path), conditions=["angle"], held_out=0))
    assert loaded.report.skipped == [("5.png", "has no angle")]
    expected = np.stack([angle(str(30 * k)) for k in range(12) if k != 5])
    assert loaded.train.values["angle"].dtype == np.float32
    np.testing.assert_array_equal(loaded.train.values["angle"], expected)
    built = build_encoders(loaded.conditions, SIZES)
    assert_same(
        built({"angle": loaded.train.values["angle"][:1]}, 1), built({"angle": built["angle"].read(["0"], [])}, 1)
    )
