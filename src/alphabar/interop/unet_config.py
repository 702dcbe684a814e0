"""alphabar's U-Net as the configuration of diffusers' UNet2DModel, and back. Their parameters correspond one to one."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from ..errors import ConfigurationError
from ..settings.base import validate
from ..settings.networks import UNetSettings
from .files import DIFFUSERS_VERSION, UNET_CLASS

DOWN = {False: "DownBlock2D", True: "AttnDownBlock2D"}
UP = {False: "UpBlock2D", True: "AttnUpBlock2D"}
TIME_MODES = {"add": "default", "scale_shift": "scale_shift"}
PADDINGS = {"both": 1, "after": 0}
LARGEST_CHANNELS = 4

DEFAULTS: dict[str, Any] = {
    "sample_size": None, "in_channels": 3, "out_channels": 3, "center_input_sample": False,
    "time_embedding_type": "positional", "time_embedding_dim": None, "freq_shift": 0, "flip_sin_to_cos": True,
    "down_block_types": ["DownBlock2D", "AttnDownBlock2D", "AttnDownBlock2D", "AttnDownBlock2D"],
    "mid_block_type": "UNetMidBlock2D",
    "up_block_types": ["AttnUpBlock2D", "AttnUpBlock2D", "AttnUpBlock2D", "UpBlock2D"],
    "block_out_channels": [224, 448, 672, 896], "layers_per_block": 2, "mid_block_scale_factor": 1, "downsample_padding": 1,
    "downsample_type": "conv", "upsample_type": "conv", "dropout": 0.0, "act_fn": "silu", "attention_head_dim": 8,
    "norm_num_groups": 32, "attn_norm_num_groups": None, "norm_eps": 1e-5, "resnet_time_scale_shift": "default",
    "add_attention": True, "class_embed_type": None, "num_class_embeds": None, "num_train_timesteps": None,
}  # fmt: skip
"""What UNet2DModel takes for a field that its configuration leaves out, as those of old versions do."""

HOLDS: dict[str, tuple[Any, ...]] = {
    "center_input_sample": (False,),
    "time_embedding_type": ("positional",),
    "mid_block_type": ("UNetMidBlock2D",),
    "mid_block_scale_factor": (1,),
    "downsample_padding": tuple(PADDINGS.values()),
    "downsample_type": ("conv",),
    "upsample_type": ("conv",),
    "act_fn": ("silu", "swish"),
    "resnet_time_scale_shift": tuple(TIME_MODES.values()),
    "class_embed_type": (None,),
}
"""The values that alphabar's U-Net can take, where UNet2DModel can take more."""


def to_unet_config(
    settings: UNetSettings, shape: Sequence[int], out_channels: int, class_rows: int | None
) -> dict[str, Any]:
    """The configuration of the UNet2DModel that computes the same, for pictures of shape (C, H, W)."""
    channels, height, width = shape
    return DEFAULTS | {
        "_class_name": UNET_CLASS,
        "_diffusers_version": DIFFUSERS_VERSION,
        "sample_size": height if height == width else [height, width],
        "in_channels": channels,
        "out_channels": out_channels,
        "freq_shift": settings.frequency_shift,
        "flip_sin_to_cos": not settings.sine_first,
        "down_block_types": [DOWN[flag] for flag in settings.attention],
        "up_block_types": [UP[flag] for flag in reversed(settings.attention)],
        "block_out_channels": list(settings.channels),
        "layers_per_block": settings.blocks,
        "downsample_padding": PADDINGS[settings.down_padding],
        "dropout": settings.dropout,
        "attention_head_dim": settings.head_channels,
        "norm_num_groups": settings.groups,
        "attn_norm_num_groups": settings.groups,
        "norm_eps": settings.norm_eps,
        "resnet_time_scale_shift": TIME_MODES[settings.time_mode],
        "add_attention": settings.middle_attention,
        "num_class_embeds": class_rows,
    }


def size_obstacle(settings: UNetSettings, shape: Sequence[int]) -> Iterator[str]:
    """Why UNet2DModel cannot make pictures of shape (C, H, W): its way up doubles sizes, where ours meets the skip connection's."""
    multiple = 2 ** (len(settings.channels) - 1)
    if any(size % multiple for size in shape[1:]):
        yield f"UNet2DModel with {len(settings.channels)} resolutions needs sizes that are multiples of {multiple}, these pictures are {shape[1]}x{shape[2]}"


