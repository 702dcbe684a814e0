"""Pictures as conditions: more input channels. One mechanism, whose presets differ in where the condition comes from.

pair: given by the user. super-resolution, colorize, inpaint, edges: made from each picture while training.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image, ImageOps
from torch import Tensor, nn

from ..data.decode import fit, naming, read_header, read_picture, to_8_bit, to_channels
from ..data.pairs import check_same_aspect, find_pairs, has_pair
from ..data.pictures import to_signed, to_uint8
from ..data.readers import Offer, Reader
from ..data.sources import Catalogue, PictureFile
from ..errors import ConfigurationError, DataError
from ..networks.cond import Cond, Doors
from ..networks.layers import sinusoidal_embedding
from ..randomness import generator
from ..settings.conditions import PAIR_COLUMN, ImageSettings
from .base import Encoder, Sizes, hide

USUAL_FOLDERS = ("conditioning", "conditioning_image", "conditioning_images")
LUMA = (0.299, 0.587, 0.114)  # ITU-R BT.601
LEVEL_DIM = 64
SNIFFED = 64  # pairs that are looked at to tell grey from colour


class ImageReader(Reader):
    """Pairs in a column of the metadata or in a folder beside the pictures'; of the other tasks there is nothing to read."""

    settings = ImageSettings
    pictorial = True
    needs = (
        "a column 'conditioning_image_file_name' in the metadata, folders images/ and conditioning/ with the same names, --images FOLDER, "
        "or --task super-resolution, colorize, inpaint or edges"
    )

    def offer(self, name: str, settings: ImageSettings, catalogue: Catalogue) -> Offer | None:
        """Pairs by column or folder, or what the task makes."""
        if self.derives(settings):
            return None
        own = name == "image" or settings.column != PAIR_COLUMN
        column, usual = (settings.column, USUAL_FOLDERS) if own else (f"{name}_file_name", (name, f"{name}s"))
        found = find_pairs(catalogue, column, settings.folder, usual)
        if found is None:
            return None
        origin, locate = found
        channels, background = settings.channels or sniff_channels(catalogue, locate), settings.background or "white"

        def read(file: PictureFile, size: tuple[int, int]) -> np.ndarray:
            """The pair of a picture, in its size."""
            where = locate(file)
            check_same_aspect(file, where)
            if isinstance(where, Path):
                with naming(f"its pair {where.name}"):
                    return read_picture(where, size, channels, background)
            return fit_array(where, size, channels, background)

        return Offer(origin, read, settings.model_copy(update={"channels": channels}), has_pair(locate))

    def settle(self, settings: ImageSettings, values: np.ndarray) -> ImageSettings:
        """Pairs given from Python tell their channels themselves."""
        return settings.model_copy(update={"channels": settings.channels or values.shape[-1]})

    def derives(self, settings: ImageSettings) -> bool:
        """All tasks but pair."""
        return settings.task != "pair"

    def folders(self, name: str, settings: ImageSettings) -> Collection[str]:
        """The usual names, and the one that is set."""
        usual = USUAL_FOLDERS if name == "image" else (name, f"{name}s")
        return [*usual, *([settings.folder] if settings.folder else [])]


