# SPDX-License-Identifier: Apache-2.0
"""Colour image encoder: a backbone of torchvision, a linear head with LayerNorm.

An image is scaled to [0, 1], resized to the backbone's square (its proportions are not kept) and
normalised with the statistics of ImageNet, here and nowhere else.

torchvision is imported where an image encoder is built; nothing else needs it.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path
from pickle import UnpicklingError
from typing import Any, Self

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor, nn
from torch.nn import functional

from rl100_policy.core.encoder import Encoder, build_bottleneck, relu_stack
from rl100_policy.core.errors import ConfigError
from rl100_policy.core.normalizer import PolicyNormalizer
from rl100_policy.core.policy_config import (
    ImageEncoderConfig,
    ResNet18Config,
    VitConfig,
)

IMAGENET_MEAN = (0.485, 0.456, 0.406)
IMAGENET_DEVIATION = (0.229, 0.224, 0.225)
"""Of red, green and blue in [0, 1], as torchvision's weights expect them."""
_CLASSIFIERS = ("fc.", "heads.")
_RUNNING_STATISTICS = (".running_mean", ".running_var", ".num_batches_tracked")

_declared: list[torch.library.Library] = []
"""Kept, because what a library declares disappears with it."""


def _declare_operators() -> None:
    """Give names to two compiled operators of torchvision; calling them remains an error.

    The wheels of the package index are made for torch with CUDA. Beside a torch without, their
    operators do not load, and torchvision gives up at these two. No backbone uses either.
    """
    library = torch.library.Library("torchvision", "DEF")  # type: ignore[no-untyped-call]
    for name in ("nms", "qnms"):
        schema = f"{name}(Tensor dets, Tensor scores, float iou_threshold) -> Tensor"
        library.define(schema)  # type: ignore[no-untyped-call]
    _declared.append(library)


def _torchvision_models() -> Any:
    """``torchvision.models``.

    Raises:
        ConfigError: If torchvision is not installed, or is not made for this torch.
    """
    try:
        try:
            from torchvision import models
        except RuntimeError as error:
            if "torchvision::nms" not in str(error):
                raise
            _declare_operators()
            from torchvision import models
    except (ImportError, RuntimeError) as error:
        raise ConfigError(
            f"an image encoder needs torchvision made for torch {torch.__version__}, which cannot "
            f"be imported here; install the version pinned in requirements/ ({error})"
        ) from error
    return models


class _Backbone(nn.Module):
    """A network of torchvision without its classifier. [C, 3, side, side] -> [C, dim].

    It stays in train mode, in which attention has one implementation: in eval mode torch takes
    another kernel, with other rounding. There is no dropout and there are no batch statistics,
    which would need eval mode.
    """

    def __init__(self, network: nn.Module, dim: int) -> None:
        super().__init__()
        self.network, self.dim = network, dim

    def train(self, mode: bool = True) -> Self:  # noqa: ARG002
        return super().train(True)

    def forward(self, image: Tensor) -> Tensor:
        features: Tensor = self.network(image)
        return features


