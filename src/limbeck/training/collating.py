"""The collator of the trainer, which passes batches that a dataset gathered itself through unchanged."""

from collections.abc import Callable, Mapping
from typing import Any

from transformers import default_data_collator

from limbeck.errors import DataError
from limbeck.networks.asking import Batch


class AsGathered:
    """Collates a list of examples; a batch that the dataset gathered itself is returned unchanged.

    collate: `examples -> batch`.
    """

    def __init__(self, collate: Callable[[Any], Batch]):
        self.collate = collate

    def __call__(self, gathered: Any) -> Batch:
        if isinstance(gathered, Mapping):
            return gathered
        if self.collate is default_data_collator and not isinstance(gathered[0], Mapping):
            raise DataError(
                "Examples must be dicts of tensors, column by column, but the data set gives "
                f"{type(gathered[0]).__name__}; make a TransferSet of it (limbeck.arrays), or give a data_collator."
            )
        return self.collate(gathered)
