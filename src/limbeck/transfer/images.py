"""Images that stay in their files, or in an Arrow table, until a batch wants them.

What this file does not know: labels, augmentation, models.
"""

from collections import Counter
from collections.abc import Mapping
from io import BytesIO
from typing import Any

import datasets
import numpy as np
import torch
from PIL import Image, ImageOps, UnidentifiedImageError
from torch import Tensor

from limbeck.errors import DataError

GRAY, COLOUR = "L", "RGB"
_EIGHT_BITS = frozenset({"1", "L", "LA", "P", "PA", "RGB", "RGBA", "RGBX", "CMYK", "YCbCr", "HSV", "LAB"})


def image_columns(splits: Mapping[str, Any], column: str, size: int | tuple[int, int] | None) -> dict[str, "Images"]:
    """The images of each split, `[N, C, H, W]` uint8 when gathered, alike in all splits.

    Gray (C = 1) where all images are, else RGB (C = 3). size: `(height, width)`, or one number for both, to which
    all are resized (bilinear); without it they must have one size already. Only the images' headers are read here.
    """
    files = {split: dataset.cast_column(column, datasets.Image(decode=False)) for split, dataset in splits.items()}
    modes: Counter[str] = Counter()
    sizes: Counter[tuple[int, int]] = Counter()
    for split, dataset in files.items():
        for row, item in enumerate(dataset.select_columns([column])):
            with _open(item[column], f"row {row} of {split}") as image:
                modes[image.mode] += 1
                sizes[image.height, image.width] += 1
    if deep := set(modes) - _EIGHT_BITS:
        raise DataError(f"Images must have 8 bits per channel, but some have the mode {sorted(deep)}; convert them.")
    if size is None and len(sizes) > 1:
        common = ", ".join(f"{height} x {width} ({n} of them)" for (height, width), n in sizes.most_common(3))
        raise DataError(
            f"All images must have one size, but these have {len(sizes)}: {common}...; give image_size=(height, width)."
        )
    shape = (size, size) if isinstance(size, int) else size
    mode = GRAY if set(modes) <= {"1", "L"} else COLOUR
    return {split: Images(dataset, column, mode, shape) for split, dataset in files.items()}


class Images:
    """A column of images, decoded when they are gathered: `[n, C, H, W]` uint8."""

    def __init__(self, dataset: Any, column: str, mode: str, size: tuple[int, int] | None) -> None:
        self.dataset, self.column, self.mode, self.size = dataset.select_columns([column]), column, mode, size

    def __len__(self) -> int:
        return len(self.dataset)

    def gather(self, rows: Tensor) -> Tensor:
        places = rows.tolist()
        images = [self._pixels(item, row) for item, row in zip(self.dataset[places][self.column], places, strict=True)]
        if len({image.shape for image in images}) > 1:  # a photograph lying on its side, by its EXIF entry
            raise DataError(
                f"All images must have one size, but rows {places} have {sorted({i.shape[:2] for i in images})}; "
                "give image_size=(height, width)."
            )
        stacked = torch.from_numpy(np.stack(images))
        return stacked[:, None] if self.mode == GRAY else stacked.permute(0, 3, 1, 2)

    def _pixels(self, item: Mapping[str, Any], row: int) -> np.ndarray:
        with _open(item, f"row {row}") as image:
            try:
                upright = ImageOps.exif_transpose(image).convert(self.mode)
            except OSError as error:
                raise DataError(f"The image of row {row} cannot be decoded ({error}).") from error
        if self.size is not None and upright.size != self.size[::-1]:
            upright = upright.resize(self.size[::-1], Image.Resampling.BILINEAR)
        return np.asarray(upright)


def _open(item: Mapping[str, Any] | None, what: str) -> Image.Image:
    """The image with its header read; `item` has its bytes, or the path of its file."""
    if item is None or (item["bytes"] is None and item["path"] is None):
        raise DataError(f"Every example needs an image, but {what} has none.")
    try:
        return Image.open(BytesIO(item["bytes"]) if item["bytes"] is not None else item["path"])
    except (OSError, UnidentifiedImageError) as error:
        raise DataError(f"The image of {what} cannot be opened ({error}).") from error