def _build_backbone(config: ResNet18Config | VitConfig) -> _Backbone:
    models = _torchvision_models()
    match config:
        case ResNet18Config():
            network = models.resnet18(
                norm_layer=lambda c: nn.GroupNorm(c // config.group_channels, c)
            )
            dim = network.fc.in_features
            network.fc = nn.Identity()
        case VitConfig():
            network, dim = _vision_transformer(models, config), config.dim
    return _Backbone(network, dim)


def _vision_transformer(models: Any, config: VitConfig) -> Any:
    network = models.VisionTransformer(
        image_size=config.side,
        patch_size=config.patch,
        num_layers=config.depth,
        num_heads=config.heads,
        hidden_dim=config.dim,
        mlp_dim=4 * config.dim,
    )
    network.heads = nn.Identity()
    return network


class ImageEncoder(Encoder):
    """A colour image and proprioception to one vector per frame."""

    mean: Tensor
    deviation: Tensor

    def __init__(
        self, config: ImageEncoderConfig, proprio_dim: int, *, pretrained: bool = True
    ) -> None:
        """Build the layers.

        Args:
            config: Sizes, and the file that the backbone begins with, if any.
            proprio_dim: Length of the proprioception vector.
            pretrained: Read that file; False if other weights follow at once.

        Raises:
            ConfigError: If torchvision is missing, or the file cannot be used.
        """
        super().__init__()
        self.config = config
        self.backbone = _build_backbone(config.backbone)
        self.head = nn.Sequential(
            nn.Linear(self.backbone.dim, config.features), nn.LayerNorm(config.features)
        )
        sizes = (proprio_dim, *config.proprio_widths)
        self.proprio = relu_stack(sizes)
        self.frame_dim = config.features + sizes[-1]
        self.bottleneck = build_bottleneck(config, config.features, proprio_dim)
        for name, numbers in (("mean", IMAGENET_MEAN), ("deviation", IMAGENET_DEVIATION)):
            column = torch.tensor(numbers).view(3, 1, 1)
            self.register_buffer(name, column, persistent=False)
        if pretrained and config.pretrained is not None:
            load_pretrained(self.backbone.network, Path(config.pretrained))
        if config.freeze_backbone:
            self.backbone.requires_grad_(False)

    def prepare(self, pixels: Tensor) -> Tensor:
        """[C, H, W, 3] uint8 to what the backbone reads, [C, 3, side, side] float32."""
        side = self.config.backbone.side
        image = pixels.movedim(-1, 1).float() / 255
        if image.shape[-2:] != (side, side):
            image = functional.interpolate(
                image, size=(side, side), mode="bilinear", align_corners=False, antialias=True
            )
        return (image - self.mean) / self.deviation

    def look(
        self,
        visual: Tensor,
        proprio: Tensor,  # noqa: ARG002
        normalizer: PolicyNormalizer,  # noqa: ARG002
    ) -> tuple[Tensor, tuple[Tensor, ...]]:
        """Description of each image, [C, features]."""
        return self.head(self.backbone(self.prepare(visual))), ()

    def visual_modules(self) -> Iterable[nn.Module]:
        """The head, and the backbone unless it is frozen."""
        return (self.head,) if self.config.freeze_backbone else (self.backbone, self.head)


def load_pretrained(network: nn.Module, path: Path) -> None:
    """Fill a backbone with weights as torchvision names them.

    Scale and shift of a BatchNorm become those of the GroupNorm in its place; its running
    statistics and the classifier are left out.

    Args:
        network: A backbone of torchvision without its classifier; changed in place.
        path: safetensors (by its suffix) or a state dict of torch, which is read without running
            code.

    Raises:
        ConfigError: If the file cannot be read, or holds other weights than the network; names
            them.
    """
    found = {
        key: value
        for key, value in _read_weights(path).items()
        if not key.startswith(_CLASSIFIERS) and not key.endswith(_RUNNING_STATISTICS)
    }
    expected = network.state_dict()
    shapes = {
        key: f"{key} should be {tuple(expected[key].shape)}, found {tuple(found[key].shape)}"
        for key in expected.keys() & found.keys()
        if expected[key].shape != found[key].shape
    }
    missing, extra = sorted(expected.keys() - found.keys()), sorted(found.keys() - expected.keys())
    if missing or extra or shapes:
        raise ConfigError(
            f"{path} does not fit the backbone: missing {missing}, unknown {extra}, of another "
            f"shape {sorted(shapes.values())}; choose the backbone it was made for"
        )
    network.load_state_dict(found)


def _read_weights(path: Path) -> Mapping[str, Tensor]:
    try:
        if path.suffix == ".safetensors":
            return load_file(path)
        content = torch.load(path, map_location="cpu", weights_only=True)
    except OSError as error:
        raise ConfigError(
            f"cannot read pretrained weights from {path}: {error.strerror or error}; give an "
            "existing file"
        ) from error
    except (SafetensorError, UnpicklingError, RuntimeError, EOFError) as error:
        raise ConfigError(
            f"{path} should hold pretrained weights, as safetensors or as a plain state dict of "
            f"torch: {error}"
        ) from error
    if not isinstance(content, Mapping) or not all(map(torch.is_tensor, content.values())):
        raise ConfigError(
            f"{path} should be a state dict, names with tensors; found {type(content).__name__}"
        )
    return content
