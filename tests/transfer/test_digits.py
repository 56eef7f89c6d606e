"""Oracle: scikit-learn's own arrays."""

import numpy as np
from sklearn.datasets import load_digits

from limbeck.transfer import digits


def test_digits_are_scikit_learns() -> None:
    examples, theirs = digits(), load_digits()
    batch = examples.__getitems__(list(range(len(examples))))
    assert batch["inputs"].shape == (1797, 8, 8)
    assert np.array_equal(batch["inputs"].numpy() * 16, theirs.images)
    assert np.array_equal(batch["labels"].numpy(), theirs.target)
    assert examples.label_names == tuple("0123456789")
    assert examples.num_classes == 10
