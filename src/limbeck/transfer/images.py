"""Images that stay in their files, or in an Arrow table, until a batch needs them.

What this file does not know: labels, augmentation, models.
"""

import logging
from collections import Counter
from collections.abc import Iterator, Mapping
from io import BytesIO
from typing import Any

import datasets
import numpy as np
import pyarrow as pa
import torch
from PIL import Image, ImageOps
from torch import Tensor

from limbeck.errors import DataError
from limbeck.losses.numbers import NO_LABEL

log = logging.getLogger("limbeck")

GRAY, COLOUR = "L", "RGB"
WHITE, BLACK = 255, 0
MASKS = ("L", "P", "1", "I", "I;16")
"""The modes of images whose pixels are one number each."""
NO_CLASS = 255
"""What a pixel without a class has in a mask, as in PASCAL VOC and most sets since."""
MOST_PIXELS = 2**26
"""The most pixels of an image, 8,192 by 8,192: a larger one needs over 200 MB, however small its file is."""
LOOKED_AT = 64
"""Images with transparent pixels that are decoded to choose the colour behind them."""

_EIGHT_BITS = frozenset({"1", "L", "LA", "P", "PA", "RGB", "RGBA", "RGBX", "CMYK", "YCbCr", "HSV", "LAB"})
_UNREADABLE = (OSError, SyntaxError, ValueError, Image.DecompressionBombError, OverflowError)


def image_columns(
    splits: Mapping[str, datasets.Dataset], column: str, size: int | tuple[int, int] | None
) -> dict[str, "Images"]:
    """The images of each split, `[N, C, H, W]` uint8 when gathered, with the same C, H and W in all splits.

    Gray (C = 1) where all images are, else RGB (C = 3). Transparent pixels are shown on white, or on black where
    nothing could be seen on white; a warning says which.

    size: `(height, width)`, or one number for both, to which all are resized (bilinear); without it they must have one
        size already. Only the headers of the images are read here.
    """
    files = {split: _undecoded(dataset, column) for split, dataset in splits.items()}
    modes: Counter[str] = Counter()
    sizes: Counter[tuple[int, int]] = Counter()
    transparent: list[tuple[str, int]] = []
    for split, row, item in _items(files, column):
        with _open(item, f"row {row} of {split}") as image:
            modes[image.mode] += 1
            sizes[image.height, image.width] += 1
            if image.has_transparency_data:
                transparent.append((split, row))
    if deep := set(modes) - _EIGHT_BITS:
        raise DataError(f"Images must have 8 bits per channel, but some have the mode {sorted(deep)}; convert them.")
    if size is None and len(sizes) > 1:
        common = ", ".join(f"{height} x {width} ({n} of them)" for (height, width), n in sizes.most_common(3))
        raise DataError(
            f"All images must have one size, but these have {len(sizes)}: {common}...; pass image_size=(height, width)."
        )
    shape = (size, size) if isinstance(size, int) else size
    mode = GRAY if set(modes) <= {"1", "L"} else COLOUR
    background = WHITE
    if transparent:
        some = (files[split][row][column] for split, row in transparent[:LOOKED_AT])
        background = _background(some)
        log.warning(
            "%d of %d images have transparent pixels; they are shown on %s.",
            len(transparent),
            modes.total(),
            {WHITE: "white", BLACK: "black, as nothing could be seen on white"}[background],
        )
    return {split: Images(dataset, column, mode, shape, background) for split, dataset in files.items()}


def read_masks(dataset: datasets.Dataset, column: str, size: int | tuple[int, int] | None, split: str) -> Tensor:
    """The class of each pixel of a column of masks, `[N, H, W]` int64; 255 is no class (-100).

    Masks are gray images or have a palette: a pixel's value or place in the palette is its class. All must have one
    size; with `size` they are resized, each pixel to that of the nearest. split: for messages.
    """
    shape = (size, size) if isinstance(size, int) else size
    masks = []
    for row, item in enumerate(_undecoded(dataset, column).select_columns([column])):
        where = f"row {row} of {split}"
        if item[column] is None:
            raise DataError(f"Every example needs a mask, but {where} has none in {column!r}.")
        with _open(item[column], where) as image:
            if image.mode not in MASKS:
                raise DataError(
                    f"A mask has one number per pixel, its class (a gray image, or one with a palette), but {where} "
                    f"has the mode {image.mode} in {column!r}; convert it."
                )
            if shape is not None and image.size != shape[::-1]:
                image = image.resize(shape[::-1], Image.Resampling.NEAREST)
            masks.append(np.asarray(image).astype(np.int64))
    sizes = sorted({mask.shape for mask in masks})
    if len(sizes) > 1:
        raise DataError(f"All masks must have one size, but these have {sizes[:3]}; pass image_size (--image_size).")
    found = torch.from_numpy(np.stack(masks))
    return torch.where(found == NO_CLASS, NO_LABEL, found)