def from_unet_config(config: Mapping[str, Any], where: object) -> UNetSettings:
    """The settings of the network that computes the same. Raises ConfigurationError with every reason why there is none."""
    values = with_defaults(config)
    reasons = [*obstacles(values)]
    if reasons:
        raise ConfigurationError(f"{where} cannot be imported: {'; '.join(reasons)}")
    try:
        return validate(
            UNetSettings,
            {
                "channels": values["block_out_channels"],
                "blocks": values["layers_per_block"],
                "attention": [DOWN[True] == name for name in values["down_block_types"]],
                "middle_attention": values["add_attention"],
                "head_channels": values["attention_head_dim"],
                "groups": values["norm_num_groups"],
                "norm_eps": values["norm_eps"],
                "dropout": values["dropout"],
                "time_mode": _key_of(TIME_MODES, values["resnet_time_scale_shift"]),
                "sine_first": not values["flip_sin_to_cos"],
                "frequency_shift": values["freq_shift"],
                "down_padding": _key_of(PADDINGS, values["downsample_padding"]),
            },
        )
    except ConfigurationError as error:
        raise ConfigurationError(f"{where} cannot be imported: {error}") from None


def with_defaults(config: Mapping[str, Any]) -> dict[str, Any]:
    """The fields of a UNet2DModel, those that are left out as UNet2DModel takes them; others, which it ignores, left out."""
    return {name: config.get(name, default) for name, default in DEFAULTS.items()}


def obstacles(values: Mapping[str, Any]) -> Iterator[str]:
    """Why no network of alphabar's computes what this UNet2DModel does, one sentence part each."""
    for name, allowed in HOLDS.items():
        if values[name] not in allowed:
            yield f"{name} is {json.dumps(values[name])}, but alphabar's U-Net has {' or '.join(map(json.dumps, allowed))}"
    yield from block_obstacles(values["down_block_types"], values["up_block_types"])
    channels = values["block_out_channels"]
    if not isinstance(channels, list) or len(channels) != len(values["down_block_types"] or ()):
        yield f"block_out_channels must be a list with a number for each of down_block_types, got {json.dumps(channels)}"
    elif values["time_embedding_dim"] not in (None, 4 * channels[0]):
        yield f"time_embedding_dim is {values['time_embedding_dim']}, but alphabar's is 4 times the first of block_out_channels"
    if values["in_channels"] not in range(1, LARGEST_CHANNELS + 1):
        yield f"in_channels is {json.dumps(values['in_channels'])}, but pictures have 1 to {LARGEST_CHANNELS}"
    middle, groups = values["attn_norm_num_groups"], values["norm_num_groups"]
    without_norm = middle is None and values["resnet_time_scale_shift"] != TIME_MODES["add"]
    if values["add_attention"] and (without_norm or middle not in (None, groups)):
        yield f"attn_norm_num_groups is {json.dumps(middle)}, but the attention of alphabar's middle has a norm of {groups} groups as all others"


def block_obstacles(down: Any, up: Any) -> Iterator[str]:
    """Why these types of blocks are none of alphabar's: attention stands on the same levels on both ways."""
    if not isinstance(down, list) or not isinstance(up, list):
        yield f"down_block_types and up_block_types must be lists, got {json.dumps(down)} and {json.dumps(up)}"
        return
    foreign = [name for name in [*down, *up] if name not in [*DOWN.values(), *UP.values()]]
    if foreign:
        yield f"alphabar's U-Net has no {foreign[0]}, only {', '.join([*DOWN.values(), *UP.values()])}"
    elif [name.removeprefix("Attn") for name in [*down, *up]] != [DOWN[False]] * len(down) + [UP[False]] * len(down):
        yield "the way down needs Down blocks, the way up as many Up blocks"
    elif [name == DOWN[True] for name in down] != [name == UP[True] for name in reversed(up)]:
        yield "attention stands on other levels on the way up than on the way down, in alphabar's U-Net on the same"


def picture_shape(values: Mapping[str, Any], size: Sequence[int] | None, where: object) -> tuple[int, int, int]:
    """(C, H, W) of the pictures: by sample_size, or `size` where it is null. Raises ConfigurationError."""
    own = values["sample_size"]
    own = [own, own] if isinstance(own, int) else own
    if own is None and size is None:
        raise ConfigurationError(f"{where} does not say the size of its pictures; give it as --size HEIGHTxWIDTH")
    if own is not None and size is not None and list(own) != list(size):
        raise ConfigurationError(f"{where} makes pictures of sample_size {own}, got --size {list(size)}; leave it out")
    height, width = list(size or own)
    return int(values["in_channels"]), int(height), int(width)


def _key_of(names: Mapping[str, Any], value: Any) -> str:
    return next(key for key, other in names.items() if other == value)
