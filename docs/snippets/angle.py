"""An angle of each picture, in degrees: a condition of one's own."""

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from pydantic import Field
from torch import Tensor, nn

from alphabar.conditions.base import Encoder, Sizes, hide
from alphabar.conditions.kinds import register
from alphabar.data.readers import Offer, Reader
from alphabar.data.sources import Catalogue, PictureFile
from alphabar.errors import ConfigurationError, DataError
from alphabar.networks.cond import Cond
from alphabar.settings.conditions import ConditionSettings


class AngleSettings(ConditionSettings):
    column: str = Field("angle", description="the column of the metadata that holds the angle in degrees")
    frequencies: int = Field(4, ge=1, description="of the angle times 1, 2, ..., sine and cosine are taken")


class AngleReader(Reader):
    settings = AngleSettings
    needs = "a column 'angle' with degrees in metadata.csv, .jsonl or .parquet"
    mirrors = False  # a mirrored picture shows another angle

    def offer(self, name: str, settings: AngleSettings, catalogue: Catalogue) -> Offer | None:
        def read(file: PictureFile, size: tuple[int, int]) -> float:
            return degrees(file.row.get(settings.column), DataError, f"in its column {settings.column!r}")

        return Offer(f"column {settings.column!r}", read, settings) if settings.column in catalogue.columns() else None


class AngleEncoder(Encoder):
    """degrees (n,), NaN being null -> vector (N, D). The null value is learned."""

    def __init__(self, settings: AngleSettings, sizes: Sizes) -> None:
        super().__init__(settings)
        width, self.frequencies = sizes.vector_dim, settings.frequencies
        self.layers = nn.Sequential(nn.Linear(2 * self.frequencies, width), nn.SiLU(), nn.Linear(width, width))
        self.null = nn.Parameter(torch.zeros(width))

    def read(self, inputs: Sequence[Any], notes: list[str]) -> np.ndarray:
        return np.array([math.nan if x is None else degrees(x, ConfigurationError, "as the angle") for x in inputs])

    def forward(self, values: np.ndarray | Tensor | None, n: int, drop: Tensor | None = None) -> Cond:
        angle = torch.full((n,), math.nan) if values is None else torch.as_tensor(values).float()
        null = angle.isnan() if drop is None else angle.isnan() | drop
        phase = angle.nan_to_num().deg2rad()[:, None] * torch.arange(1, self.frequencies + 1)
        features = torch.cat([phase.sin(), phase.cos()], dim=1).to(self.device)
        return Cond(vector=hide(self.layers(features), null, self.null))


def degrees(value: Any, error: type[Exception], where: str) -> float:
    try:
        if math.isfinite(number := float(value)):
            return number
    except (TypeError, ValueError):
        pass
    raise error(f"{value!r} {where} is not a number of degrees; give one like 30 or -12.5")


register("angle", AngleReader(), AngleEncoder)