def _undecoded(dataset: datasets.Dataset, column: str) -> datasets.Dataset:
    """The data set with the bytes or paths of its images; DataError where the column can have neither."""
    try:
        return dataset.cast_column(column, datasets.Image(decode=False))
    except (pa.ArrowException, TypeError, ValueError) as error:
        kind = dataset.features[column]
        raise DataError(f"{column!r} must hold images, their bytes or their paths, but has the type {kind}.") from error


class Images:
    """A column of images, decoded when they are gathered: `[n, C, H, W]` uint8.

    background: the gray level, 0 to 255, behind transparent pixels.
    """

    is_pixels = True

    def __init__(
        self,
        dataset: datasets.Dataset,
        column: str,
        mode: str,
        size: tuple[int, int] | None,
        background: int = WHITE,
    ) -> None:
        self.dataset, self.column, self.mode, self.size = dataset.select_columns([column]), column, mode, size
        self.background = background

    def __len__(self) -> int:
        return len(self.dataset)

    def gather(self, rows: Tensor) -> Tensor:
        places = rows.tolist()
        images = [self._pixels(item, row) for item, row in zip(self.dataset[places][self.column], places, strict=True)]
        if len({image.shape for image in images}) > 1:  # a photograph lying on its side, by its EXIF entry
            raise DataError(
                f"All images must have one size, but rows {places} have {sorted({i.shape[:2] for i in images})}; "
                "pass image_size=(height, width)."
            )
        stacked = torch.from_numpy(np.stack(images))
        return stacked[:, None] if self.mode == GRAY else stacked.permute(0, 3, 1, 2)

    def _pixels(self, item: Mapping[str, Any], row: int) -> np.ndarray:
        with _open(item, f"row {row}") as image:
            try:
                upright = _opaque(ImageOps.exif_transpose(image), self.background).convert(self.mode)
            except _UNREADABLE as error:
                raise DataError(f"The image of row {row} cannot be decoded ({error}).") from error
        if self.size is not None and upright.size != self.size[::-1]:
            upright = upright.resize(self.size[::-1], Image.Resampling.BILINEAR)
        return np.asarray(upright)


def _items(files: Mapping[str, datasets.Dataset], column: str) -> Iterator[tuple[str, int, Mapping[str, Any] | None]]:
    """`(split, row, image)` of all images, not decoded."""
    for split, dataset in files.items():
        for row, item in enumerate(dataset.select_columns([column])):
            yield split, row, item[column]


def _opaque(image: Image.Image, background: int) -> Image.Image:
    """The image on a plain background; itself where it has no transparent pixels."""
    if not image.has_transparency_data:
        return image
    shown = image.convert("RGBA")
    behind = Image.new("RGBA", shown.size, (background, background, background, 255))
    return Image.alpha_composite(behind, shown).convert("RGB")


def _background(items: Iterator[Mapping[str, Any]]) -> int:
    """White, or black where all these images are of one colour on white, and not all on black."""
    plain = {WHITE: True, BLACK: True}
    for item in items:
        with _open(item, "an image with transparent pixels") as image:
            for level in plain:
                try:
                    pixels = np.asarray(_opaque(image, level))
                except _UNREADABLE:  # named with its row when it is gathered
                    continue
                plain[level] = plain[level] and bool((pixels == pixels[:1, :1]).all())
    return BLACK if plain[WHITE] and not plain[BLACK] else WHITE


def _open(item: Mapping[str, Any] | None, what: str) -> Image.Image:
    """The image with its header read; `item` has its bytes, or the path of its file."""
    if item is None or (item["bytes"] is None and item["path"] is None):
        raise DataError(f"Every example needs an image, but {what} has none.")
    try:
        image = Image.open(BytesIO(item["bytes"]) if item["bytes"] is not None else item["path"])
    except _UNREADABLE as error:
        raise DataError(f"The image of {what} cannot be opened ({error}).") from error
    if image.width * image.height > MOST_PIXELS:
        raise DataError(
            f"The image of {what} has {image.height} x {image.width} pixels, over {MOST_PIXELS:,}; make it smaller."
        )
    return image