class ImageEncoder(Encoder):
    """A picture -> `concat` (N, C + 1, H, W): its pixels in [-1, 1], and 1 where they are known. The null value is zero
    everywhere: nothing is known.

    Values are uint8 (n, H, W, C), or float32 (n, C + 2, H, W) with the known mask and the level of noise (constant) behind.
    The level s of super-resolution enters as `vector`: the input is sqrt(1 - s^2) y + s eps (Ho et al. 2022, "Cascaded
    Diffusion Models", sec. 4.2), s uniform up to `augmentation` in training and 0 when pictures are made.
    """

    def __init__(self, settings: ImageSettings, sizes: Sizes) -> None:
        super().__init__(settings)
        self.settings, self.shape = settings, sizes.shape
        self.derived = settings.task != "pair"
        self.channels = content_channels(settings, sizes.shape)
        noisy = settings.task == "super-resolution" and settings.augmentation > 0
        self.level = nn.Linear(LEVEL_DIM, sizes.vector_dim) if noisy else None

    @classmethod
    def doors(cls, settings: ImageSettings, shape: Sequence[int]) -> Doors:
        """The pixels and the known mask."""
        return Doors(concat=content_channels(settings, shape) + 1)

    @property
    def size(self) -> tuple[int, int]:
        """Height and width of the pictures."""
        return self.shape[1], self.shape[2]

    @property
    def input_size(self) -> tuple[int, int]:
        """Height and width of what the user gives."""
        if self.settings.task == "super-resolution":
            return low_size(self.size, self.settings.scale)
        return self.size

    def read(self, inputs: Sequence[Any], notes: list[str]) -> np.ndarray:
        """Paths or arrays (H, W, C) uint8, for task=inpaint a pair (picture, mask), the mask being white where it is to be filled;
        resized as in training."""
        return np.stack([self._read_one(given, notes) for given in inputs])

    def _read_one(self, given: Any, notes: list[str]) -> np.ndarray:
        if given is None:
            return np.zeros((self.channels + 2, *self.size), np.float32)
        if (self.settings.task == "inpaint") != isinstance(given, tuple):
            raise ConfigurationError(
                "inpainting needs a picture and a mask (white is filled): --image FILE --mask FILE"
                if self.settings.task == "inpaint"
                else "a mask goes with task=inpaint only"
            )
        picture, mask = given if isinstance(given, tuple) else (given, None)
        x = self._load(picture, self.shape[0] if self.derived else self.channels, notes)
        match self.settings.task:
            case "super-resolution":
                x = enlarge(x, self.size)
            case "colorize":
                x = luma(x)
            case "edges":
                x = find_edges(x)
        known = torch.ones(1, 1, *self.size)
        if mask is not None:
            note_size(mask, self.size, notes, "mask")
            known = (to_signed(load_input(mask, self.size, 1)[None]) <= 0).float()
        return with_masks(x * known, known)[0].numpy()

    def _load(self, picture: Any, channels: int, notes: list[str]) -> Tensor:
        """The user's picture in [-1, 1], (1, C, H, W); one to enlarge that is not small is made so as in training."""
        background = self.settings.background or "white"
        enlarging = self.settings.task == "super-resolution" and picture_size(picture) != self.input_size
        size = self.size if enlarging else self.input_size
        x = to_signed(load_input(picture, size, channels, background)[None])
        note_size(picture, self.input_size, notes)
        return reduce(x, self.settings.scale) if enlarging else x

    def finish(self, pictures: Tensor, values: np.ndarray) -> Tensor:
        """Inpainting keeps what is known."""
        if self.settings.task != "inpaint":
            return pictures
        given = torch.as_tensor(values).to(pictures)
        known = given[:, self.channels : self.channels + 1]
        return torch.where(known > 0, given[:, : self.channels], pictures)

    def forward(self, values: np.ndarray | Tensor | None, n: int, drop: Tensor | None = None) -> Cond:
        """values as above, or None for all null."""
        if values is None:
            values = torch.zeros(n, self.channels + 2, *self.size)
        elif isinstance(values, np.ndarray) and values.dtype == np.uint8:
            x = to_signed(values)
            values = with_masks(x, torch.ones_like(x[:, :1]))
        values = hide(torch.as_tensor(values), drop)
        if values.shape != (n, self.channels + 2, *self.size):
            raise ConfigurationError(
                f"pictures as condition must be {n} of {self.channels} channels and {self.size[0]}x{self.size[1]}, got {tuple(values.shape)}"
            )
        vector = None
        if self.level is not None:
            vector = self.level(
                sinusoidal_embedding(1000 * values[:, -1].flatten(1).amax(1), LEVEL_DIM).to(self.device)
            )
        return Cond(vector=vector, concat=values[:, :-1])

    def derive(self, x_0: Tensor, keys: Sequence[tuple[Any, ...]]) -> np.ndarray:
        """The condition of each picture x_0 (n, C, H, W)."""
        x_0 = x_0.cpu()
        known, level = torch.ones(len(x_0), 1, *self.size), torch.zeros(len(x_0))
        match self.settings.task:
            case "super-resolution":
                x = enlarge(reduce(x_0, self.settings.scale), self.size)
                draws = [generator(*key) for key in keys]
                level = torch.tensor([g.random() * self.settings.augmentation for g in draws], dtype=torch.float32)
                if self.settings.augmentation:
                    s = level.reshape(-1, 1, 1, 1)
                    eps = np.stack([g.standard_normal(x.shape[1:], np.float32) for g in draws])
                    x = (1 - s**2).sqrt() * x + s * torch.from_numpy(eps)
            case "colorize":
                x = luma(x_0)
            case "edges":
                x = find_edges(x_0)
            case "inpaint":
                known = torch.from_numpy(np.stack([random_mask(self.size, generator(*key)) for key in keys]))[:, None]
                x = x_0 * known
            case _:
                raise ConfigurationError("task=pair has nothing to make a condition from")
        return with_masks(x, known, level).numpy()

    def show(self, values: np.ndarray) -> tuple[np.ndarray | None, list[str] | None]:
        """The pictures, what is not known of them in grey."""
        if values.dtype != np.uint8:
            values = to_uint8(torch.as_tensor(values)[:, : self.channels])
        return (values.repeat(3, axis=-1) if values.shape[-1] == 1 else values[..., :3]), None


