"""Oracle: one image at a time, padded with NumPy and cut out at the offset that the draws say."""

import numpy as np
import pytest
import torch
from torch import Tensor

from limbeck.errors import DataError
from limbeck.transfer import arrays, augmentation, draws, jitter
from limbeck.transfer.augment import Uniform


def shift_one(image: np.ndarray, down: int, right: int) -> np.ndarray:
    moved = np.zeros_like(image)
    height, width = image.shape[-2:]
    for y in range(height):
        for x in range(width):
            if 0 <= y - down < height and 0 <= x - right < width:
                moved[..., y, x] = image[..., y - down, x - right]
    return moved


def batch_of(shape: tuple[int, ...], first_row: int = 0) -> dict[str, Tensor]:
    generator = torch.Generator().manual_seed(0)
    rows = torch.arange(first_row, first_row + shape[0])
    return {"inputs": torch.rand(shape, generator=generator) + 0.5, "row_id": rows}


@pytest.mark.parametrize("shape", [(9, 6, 5), (9, 3, 5, 6), (4, 1, 2, 2)])
@pytest.mark.parametrize("pixels", [0, 1, 3])
def test_jitter_shifts_each_image_by_its_draws(shape: tuple[int, ...], pixels: int) -> None:
    batch = batch_of(shape, first_row=40)
    got = jitter(pixels, seed=7)(batch, epoch=2)
    numbers = draws.uniform(7, 2, batch["row_id"], 2).numpy()
    offsets = np.floor(numbers * (2 * pixels + 1)).astype(int) - pixels
    expected = [shift_one(image, *offset) for image, offset in zip(batch["inputs"].numpy(), offsets, strict=True)]
    assert np.array_equal(got["inputs"].numpy(), np.stack(expected))


def test_jitter_uses_every_offset_equally_often() -> None:
    n = 10_000
    images = torch.zeros(n, 5, 5)
    images[:, 2, 2] = 1
    shifted = jitter(2)({"inputs": images, "row_id": torch.arange(n)}, epoch=0)["inputs"]
    assert torch.equal(shifted.sum((1, 2)), torch.ones(n))  # 2 pixels never push the point out
    counts = shifted.sum(0).flatten()
    chi_square = ((counts - n / 25) ** 2 / (n / 25)).sum()
    assert chi_square < 51.2  # 24 degrees of freedom, 0.1 %


def test_a_view_does_not_depend_on_the_batch() -> None:
    images = arrays(torch.rand(50, 8, 8, generator=torch.Generator().manual_seed(0)))
    augment = jitter(2, seed=1)
    whole = augment(images.__getitems__(list(range(50))), epoch=3)["inputs"]
    some = augment(images.__getitems__([31, 4, 17]), epoch=3)["inputs"]
    part = augment(images.select([4, 17, 31]).__getitems__([2]), epoch=3)["inputs"]
    assert torch.equal(some, whole[[31, 4, 17]])
    assert torch.equal(part, whole[[31]])


def test_views_differ_by_epoch_seed_and_row() -> None:
    batch = batch_of((64, 8, 8))
    batch["inputs"] = batch["inputs"][:1].expand(64, 8, 8)
    views = [jitter(3, seed)(batch, epoch)["inputs"] for seed, epoch in [(0, 0), (0, 1), (1, 0)]]
    for i in range(3):
        assert len(views[i].unique(dim=0)) > 24  # of 49 offsets, 64 rows meet 36 on average
        for j in range(i):
            same = (views[i] == views[j]).flatten(1).all(1).sum()
            assert same < 8  # 64 / 49 by chance


def test_the_batch_passed_in_is_left_as_it_is() -> None:
    batch = {**batch_of((4, 3, 3)), "labels": torch.arange(4)}
    before = {name: values.clone() for name, values in batch.items()}
    after = jitter(1)(batch, epoch=0)
    assert all(torch.equal(batch[name], before[name]) for name in before)
    assert after is not batch
    assert after["labels"] is batch["labels"]


def test_the_teachers_own_view_gets_the_same_shift() -> None:
    batch = batch_of((16, 6, 6))
    batch["teacher_inputs"] = batch["inputs"] * 2
    after = jitter(2)(batch, epoch=0)
    assert torch.equal(after["teacher_inputs"], after["inputs"] * 2)


def test_own_functions_draw_new_numbers_at_each_call() -> None:
    seen = []

    def brighten(images: Tensor, uniform: Uniform) -> Tensor:
        seen.extend([uniform(2), uniform(3)])
        return images + seen[0][:, :1]

    batch = {"x": torch.zeros(5, 2), "row_id": torch.arange(5)}
    after = augmentation(brighten, seed=4, column="x")(batch, epoch=6)
    expected = draws.uniform(4, 6, torch.arange(5), 5)
    assert torch.equal(torch.cat(seen, dim=1), expected)
    assert torch.equal(after["x"], expected[:, :1].expand(5, 2))


def flip(images: Tensor, uniform: Uniform) -> Tensor:
    return torch.where(uniform(1)[:, :, None] < 0.5, images, images.flip(-1))


def test_repr_describes_the_augmentation() -> None:
    assert repr(jitter(2)) == "jitter(pixels=2, seed=0)"
    assert repr(jitter(1, seed=3, column="pixel_values")) == "jitter(pixels=1, seed=3, column='pixel_values')"
    assert repr(augmentation(flip, seed=5)) == f"augmentation({__name__}.flip, seed=5)"
    assert repr(augmentation(flip, name="flip(p=0.5)")) == "augmentation(flip(p=0.5), seed=0)"


def test_refusals() -> None:
    batch = batch_of((4, 3, 3))
    with pytest.raises(DataError, match=r"no row_id, only \['inputs'\].*TransferSet"):
        jitter(1)({"inputs": batch["inputs"]}, epoch=0)
    with pytest.raises(
        DataError, match=r"column 'inputs', but the batch has \['pixel_values', 'row_id'\]; pass column="
    ):
        jitter(1)({"pixel_values": batch["inputs"], "row_id": batch["row_id"]}, epoch=0)
    with pytest.raises(DataError, match=r"\[n, H, W\] or \[n, C, H, W\], but got \[4, 9\]"):
        jitter(1)({**batch, "inputs": batch["inputs"].flatten(1)}, epoch=0)
    for pixels in (-1, 0.5):
        with pytest.raises(DataError, match=f"whole number of pixels, 0 or more, but got {pixels}"):
            jitter(pixels)  # type: ignore[arg-type]
