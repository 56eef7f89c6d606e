"""Oracle: pixels that were written to disk on the spot, composed by hand."""

import io
import struct
import zlib
from pathlib import Path
from typing import Any

import datasets
import numpy as np
import pytest
from PIL import Image

from limbeck.errors import DataError
from limbeck.transfer import TransferSet, table

RNG = np.random.default_rng(0)
ALPHA = RNG.integers(0, 256, (3, 4), dtype=np.uint8)
ALPHA[0, :2] = 0, 255


def save(folder: Path, image: Image.Image, name: str = "0.png", **options: Any) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    image.save(folder / name, **options)


def pixels(examples: TransferSet) -> np.ndarray:
    """`[N, C, H, W]` in 0 to 255."""
    gathered = examples.__getitems__(list(range(len(examples))))["pixel_values"]
    return np.asarray(gathered.numpy() * 255)


def composed(colour: np.ndarray, alpha: np.ndarray, background: int) -> np.ndarray:
    share = alpha[..., None] / 255
    return np.asarray(share * colour + (1 - share) * background)


def said(caplog: pytest.LogCaptureFixture) -> list[str]:
    return [record.getMessage() for record in caplog.records]


@pytest.mark.parametrize("mode", ["RGBA", "LA", "PA", "P"])
def test_transparent_pixels_are_shown_on_white(tmp_path: Path, mode: str, caplog: pytest.LogCaptureFixture) -> None:
    colour = RNG.integers(0, 200, (3, 4, 3), dtype=np.uint8)
    alpha = ALPHA
    if mode == "RGBA":
        image = Image.fromarray(np.dstack([colour, alpha]))
    elif mode == "LA":
        image = Image.fromarray(np.dstack([colour[..., 0], alpha]), mode="LA")
        colour = np.repeat(colour[..., :1], 3, axis=2)
    else:
        image = Image.fromarray((np.arange(12, dtype=np.uint8) % 5).reshape(3, 4), mode="P")
        palette = RNG.integers(0, 200, (5, 3), dtype=np.uint8)
        image.putpalette(palette.tobytes())
        colour = palette[np.asarray(image)]
        alpha = np.where(np.asarray(image) == 2, 0, 255)
    options = {"transparency": 2} if mode in ("P", "PA") else {}
    save(tmp_path / "images", image, **options)
    examples = table(tmp_path / "images")["train"]
    expected = composed(colour, alpha, 255).transpose(2, 0, 1)[None]
    np.testing.assert_allclose(pixels(examples), expected, atol=1)
    assert said(caplog) == ["1 of 1 images have transparent pixels; they are shown on white."]


@pytest.mark.parametrize(("level", "background", "words"), [(0, 255, "white."), (255, 0, "black, as nothing could")])
@pytest.mark.parametrize("mode", ["RGBA", "LA"])
def test_a_drawing_that_is_in_its_alpha_alone_can_be_seen(
    tmp_path: Path, mode: str, level: int, background: int, words: str, caplog: pytest.LogCaptureFixture
) -> None:
    for number in range(2):
        alpha = RNG.integers(0, 256, (3, 4), dtype=np.uint8)
        drawing = [np.full((3, 4), level, np.uint8)] * (3 if mode == "RGBA" else 1)
        save(tmp_path / "images", Image.fromarray(np.dstack([*drawing, alpha]), mode=mode), f"{number}.png")
    examples = table(tmp_path / "images")["train"]
    assert pixels(examples).std() > 40
    shown = pixels(examples)[1, 0]
    np.testing.assert_allclose(shown, composed(np.full((3, 4, 1), level), alpha, background)[..., 0], atol=1)
    assert words in said(caplog)[0]


def test_an_alpha_channel_that_hides_nothing_changes_no_pixel(tmp_path: Path) -> None:
    colour = RNG.integers(0, 256, (3, 4, 3), dtype=np.uint8)
    save(tmp_path / "with", Image.fromarray(np.dstack([colour, np.full((3, 4), 255, np.uint8)])))
    save(tmp_path / "without", Image.fromarray(colour))
    with_, without = (pixels(table(tmp_path / name)["train"]) for name in ("with", "without"))
    np.testing.assert_array_equal(with_, without)


def png(width: int, height: int, *chunks: tuple[bytes, bytes]) -> bytes:
    """A PNG of one gray level, whose rows are all zero, with more chunks."""
    header = struct.pack(">IIBBBBB", width, height, 8, 0, 0, 0, 0)
    rows = zlib.compress(bytes((width + 1) * min(height, 8)), 9)
    parts = [(b"IHDR", header), *chunks, (b"IDAT", rows), (b"IEND", b"")]
    body = b"".join(
        struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data)) for kind, data in parts
    )
    return b"\x89PNG\r\n\x1a\n" + body


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (png(30_000, 30_000), r"image of row 0 of train (cannot be opened \(Image size|has 30000 x 30000 pixels)"),
        (png(9_000, 9_000), r"image of row 0 of train has 9000 x 9000 pixels, over 67,108,864; make it smaller"),
        (
            png(4, 4, (b"zTXt", b"Comment\0\0" + zlib.compress(bytes(2**27)))),
            r"image of row 0 of train cannot be opened \(Decompressed data too large",
        ),
        (b"", "image of row 0 of train cannot be opened"),
        (png(4, 4)[:20], "image of row 0 of train cannot be opened"),
        (b"GIF89a" + bytes(3), "image of row 0 of train cannot be opened"),
    ],
)
def test_images_that_are_no_images_are_named(content: bytes, message: str) -> None:
    data = datasets.Dataset.from_dict({"image": [{"bytes": content, "path": None}]})
    data = data.cast_column("image", datasets.Image())
    with pytest.raises(DataError, match=message):
        table(data, label_column="")


def test_a_large_picture_is_no_bomb() -> None:
    buffer = io.BytesIO()
    Image.new("L", (2_000, 3_000)).save(buffer, "png")
    data = datasets.Dataset.from_dict({"image": [{"bytes": buffer.getvalue(), "path": None}]})
    examples = table(data.cast_column("image", datasets.Image()), label_column="", image_size=4)["train"]
    assert pixels(examples).shape == (1, 1, 4, 4)