def content_channels(settings: ImageSettings, shape: Sequence[int]) -> int:
    """Channels of the condition's pixels. Raises ConfigurationError where the task does not fit the pictures."""
    if len(shape) != 3:
        raise ConfigurationError(f"a picture as condition goes with pictures, the data has shape {tuple(shape)}")
    if settings.task == "pair":
        return settings.channels or 3
    if settings.task == "colorize" and shape[0] != 3:
        raise ConfigurationError(
            f"task=colorize needs pictures in colour, these have {shape[0]} channel{'s' * (shape[0] > 1)}"
        )
    if settings.task == "super-resolution" and min(low_size(shape[1:], settings.scale)) < 2:
        raise ConfigurationError(f"pictures of {shape[1]}x{shape[2]} are too small for scale {settings.scale}")
    return 1 if settings.task in ("colorize", "edges") else shape[0]


def with_masks(x: Tensor, known: Tensor, level: Tensor | None = None) -> Tensor:
    """x (n, C, H, W) with the known mask and the level of noise (n,) as further channels."""
    level = torch.zeros(len(x)) if level is None else level
    return torch.cat([x, known, level.reshape(-1, 1, 1, 1).expand_as(known)], dim=1)


def low_size(size: Sequence[int], scale: int) -> tuple[int, int]:
    """The size of the small picture."""
    return max(1, round(size[0] / scale)), max(1, round(size[1] / scale))


def reduce(x: Tensor, scale: int) -> Tensor:
    """x (n, C, H, W) in [-1, 1] averaged to the small size and rounded to 8 bits, as a small picture in a file would be."""
    low = F.interpolate(x, size=low_size(x.shape[-2:], scale), mode="area")
    return ((low + 1) * 127.5).round() / 127.5 - 1


def enlarge(x: Tensor, size: tuple[int, int]) -> Tensor:
    """The small picture brought to full size by bicubic interpolation."""
    return F.interpolate(x, size=size, mode="bicubic").clamp(-1, 1)


def luma(x: Tensor) -> Tensor:
    """(n, C, H, W) -> the brightness (n, 1, H, W), rounded to 8 bits."""
    grey = x[:, :3] * torch.tensor(LUMA).reshape(1, 3, 1, 1) if x.shape[1] >= 3 else x[:, :1]
    return ((grey.sum(1, keepdim=True) + 1) * 127.5).round() / 127.5 - 1


def find_edges(x: Tensor) -> Tensor:
    """The size of the brightness' gradient (Sobel) in [-1, 1], (n, 1, H, W): -1 where there is no edge."""
    kernel = torch.tensor([[-1.0, 0.0, 1.0], [-2.0, 0.0, 2.0], [-1.0, 0.0, 1.0]]) / 8
    padded = F.pad(luma(x), (1, 1, 1, 1), mode="replicate")
    gradient = F.conv2d(padded, torch.stack([kernel, kernel.T])[:, None])
    return gradient.square().sum(1, keepdim=True).sqrt().clamp(max=1) * 2 - 1


