"""Captions: tokens for cross-attention, and their mean as a vector beside the time embedding.

The default encoder spells each word from its bytes (UTF-8), so that any language works without a vocabulary or a download, and is
trained along.
A pretrained one from a local folder stays frozen: the features of a caption are kept as far as there is memory for them.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Mapping, Sequence
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ..data.readers import Offer, Reader
from ..data.sources import CAPTION_SUFFIX, Catalogue, PictureFile
from ..errors import ConfigurationError, DataError
from ..networks.cond import Cond, Doors
from ..networks.layers import sinusoidal_embedding
from ..settings.conditions import TextSettings
from .base import Encoder, Sizes, hide
from .feature_cache import FeatureCache

PADDING = 256
WORD = re.compile(r"[^\W\u2e80-\U0010ffff]{1,16}|\S")
LONGEST = 512  # tokens of a caption for a pretrained model that has no limit of its own, or a higher one
TEXT_PARTS = {
    "clip": "CLIPTextModel", "clip_text_model": "CLIPTextModel",
    "t5": "T5EncoderModel", "mt5": "MT5EncoderModel", "umt5": "UMT5EncoderModel",
}  # fmt: skip
"""By the model_type in config.json, the part of a pretrained model that encodes text; all others do so as a whole."""


class TextReader(Reader):
    """Captions in a column of the metadata, or in name.txt beside name.jpg."""

    settings = TextSettings
    needs = "a name.txt beside each name.jpg, or a column 'text' in metadata.csv, .jsonl or .parquet"
    mirrors = False  # a caption may name left and right

    def resolve(self, values: Mapping[str, Any]) -> Mapping[str, Any]:
        """With the hash of a pretrained model's weights, which must be those that a run was trained with."""
        if not isinstance(values.get("pretrained"), str):
            return values
        return {**values, "pretrained_hash": check_pretrained(values["pretrained"], values.get("pretrained_hash"))}

    def offer(self, name: str, settings: TextSettings, catalogue: Catalogue) -> Offer | None:
        """The caption column, or the .txt files beside the pictures."""
        column = settings.column
        if column in catalogue.columns():
            return Offer(
                f"column {column!r}",
                lambda file, size: caption_of_row(file, column),
                settings,
                lambda file: bool(file.row.get(column)),
            )
        in_files = catalogue.folder is not None and not catalogue.rows
        if in_files and any(caption_path(item).is_file() for item in catalogue.files):
            return Offer(
                "a .txt file beside each",
                lambda file, size: read_caption(caption_path(file)),
                settings,
                lambda file: caption_path(file).is_file(),
            )
        return None


class TextEncoder(Encoder):
    """Captions (n,) -> tokens (N, L, E), token_mask (N, L), vector (N, D). The null value, one token and one vector, is learned;
    an empty caption is null."""

    def __init__(self, settings: TextSettings, sizes: Sizes) -> None:
        super().__init__(settings)
        self.length = settings.length
        self.source: WordFeatures | FrozenFeatures = (
            WordFeatures(settings) if settings.pretrained is None else FrozenFeatures(settings)
        )
        self.to_tokens = nn.Linear(self.source.width, sizes.token_dim)
        self.norm = nn.LayerNorm(sizes.token_dim)
        self.to_vector = nn.Linear(sizes.token_dim, sizes.vector_dim)
        self.null_token = nn.Parameter(torch.randn(sizes.token_dim))
        self.null_vector = nn.Parameter(torch.zeros(sizes.vector_dim))

    @classmethod
    def doors(cls, settings: TextSettings, shape: Sequence[int]) -> Doors:
        """Tokens."""
        return Doors(tokens=True)

    def read(self, inputs: Sequence[Any], notes: list[str]) -> np.ndarray:
        """Strings, None and "" being null."""
        for text in inputs:
            if text is not None and not isinstance(text, str):
                raise ConfigurationError(f"a prompt must be text, got {type(text).__name__}")
        texts = [(text or "").strip() for text in inputs]  # as captions are when they are read from data
        if isinstance(self.source, WordFeatures) and any(len(words_of(text)) > self.length for text in texts):
            notes.append(f"text longer than {self.length} words is cut, as in training")
        return np.array(texts, object)

    def forward(self, values: Any, n: int, drop: Tensor | None = None) -> Cond:
        """values (n,) strings, or None for all null."""
        texts = [""] * n if values is None else [str(text) for text in values]
        null = torch.tensor([not text for text in texts])
        null = null if drop is None else null | drop.cpu()
        features, mask = self.source(texts, self.to_tokens.weight.device)
        tokens = self.norm(self.to_tokens(features))
        count = mask.sum(1, keepdim=True).clamp(min=1)
        vector = self.to_vector((tokens * mask[..., None]).sum(1) / count)
        alone = torch.arange(mask.shape[1], device=mask.device) == 0
        mask = torch.where(null.to(mask.device)[:, None], alone, mask)
        return Cond(
            vector=hide(vector, null, self.null_vector), tokens=hide(tokens, null, self.null_token), token_mask=mask
        )


