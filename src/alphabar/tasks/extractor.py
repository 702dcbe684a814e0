"""The request of `alphabar extractor`."""

from __future__ import annotations

from pathlib import Path
from typing import ClassVar

from .base import Request, Words
from .fields import argument, option


class ExtractorRequest(Request):
    """A small classifier, trained as the extractor of `alphabar evaluate`."""

    name: ClassVar[str] = "extractor"
    examples: ClassVar[tuple[str, str, str]] = (
        "alphabar extractor fashion-mnist --out fashion.safetensors",
        "alphabar extractor photos --class-from folder --size 32 --out p.safetensors",
        "alphabar extractor photos --pictures 5000 --out p.safetensors",
    )

    data: str = argument("Pictures with classes: a folder, a .npz file, or a built-in set.", metavar="DATA")
    out: Path = option("The .safetensors file to write.", ..., flags="--out -o", metavar="FILE")
    pictures: int | None = option("How many are used; the others stay for comparisons. Default: a third.", ge=2)
    class_from: str = option(
        "folder, label, or a column of the metadata. Default: label, otherwise folder.", "auto", metavar="WHERE"
    )
    size: Words | None = option(
        "In pixels, like 32 or 32x48. Default: as training would choose.", metavar="HEIGHTxWIDTH"
    )
    seed: int = option("Of the weights at the start and of the order.", 0, ge=0)
