"""What a network does with the pixels of a batch before it reads them: resize, crop, rescale and normalise.

Batches hold images as they are, float in [0, 1], after any augmentation; each network processes them for itself, so a
teacher and a student of other image sizes see the same view. A network's processor is its attribute `image_processor`
(read from preprocessor_config.json by `limbeck.load`; a transformers image processor may be assigned too), or its
attributes `image_mean` and `image_std` alone. Without either it reads the pixels as they are.

What this file does not know: files, data sets, what is computed from the pixels.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any
from weakref import WeakSet

import numpy as np
import torch
from PIL import Image
from torch import Tensor, nn
from torch.nn import functional as F

from limbeck.errors import DataError, ModelError

PIXELS = "pixel_values"
"""The column of images in the batches of transformers models."""

TORCH_MODES = {2: "bilinear", 3: "bicubic"}
"""PIL's numbers of the filters that torch has too."""


@dataclass(frozen=True, eq=False)
class ImageProcessor:
    """Pixels as a network reads them.

    settings: the fields of a preprocessor_config.json: do_resize, size, resample, do_center_crop, crop_size,
        do_rescale, rescale_factor, do_normalize, image_mean, image_std, and crop_pct of ConvNext.
    special: a transformers image processor that does something else than these steps, in its place; it runs on the CPU.

    On the CPU images are resized by PIL, so the result is transformers' own. Elsewhere torch resizes them; single
    pixels may then differ by 1/255.
    """

    settings: Mapping[str, Any]
    special: Any = None

    def __call__(self, pixels: Tensor) -> Tensor:
        """The processed images, `[n, C', H', W']` float32.

        pixels: `[n, C, H, W]` or `[n, H, W]` in [0, 1]. Gray images become RGB for a processor of three channels.
        """
        images = pixels[:, None] if pixels.ndim == 3 else pixels
        images = images.float()
        if images.shape[1] == 1 and len(_numbers(self.settings.get("image_mean"))) == 3:
            images = images.expand(-1, 3, -1, -1)
        if self.special is not None:
            return self._by_special(images)
        if self.settings.get("do_resize"):
            images = self._resized(images)
        if self.settings.get("do_center_crop"):
            images = _center_crop(images, *_height_and_width(self.settings["crop_size"]))
        factor = 255 * self.settings.get("rescale_factor", 1 / 255) if self.settings.get("do_rescale", True) else 255
        if abs(factor - 1) > 1e-6:
            images = images * factor
        if self.settings.get("do_normalize"):
            mean, std = (_per_channel(self.settings[name], images) for name in ("image_mean", "image_std"))
            images = (images - mean) / std
        gray = pixels.ndim == 3 and images.shape[1] == 1
        return images[:, 0] if gray else images

    def _resized(self, images: Tensor) -> Tensor:
        size, resample = self.settings["size"], self.settings.get("resample", 2)
        size = size if isinstance(size, Mapping) else {"height": size, "width": size}
        height, width = images.shape[-2:]
        crop_pct, shortest = self.settings.get("crop_pct"), size.get("shortest_edge")
        if shortest is None:
            return resize(images, *_height_and_width(size), resample)
        if crop_pct is None:
            return resize(images, *_by_shortest_edge(height, width, shortest), resample)
        if shortest >= 384:  # ConvNext warps large images and crops small ones
            return resize(images, shortest, shortest, resample)
        larger = resize(images, *_by_shortest_edge(height, width, int(shortest / crop_pct)), resample)
        return _center_crop(larger, shortest, shortest)

    def _by_special(self, images: Tensor) -> Tensor:
        found = self.special(images=[_as_pil(image) for image in _levels(images)], return_tensors="pt")
        processed: Tensor = found[PIXELS]
        return processed.to(images.device, torch.float32)


