"""Rows of token ids as one batch, padded on the right.

    loader = DataLoader(tokenise(records, tokenizer), batch_size=8, collate_fn=Pad(tokenizer.eos_token_id))

What this file does not know: tokenizers, text, models; which tokens are learned was decided before.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from limbeck.errors import ConfigError, DataError
from limbeck.language.positions import NO_LABEL, require_same_completions
from limbeck.models import TEACHER_PREFIX, teacher_view


@dataclass(frozen=True)
class Pad:
    """Collates rows of `tokenise` to `input_ids`, `attention_mask` and `labels` `[B, L]`, all int64.

    And, where the rows have the teacher's own view, to `teacher_input_ids`, `teacher_attention_mask` and
    `teacher_labels` `[B, Lt]`; and to `row_id` `[B]` where they have one. Other columns are left out.

    pad_id: fills up input_ids. No model that honours attention_mask sees it, and no label is made from it, so the
        EOS token serves where there is no padding token. Labels are filled up with -100.
    multiple_of: L and Lt are rounded up to a multiple of it.

    DataError where labels and input_ids differ in length, where rows differ in their columns, and where student and
    teacher do not learn the same tokens in a row.
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

    def __call__(self, rows: Sequence[Mapping[str, Any]]) -> dict[str, Tensor]:
        for name in ("row_id", TEACHER_PREFIX + "input_ids"):
            having = sum(name in row for row in rows)
            if having not in (0, len(rows)):
                raise DataError(f"All rows of a batch must have {name!r}, or none, but {having} of {len(rows)} have.")
        prefixes = ["", TEACHER_PREFIX] if TEACHER_PREFIX + "input_ids" in rows[0] else [""]
        batch: dict[str, Tensor] = {}
        for prefix in prefixes:
            ids = [_column(row, prefix + "input_ids", place) for place, row in enumerate(rows)]
            labels = [_column(row, prefix + "labels", place) for place, row in enumerate(rows)]
            for place, (some, other) in enumerate(zip(ids, labels, strict=True)):
                if some.shape != other.shape:
                    raise DataError(
                        f"{_name(rows[place], place)} must have a label per token, but has {len(some)} "
                        f"{prefix}input_ids and {len(other)} {prefix}labels."
                    )
            batch[prefix + "input_ids"] = self._pad(ids, self.pad_id)
            batch[prefix + "attention_mask"] = self._pad([torch.ones_like(some) for some in ids], 0)
            batch[prefix + "labels"] = self._pad(labels, NO_LABEL)
        if "row_id" in rows[0]:
            batch["row_id"] = torch.tensor([int(row["row_id"]) for row in rows])
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


def _column(row: Mapping[str, Any], name: str, place: int) -> Tensor:
    if name not in row:
        raise DataError(f"{_name(row, place)} has no {name!r}, only {sorted(row)}; make the rows by tokenise.")
    values = row[name]
    return values.long() if isinstance(values, Tensor) else torch.from_numpy(np.array(values, dtype=np.int64))


def _name(row: Mapping[str, Any], place: int) -> str:
    return f"Row {int(row['row_id'])}" if "row_id" in row else f"The row in place {place} of a batch"
