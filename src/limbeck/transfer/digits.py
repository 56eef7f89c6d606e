"""The handwritten digits that come with scikit-learn: real images without a download."""

import torch

from limbeck.transfer.rows import TransferSet


def digits() -> TransferSet:
    """1,797 digits: column "inputs" `[N, 8, 8]` float32 in [0, 1], labels 0 to 9 named "0" to "9".

    The test set of the UCI "Optical recognition of handwritten digits" (Alpaydin and Kaynak, 1998).
    """
    from sklearn.datasets import load_digits  # takes half a second that no other data set should pay

    data = load_digits()
    images = torch.from_numpy(data.images / 16).float()
    return TransferSet({"inputs": images}, data.target, label_names=[str(name) for name in data.target_names])