class WordFeatures(nn.Module):
    """Captions -> features of their words (N, L, width) and a mask (N, L): the bytes of each word through convolutions to one
    vector, then a transformer over the words in their order."""

    def __init__(self, settings: TextSettings) -> None:
        super().__init__()
        self.width, self.length = settings.width, settings.length
        self.embedding = nn.Embedding(PADDING + 1, self.width, padding_idx=PADDING)
        self.spelling = convolutions(self.width, 3, dilations=(1, 1))
        self.norm = nn.LayerNorm(self.width)
        # as large as the words: started small, captions are read as bags of words for thousands of steps. For the same reason the
        # words are told their neighbours before the transformer: "circle above" decides what stands where. The steps of 1, 2 and 4
        # reach 14 words each way, as far as a Chinese clause, each sign of which is a word
        self.positions = nn.Parameter(sinusoidal_embedding(torch.arange(self.length), self.width))
        self.neighbours = convolutions(self.width, 5, dilations=(1, 2, 4))
        layer = nn.TransformerEncoderLayer(
            self.width, max(1, self.width // 32), 2 * self.width, 0.0, "gelu", batch_first=True, norm_first=True
        )
        self.transformer = nn.TransformerEncoder(layer, settings.layers, enable_nested_tensor=False)

    def forward(self, texts: Sequence[str], device: torch.device) -> tuple[Tensor, Tensor]:
        """Features and which of them count; of an empty caption the first counts."""
        captions = [words_of(text)[: self.length] or [""] for text in texts]
        known = {word: i for i, word in enumerate(dict.fromkeys(word for words in captions for word in words))}
        ids = padded([[known[word] for word in words] for words in captions], len(known)).to(device)
        mask = ids != len(known)
        h = self._spell(list(known), device)
        h = torch.cat([h, h.new_zeros(1, self.width)])[ids] + self.positions[: ids.shape[1]]
        h = convolve(self.neighbours, h, mask)
        return self.transformer(h, src_key_padding_mask=~mask) if self.transformer.layers else h, mask

    def _spell(self, words: Sequence[str], device: torch.device) -> Tensor:
        """One vector for each word (n, width), each spelt once however often it stands in the captions."""
        ids = padded([list(utf_8(word)) for word in words], PADDING).to(device)
        return self.norm(convolve(self.spelling, self.embedding(ids), ids != PADDING).sum(1))


def convolutions(width: int, kernel: int, dilations: Sequence[int]) -> nn.ModuleList:
    """The convolutions along a sequence that `convolve` takes, one for each dilation."""
    return nn.ModuleList(
        nn.Conv1d(width, width, kernel, padding=step * (kernel // 2), dilation=step) for step in dilations
    )


def convolve(convs: nn.ModuleList, h: Tensor, mask: Tensor) -> Tensor:
    """h (N, L, width) -> (N, L, width): residual convolutions with SiLU; what the mask (N, L) hides is 0 and changes nothing."""
    h = h * mask[..., None]
    for conv in convs:
        h = (h + F.silu(conv(h.transpose(1, 2)).transpose(1, 2))) * mask[..., None]
    return h


def words_of(text: str) -> list[str]:
    """The words of a text in their order; a sign that is no letter stands alone, and so does each sign of Chinese or Japanese."""
    return WORD.findall(text)


def padded(rows: Sequence[Sequence[int]], padding: int) -> Tensor:
    """Rows of whole numbers (N, L) int64, each filled with `padding` to the longest one."""
    longest = max(1, max(map(len, rows), default=1))
    return torch.tensor([[*row, *[padding] * (longest - len(row))] for row in rows], dtype=torch.int64)


def utf_8(text: str) -> bytes:
    """The bytes of a text; what no text should hold (half a surrogate pair) becomes ?."""
    return text.encode("utf-8", "replace")


class FrozenFeatures(nn.Module):
    """Captions -> the last hidden states (N, L, width) of a pretrained model and a mask (N, L). Nothing of it is trained or saved."""

    def __init__(self, settings: TextSettings) -> None:
        super().__init__()
        self.folder = str(Path(str(settings.pretrained)).expanduser())
        check_pretrained(self.folder, settings.pretrained_hash)
        width = getattr(pretrained_model(self.folder)[1].config, "hidden_size", None)
        if width is None:
            raise ConfigurationError(
                f"{self.folder} is not a text encoder (no hidden_size); give a model such as BERT, MiniLM, CLIP or T5"
            )
        self.width = int(width)

    @torch.no_grad()
    def forward(self, texts: Sequence[str], device: torch.device) -> tuple[Tensor, Tensor]:
        """Features, of each caption those that are kept or computed now, and which of them count."""
        cache = pretrained_model(self.folder)[2]
        by_text = {text: self._features_of(text, cache) for text in sorted(set(texts))}
        features = [by_text[text].float() for text in texts]
        lengths = torch.tensor([len(f) for f in features])
        mask = torch.arange(int(lengths.max())) < lengths[:, None]
        return nn.utils.rnn.pad_sequence(features, batch_first=True).to(device), mask.to(device)

    def _features_of(self, text: str, cache: FeatureCache) -> Tensor:
        features = cache.get(text)
        if features is None:
            features = halved(compute_features(self.folder, text))
            cache.keep(text, features)
        return features


def check_pretrained(folder: str, expected: str | None) -> str | None:
    """The hash of the weights in a folder of the transformers library, or `expected` where there are no weights to hash.

    Raises ConfigurationError if it holds no model, or not the one that is expected.
    """
    path = Path(folder).expanduser()
    if not (path / "config.json").is_file():
        raise ConfigurationError(
            f"pretrained: {folder!r} is not a folder with a model of the transformers library (no config.json)"
        )
    actual = weights_hash(path)
    if None not in (actual, expected) and actual != expected:
        raise ConfigurationError(
            f"pretrained: the model in {folder} has the weights {actual}, this was trained with {expected}; "
            "put that model there, or for a new run set pretrained_hash to null"
        )
    return actual or expected


def weights_hash(folder: Path) -> str | None:
    """Twelve hex digits that name the weights in a folder, None if there are none that would be loaded."""
    whole = folder / "model.safetensors"
    parts = [whole] if whole.is_file() else sorted(folder.glob("model-*.safetensors"))
    try:
        stats = [(part, part.stat()) for part in parts]
        return hash_of_files(tuple((str(p), s.st_size, s.st_mtime_ns) for p, s in stats)) if parts else None
    except OSError as error:
        raise ConfigurationError(f"pretrained: cannot read {error.filename}: {error.strerror}") from None


@lru_cache(maxsize=8)
def hash_of_files(files: tuple[tuple[str, int, int], ...]) -> str:
    """Twelve hex digits of the content of files, which are given with size and time so that a changed file is read anew."""
    digest = hashlib.sha256()
    for path, _, _ in files:
        with open(path, "rb") as stream:
            digest.update(hashlib.file_digest(stream, "sha256").digest())
    return digest.hexdigest()[:12]


@lru_cache(maxsize=2)
def pretrained_model(folder: str) -> tuple[Any, Any, FeatureCache]:
    """Tokenizer, model and the cache of its features, of a local folder. Raises ConfigurationError."""
    try:
        import transformers
    except ImportError:
        raise ConfigurationError("a pretrained text encoder needs transformers: pip install 'alphabar[text]'") from None
    local = {"local_files_only": True, "trust_remote_code": False}
    verbosity = transformers.logging.get_verbosity()
    transformers.logging.set_verbosity_error()  # it would list all weights of CLIP that are not about text
    try:
        tokenizer = transformers.AutoTokenizer.from_pretrained(folder, **local)
        kind = TEXT_PARTS.get(transformers.AutoConfig.from_pretrained(folder, **local).model_type, "AutoModel")
        model, told = getattr(transformers, kind).from_pretrained(
            folder, use_safetensors=True, output_loading_info=True, **local
        )
    except Exception as error:  # transformers and safetensors raise many kinds for damaged folders
        raise ConfigurationError(
            f"cannot load a text model from {folder}: {str(error).splitlines()[0]}; it needs config.json, model.safetensors and its tokenizer"
        ) from None
    finally:
        transformers.logging.set_verbosity(verbosity)
    missing = sorted(name for name in told["missing_keys"] if "pooler" not in name)  # the pooler is not used here
    if missing:
        raise ConfigurationError(
            f"the weights in {folder} lack {missing[0]} of {type(model).__name__}; give a whole model"
        )
    return tokenizer, model.eval().requires_grad_(False), FeatureCache()


@torch.no_grad()
def compute_features(folder: str, text: str) -> Tensor:
    """The features (L, width) of a caption: alone, so that they do not depend on the captions beside it."""
    tokenizer, model, _ = pretrained_model(folder)
    own_limit = getattr(model.config, "max_position_embeddings", None) or LONGEST
    limit = min(int(tokenizer.model_max_length), int(own_limit), LONGEST)
    batch = tokenizer([text], truncation=True, max_length=limit, return_tensors="pt")
    return model(**batch).last_hidden_state[0].float()


def halved(features: Tensor) -> Tensor:
    """Features as float16, which takes half the memory for a relative error of 0.0005; as they are where they exceed its range."""
    half = features.half()
    return half if bool(half.isfinite().all()) else features


def caption_path(file: PictureFile) -> Path:
    """Where the caption of a picture is looked for."""
    return file.path.with_suffix(CAPTION_SUFFIX)


def read_caption(path: Path) -> str:
    """The caption in a text file. Raises DataError if there is none."""
    try:
        text = path.read_text(encoding="utf-8-sig").strip()
    except FileNotFoundError:
        raise DataError(f"has no caption {path.name}") from None
    except (OSError, UnicodeDecodeError) as error:
        raise DataError(f"its caption {path.name} cannot be read: {error}") from None
    if not text:
        raise DataError(f"its caption {path.name} is empty")
    return text


def caption_of_row(file: PictureFile, column: str) -> str:
    """The caption in a row of the metadata. Raises DataError if there is none."""
    value = file.row.get(column)
    if value is None or not str(value).strip():
        raise DataError(f"has no caption in column {column!r}")
    if isinstance(value, bytes):
        value = value.decode("utf-8", "replace")
    if isinstance(value, list | dict | np.ndarray):
        raise DataError(f"has more than one text in column {column!r}; give one caption a picture")
    return str(value).strip()