def with_processed_pixels(model: object, inputs: dict[str, Any]) -> dict[str, Any]:
    """The inputs of a batch with its images processed as the model reads them; unchanged without a processor.

    The images are the column `pixel_values`, or the only column where there is no such one. DataError where the first
    images that a model is given are not in [0, 1].
    """
    processor = image_processor_of(model)
    if processor is None:
        return inputs
    column = PIXELS if PIXELS in inputs else next(iter(inputs)) if len(inputs) == 1 else None
    if column is None or not isinstance(inputs[column], Tensor) or inputs[column].ndim not in (3, 4):
        return inputs
    pixels = inputs[column]
    inner = innermost(model)
    if inner not in _CHECKED:
        _require_pixels(pixels, type(inner).__name__)
        _CHECKED.add(inner)
    return inputs | {column: processor(pixels).to(pixels.dtype)}


def image_processor_of(model: object) -> ImageProcessor | None:
    """The image processor of a model; None where it reads pixels as they are."""
    inner = innermost(model)
    if not isinstance(inner, nn.Module):
        return None
    attributes = vars(inner)
    found = attributes.get("image_processor", _UNSET)
    if found is None:
        return None
    if isinstance(found, ImageProcessor):
        return found
    if hasattr(found, "to_dict"):  # of transformers, assigned by a user
        known = attributes.get("_image_processor")
        if known is None or known[0] is not found:
            known = attributes["_image_processor"] = (found, processor_from_transformers(found))
        converted: ImageProcessor = known[1]
        return converted
    mean, std = getattr(inner, "image_mean", None), getattr(inner, "image_std", None)
    if mean is None and std is None:
        return None
    if mean is None or std is None:
        raise ModelError(f"{type(inner).__name__} must have both image_mean and image_std, or neither.")
    settings = {"do_resize": False, "do_rescale": True, "rescale_factor": 1 / 255, "do_normalize": True}
    return ImageProcessor({**settings, "image_mean": _numbers(mean), "image_std": _numbers(std)})


def innermost(model: object) -> Any:
    """The network inside wrappers of DDP, torch.compile and PEFT."""
    while True:
        if isinstance(model, nn.DataParallel | nn.parallel.DistributedDataParallel):
            model = model.module
        elif hasattr(model, "_orig_mod"):
            model = model._orig_mod
        elif hasattr(model, "get_base_model"):
            model = model.get_base_model()
        else:
            return model


def processor_from_transformers(processor: Any) -> ImageProcessor:
    """An ImageProcessor that does what a transformers image processor does."""
    settings = {key: _plain(value) for key, value in processor.to_dict().items()}
    return ImageProcessor(settings, None if _is_covered(processor, settings) else processor)


def resize(images: Tensor, height: int, width: int, resample: int = 2) -> Tensor:
    """Images `[n, C, H, W]` in [0, 1], resized as 8-bit images are: the result has 256 levels too.

    resample: PIL's number of the filter. On the CPU and for filters that torch lacks, PIL resizes.
    """
    if images.shape[-2:] == (height, width):
        return images
    if images.device.type == "cpu" or resample not in TORCH_MODES:
        filtered = [_as_pil(image).resize((width, height), Image.Resampling(resample)) for image in _levels(images)]
        arrays = torch.from_numpy(np.stack([np.asarray(image) for image in filtered]))
        arrays = arrays[:, None] if arrays.ndim == 3 else arrays.permute(0, 3, 1, 2)
        return arrays.to(images.device).float() / 255
    return resize_by_torch(images, height, width, TORCH_MODES[resample])


def resize_by_torch(images: Tensor, height: int, width: int, mode: str) -> Tensor:
    """`resize` on any device: first the rows and then the columns, each rounded to 256 levels, as PIL does."""
    levels = (images * 255).round()
    for size in ((levels.shape[-2], width), (height, width)):
        if size != tuple(levels.shape[-2:]):
            levels = F.interpolate(levels, size, mode=mode, antialias=True, align_corners=False)
            levels = (levels + 0.5).floor().clamp(0, 255)
    return levels / 255


