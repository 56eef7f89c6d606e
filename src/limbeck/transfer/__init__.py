"""Transfer sets: the examples on which teacher and student are compared, and augmentation of their batches."""

from limbeck.transfer.augment import Augmentation, augmentation, jitter
from limbeck.transfer.digits import digits
from limbeck.transfer.idx import idx
from limbeck.transfer.rows import Column, TransferSet, arrays, collate
from limbeck.transfer.tables import table

__all__ = [
    "Augmentation",
    "Column",
    "TransferSet",
    "arrays",
    "augmentation",
    "collate",
    "digits",
    "idx",
    "jitter",
    "table",
]
