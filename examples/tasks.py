"""Tasks beyond one class an example: numbers, several labels, the classes of pixels.

    limbeck distill --data examples.tasks:diabetes --teacher examples.tasks:process --variance --baseline ...
    limbeck distill --data examples.tasks:tagged --teacher examples.tasks:tagger --baseline ...
    limbeck distill --data examples.tasks:inked --teacher runs/painter/student --network examples.tasks:painter ...

Each callable returns data or a model; docs/tasks.md has the whole commands and what they print. The teachers are fitted
on all labels of the training part; with --labelled, the baselines have a few of them.
"""

from itertools import pairwise

import numpy as np
import torch
from sklearn.datasets import load_diabetes, make_multilabel_classification
from sklearn.gaussian_process import GaussianProcessRegressor
from sklearn.gaussian_process.kernels import RBF, ConstantKernel, WhiteKernel
from sklearn.neural_network import MLPClassifier
from torch import nn

from limbeck import TransferSet, arrays, digits

QUARTER = 0.25
TAGS = ("art", "film", "food", "law", "music", "sport", "travel", "war")


def diabetes() -> dict[str, TransferSet]:
    """442 patients, ten measurements each, and how far their diabetes went in a year: a number from 25 to 346."""
    inputs, progress = load_diabetes(return_X_y=True)
    inputs = inputs * np.sqrt(len(inputs))  # every column to variance 1
    whole = arrays(inputs, progress, task="regression", label_names=["progress"])
    return _with_test(whole)


def process() -> GaussianProcessRegressor:
    """A Gaussian process, which gives a variance with each number."""
    kernel = ConstantKernel() * RBF(5.0) + WhiteKernel()
    return GaussianProcessRegressor(kernel, normalize_y=True, random_state=0).fit(*_training(diabetes()))


def tagged() -> dict[str, TransferSet]:
    """4,000 made-up documents, each the counts of 100 words and any of eight tags."""
    counts, tags = make_multilabel_classification(
        4000, n_features=100, n_classes=len(TAGS), n_labels=3, length=100, random_state=0
    )
    return _with_test(arrays(np.log1p(counts), tags, task="multi_label", label_names=TAGS))


def tagger() -> MLPClassifier:
    """A wide network of scikit-learn's: a probability for each tag."""
    teacher = MLPClassifier((256,), alpha=1.0, early_stopping=True, max_iter=60, random_state=0)
    return teacher.fit(*_training(tagged()))


def inked() -> dict[str, TransferSet]:
    """Two handwritten digits side by side on a noisy page, and for each pixel: paper, the left digit, the right one."""
    images = digits().__getitems__(range(1797))["inputs"]  # [1797, 8, 8]
    g = torch.Generator().manual_seed(0)
    left, right = (images[torch.randint(len(images), (1200,), generator=g)] for _ in range(2))
    page = torch.cat([left, right], -1)
    masks = (page > 0.4).long()
    masks[..., 8:] *= 2
    noisy = (page + 0.25 * torch.randn(page.shape, generator=g)).clamp(0, 1)[:, None]
    return _with_test(TransferSet({"pixel_values": noisy}, masks, label_names=["paper", "left", "right"]))


def painter() -> nn.Module:
    """A convolutional network that sees the whole page from each pixel."""
    return _network(32)


def painted() -> nn.Module:
    """The same, 24 times smaller."""
    return _network(6)


def _network(width: int) -> nn.Module:
    parts: list[nn.Module] = []
    for layer, (before, after) in enumerate(pairwise([1, width, width, width])):
        parts += [nn.Conv2d(before, after, 3, padding=2**layer, dilation=2**layer), nn.ReLU()]
    return nn.Sequential(*parts, nn.Conv2d(width, 3, 3, padding=1))


def _with_test(whole: TransferSet) -> dict[str, TransferSet]:
    train, test = whole.split(QUARTER, seed=0)
    return {"train": train, "test": test}


def _training(splits: dict[str, TransferSet]) -> tuple[np.ndarray, np.ndarray]:
    batch = splits["train"].__getitems__(range(len(splits["train"])))
    return batch["inputs"].numpy(), batch["labels"].numpy()