_UNSET = object()
_CHECKED: WeakSet[nn.Module] = WeakSet()

_STEPS = ("preprocess", "_preprocess", "resize", "center_crop", "rescale", "normalize", "pad")


def _is_covered(processor: Any, settings: Mapping[str, Any]) -> bool:
    """Whether the steps of ImageProcessor are all that a transformers processor does."""
    size = settings.get("size") or {}
    unusual = settings.get("do_pad") or (isinstance(size, Mapping) and set(size) & {"longest_edge", "max_height"})
    if unusual:
        return False
    kind = type(processor)
    if kind.__name__.startswith("ConvNextImageProcessor"):
        return True
    plain = next((base for base in kind.__mro__ if base.__name__ == "PilBackend"), None)
    return plain is not None and all(getattr(kind, name, None) is getattr(plain, name, None) for name in _STEPS)


def _require_pixels(pixels: Tensor, name: str) -> None:
    low, high = pixels.aminmax()
    if low < -0.5 or high > 1.5:  # an augmentation may leave [0, 1] by a little
        raise DataError(
            f"{name} has an image processor and reads pixels in [0, 1], but the batch has values from {float(low):.3g} "
            f"to {float(high):.3g}, which were processed before. Give the images as they are, or set "
            "image_processor = None on the model."
        )


def _levels(images: Tensor) -> np.ndarray:
    """The images as 8-bit numbers, `[n, H, W, C]`."""
    levels = (images * 255).round().clamp(0, 255).to(torch.uint8)
    return levels.permute(0, 2, 3, 1).contiguous().cpu().numpy()


def _as_pil(image: np.ndarray) -> Image.Image:
    return Image.fromarray(image[..., 0] if image.shape[-1] == 1 else image)


def _center_crop(images: Tensor, height: int, width: int) -> Tensor:
    """The middle of the images; smaller ones are padded with zeros."""
    above, left = images.shape[-2] - height, images.shape[-1] - width
    if above < 0 or left < 0:
        down, right = max(0, -above), max(0, -left)  # how much is lacking
        images = F.pad(images, (-(-right // 2), right // 2, -(-down // 2), down // 2))
        above, left = images.shape[-2] - height, images.shape[-1] - width
    return images[..., above // 2 : above // 2 + height, left // 2 : left // 2 + width]


def _by_shortest_edge(height: int, width: int, shortest: int) -> tuple[int, int]:
    if width <= height:
        return int(shortest * height / width), shortest
    return shortest, int(shortest * width / height)


def _height_and_width(size: Any) -> tuple[int, int]:
    if isinstance(size, Mapping):
        return int(size["height"]), int(size["width"])
    return int(size), int(size)


def _numbers(values: Any) -> list[float]:
    """A number, or a sequence or tensor of numbers, one per channel, as a list."""
    if values is None:
        return []
    if isinstance(values, Tensor | np.ndarray):
        values = values.reshape(-1).tolist()
    return [float(value) for value in values] if isinstance(values, Sequence) else [float(values)]


def _per_channel(values: Any, images: Tensor) -> Tensor:
    """A mean or deviation, `[C, 1, 1]` or `[1, 1, 1]`; DataError where the images have other channels."""
    numbers = _numbers(values)
    if len(numbers) not in (1, images.shape[1]):
        raise DataError(
            f"The image processor has {len(numbers)} channels and the images have {images.shape[1]}; pass images of "
            "as many channels."
        )
    return torch.tensor(numbers, dtype=images.dtype, device=images.device).view(-1, 1, 1)


def _plain(value: Any) -> Any:
    """A value of a transformers processor as JSON has it."""
    if isinstance(value, Mapping) or type(value).__name__ == "SizeDict":
        return {key: _plain(item) for key, item in dict(value).items() if item is not None}
    if isinstance(value, list | tuple):
        return [_plain(item) for item in value]
    return int(value) if isinstance(value, int) and not isinstance(value, bool) else value
