"""Rows of token ids as a batch, padded on the right.

    loader = DataLoader(tokenise(records, tokenizer), batch_size=8, collate_fn=Pad(tokenizer.eos_token_id))

What this file does not know: tokenizers, text, models; labels say already which tokens are learned.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from limbeck.errors import ConfigError, DataError
from limbeck.losses.numbers import NO_LABEL
from limbeck.networks.asking import TEACHER_PREFIX, teacher_view
from limbeck.networks.positions import require_same_completions
from limbeck.transfer.text.messages import Record


@dataclass(frozen=True)
class Pad:
    """Collates rows of `tokenise` into `input_ids`, `attention_mask` and `labels` `[B, L]`, all int64.

    Where the rows have teacher columns, also into `teacher_input_ids`, `teacher_attention_mask` and `teacher_labels`
    `[B, Lt]`; and into `row_id` `[B]` where they have one. Other columns are left out.

    Rows of `pack` become `position_ids` `[B, L]`, `teacher_position_ids` `[B, Lt]` and `row_id` `[B, L]`, without
    masks, which position_ids replace. Each padding token is a sequence at position 0, so that none is beyond a
    model's positions; its row_id is -1.

    pad_id: pads input_ids. Neither attention nor a label uses it, so the EOS token serves where there is no padding
        token. Labels are padded with -100.
    multiple_of: L and Lt are rounded up to a multiple of it.

    DataError where labels and input_ids differ in length (position_ids and row_id of packed rows too), where rows
    differ in their columns, and where student and teacher do not learn the same tokens in a row.
    """

    pad_id: int
    multiple_of: int = 1

    def __post_init__(self) -> None:
        if self.multiple_of < 1:
            raise ConfigError(f"multiple_of must be at least 1, but is {self.multiple_of}.")
        if self.pad_id is None or self.pad_id < 0:
            raise ConfigError(
                f"pad_id must be a token, but is {self.pad_id}; a tokenizer without padding token has its eos_token_id."
            )

    def __call__(self, rows: Sequence[Record]) -> dict[str, Tensor]:
        for name in ("row_id", "position_ids", TEACHER_PREFIX + "input_ids"):
            having = sum(name in row for row in rows)
            if having not in (0, len(rows)):
                raise DataError(f"All rows of a batch must have {name!r}, or none, but {having} of {len(rows)} have.")
        prefixes = ["", TEACHER_PREFIX] if TEACHER_PREFIX + "input_ids" in rows[0] else [""]
        packed = "position_ids" in rows[0]
        batch: dict[str, Tensor] = {}
        for prefix in prefixes:
            ids = _columns(rows, prefix + "input_ids")
            batch[prefix + "input_ids"] = self._pad(ids, self.pad_id)
            if packed:
                places = _columns(rows, prefix + "position_ids", beside=ids)
                batch[prefix + "position_ids"] = self._pad(places, 0)
            else:
                batch[prefix + "attention_mask"] = self._pad([torch.ones_like(some) for some in ids], 0)
            batch[prefix + "labels"] = self._pad(_columns(rows, prefix + "labels", beside=ids), NO_LABEL)
        if packed:
            batch["row_id"] = self._pad(_columns(rows, "row_id", beside=_columns(rows, "input_ids")), -1)
        elif "row_id" in rows[0]:
            batch["row_id"] = _row_ids(rows)
        if len(prefixes) > 1:
            require_same_completions(batch, teacher_view(batch))
        return batch

    def _pad(self, rows: Sequence[Tensor], value: int) -> Tensor:
        longest = max(len(row) for row in rows)
        width = -(-longest // self.multiple_of) * self.multiple_of
        padded = torch.full((len(rows), width), value)
        for place, row in enumerate(rows):
            padded[place, : len(row)] = row
        return padded


def _columns(rows: Sequence[Mapping[str, Any]], name: str, beside: Sequence[Tensor] | None = None) -> list[Tensor]:
    """A column's values in each row; DataError where a row has not as many values as in `beside`."""
    found = [_column(row, name, place) for place, row in enumerate(rows)]
    for place, (some, other) in enumerate(zip(beside or found, found, strict=True)):
        if some.shape != other.shape:
            raise DataError(
                f"{_name(rows[place], place)} must have {name} for each token, but has {len(some)} tokens and "
                f"{other.numel()} {name}."
            )
    return found


def _row_ids(rows: Sequence[Mapping[str, Any]]) -> Tensor:
    for place, row in enumerate(rows):
        if np.ndim(row["row_id"]):
            raise DataError(
                f"{_name(row, place)} is packed, but has no 'position_ids', which separate its examples, only "
                f"{sorted(row)}; keep all columns of limbeck.pack."
            )
    return torch.tensor([int(row["row_id"]) for row in rows])


def _column(row: Mapping[str, Any], name: str, place: int) -> Tensor:
    if name not in row:
        raise DataError(f"{_name(row, place)} has no {name!r}, only {sorted(row)}; make the rows by tokenise.")
    values = row[name]
    return values.long() if isinstance(values, Tensor) else torch.from_numpy(np.array(values, dtype=np.int64))


def _name(row: Mapping[str, Any], place: int) -> str:
    if "row_id" in row and np.size(row["row_id"]):
        return f"Row {int(np.ravel(row['row_id'])[0])}"  # a packed row is named after its first example
    return f"The row in place {place} of a batch"