def random_mask(size: tuple[int, int], g: np.random.Generator) -> np.ndarray:
    """(H, W) float32, 1 where the picture is known: a box, half of the picture, or a few strokes are missing."""
    height, width = size
    known = np.ones(size, np.float32)
    kind = g.integers(3)
    if kind == 0:
        box_height, box_width = g.integers(height // 4, height * 3 // 4 + 1), g.integers(width // 4, width * 3 // 4 + 1)
        top, left = g.integers(0, height - box_height + 1), g.integers(0, width - box_width + 1)
        known[top : top + box_height, left : left + box_width] = 0
    elif kind == 1:
        flipped = known[::-1] if g.random() < 0.5 else known[:, ::-1] if g.random() < 0.5 else known
        half = flipped[: height // 2] if g.random() < 0.5 else flipped[:, : width // 2]
        half[...] = 0
    else:
        way, strokes = np.linspace(0, 1, 2 * max(size)), np.zeros(size, bool)
        for _ in range(g.integers(1, 5)):
            (y0, y1), (x0, x1) = g.integers(0, height, 2), g.integers(0, width, 2)
            strokes[np.rint(y0 + (y1 - y0) * way).astype(int), np.rint(x0 + (x1 - x0) * way).astype(int)] = True
        known[thickened(strokes, max(1, min(size) // 10))] = 0
    return known


def thickened(marks: np.ndarray, reach: int) -> np.ndarray:
    """(H, W) bool, true where a mark is at most `reach` rows and columns away: by running sums, down and then across."""
    for _ in range(2):
        sums = np.pad(marks, ((reach + 1, reach), (0, 0))).cumsum(0, np.int32)
        marks = (sums[2 * reach + 1 :] > sums[: -2 * reach - 1]).T
    return marks


def picture_size(given: Any) -> tuple[int, int]:
    """Height and width of a user's picture, a path, an array or an image of Pillow."""
    if isinstance(given, Image.Image):
        turned = ImageOps.exif_transpose(given)
        return turned.height, turned.width
    if isinstance(given, np.ndarray):
        height, width = as_picture(given).shape[:2]
        return height, width
    with naming(f"picture {given}"):
        header = read_header(Path(given))
    return header.height, header.width


def note_size(given: Any, size: tuple[int, int], notes: list[str], kind: str = "picture") -> None:
    """Note that a user's picture, or an input of another kind, is resized, if it is."""
    own = picture_size(given)
    if own != tuple(size):
        name = Path(given).name if isinstance(given, str | Path) else "array"
        cropped = " and cropped" if own[0] * size[1] != own[1] * size[0] else ""
        notes.append(f"{kind} {name} is {own[0]}x{own[1]}, resized{cropped} to {size[0]}x{size[1]} as in training")


def load_input(given: Any, size: tuple[int, int], channels: int, background: str = "white") -> np.ndarray:
    """A user's picture, a path, (H, W[, C]) uint8 or an image of Pillow, as (height, width, channels). Raises DataError that names
    the file."""
    if isinstance(given, Image.Image):
        return fit(to_channels(to_8_bit(ImageOps.exif_transpose(given)), channels, background), size)
    if isinstance(given, np.ndarray):
        return fit_array(given, size, channels, background)
    with naming(f"picture {given}"):
        return read_picture(Path(given), size, channels, background)


def fit_array(array: np.ndarray, size: tuple[int, int], channels: int, background: str = "white") -> np.ndarray:
    """(H, W), (H, W, C) or (C, H, W) uint8 in the size and channels wanted."""
    array = as_picture(array)
    flat = array[..., 0] if array.ndim == 3 and array.shape[-1] == 1 else array
    return fit(to_channels(Image.fromarray(np.ascontiguousarray(flat)), channels, background), size)


def as_picture(array: np.ndarray) -> np.ndarray:
    """(H, W), (H, W, C) or (C, H, W) uint8 -> (H, W[, C]). Raises DataError for anything else."""
    if array.ndim == 3 and array.shape[-1] > 4 >= array.shape[0]:
        array = array.transpose(1, 2, 0)
    if array.dtype != np.uint8 or array.ndim not in (2, 3) or (array.ndim == 3 and not 1 <= array.shape[-1] <= 4):
        raise DataError(f"a picture must be uint8 (H, W) or (H, W, C), got {array.dtype} {array.shape}")
    return array


def sniff_channels(catalogue: Catalogue, locate: Any) -> Literal[1, 3]:
    """1 if the pairs that are looked at are all grey, otherwise 3."""
    stride = max(1, len(catalogue.files) // SNIFFED)
    for file in catalogue.files[::stride]:
        try:
            where = locate(file)
            grey = where.ndim == 2 or where.shape[-1] == 1 if isinstance(where, np.ndarray) else read_header(where).grey
        except DataError:
            continue  # reported when it is read
        if not grey:
            return 3
    return 1
