"""Records as rows for encoder-decoders: the tokens of a source, and the tokens of the target that is written.

    rows = limbeck.tokenise(records, tokenizer, encoder_decoder=True)
    # {"row_id": 0, "length": 5, "input_ids": [source], "labels": [target]}

What this file does not know: models, what a decoder begins with.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import datasets
import torch
from torch import Tensor
from transformers import PreTrainedTokenizerBase

from limbeck.errors import ConfigError, DataError
from limbeck.losses.numbers import NO_LABEL
from limbeck.networks.asking import TEACHER_PREFIX
from limbeck.transfer.text.messages import Record
from limbeck.transfer.text.versions import PAIRS, cache_version

SOURCE, TARGET, TEACHER_SOURCE = "prompt", "completion", "teacher_prompt"
_CUT = "_cut"


def tokenise_pairs(
    records: datasets.Dataset,
    tokenizer: PreTrainedTokenizerBase,
    *,
    max_length: int | None = None,
    teacher_max_length: int | None = None,
    num_proc: int | None = None,
) -> tuple[datasets.Dataset, int]:
    """The rows of token ids of records, and how many records were cut.

    records: with the columns `prompt` (the source) and `completion` (the target), and `teacher_prompt` where the
        teacher reads another source. tokenizer: makes both with its own special tokens; a target ends with EOS.
    max_length, teacher_max_length: the most tokens of a source, and max_length those of a target too.
    """
    columns = records.column_names
    if not {SOURCE, TARGET} <= set(columns):
        raise DataError(
            f"An encoder-decoder reads a source and writes a target, so its records need the columns `{SOURCE}` and "
            f"`{TARGET}`, but have {columns}; rename columns, or use a causal model for running text and messages."
        )
    if tokenizer.eos_token_id is None:
        raise DataError("A target must end with an EOS token, but the tokenizer has none; set tokenizer.eos_token.")
    for name, length in (("max_length", max_length), ("teacher_max_length", teacher_max_length)):
        if length is not None and length < 2:
            raise ConfigError(f"{name} must be at least 2, but is {length}.")
    names = [SOURCE, TARGET, *([TEACHER_SOURCE] if TEACHER_SOURCE in columns else [])]
    for name in names:
        for row, text in enumerate(records[name]):
            if not isinstance(text, str) or (name == TARGET and not text):
                raise DataError(f"Every record needs text in `{name}`, but row {row} has {text!r}; remove such rows.")
    settings: dict[str, Any] = {"tokenizer": tokenizer, "limit": max_length, "teacher_limit": teacher_max_length}
    settings["version"] = cache_version(PAIRS)
    made = records.map(
        _encode,
        batched=True,
        with_indices=True,
        fn_kwargs=settings,
        remove_columns=columns,
        num_proc=num_proc,
        desc="Tokenising",
    )
    return made.remove_columns([_CUT]), sum(made[_CUT])


def _encode(
    batch: Mapping[str, list[Any]],
    places: list[int],
    tokenizer: Any,
    limit: int | None,
    teacher_limit: int | None,
    version: str,
) -> dict[str, list[Any]]:
    """The token columns of a batch of records. version: of this function, for the cache of datasets.map."""
    sources, cut = _limited(tokenizer(batch[SOURCE], verbose=False)["input_ids"], tokenizer, limit)
    targets = [_ended(ids, tokenizer) for ids in tokenizer(text_target=batch[TARGET], verbose=False)["input_ids"]]
    targets, cut_targets = _limited(targets, tokenizer, limit)
    columns: dict[str, list[Any]] = {
        "row_id": batch.get("row_id", places),
        "input_ids": sources,
        "labels": targets,
        "length": [len(ids) for ids in sources],
    }
    cuts = [cut, cut_targets]
    if TEACHER_SOURCE in batch:
        theirs, cut_theirs = _limited(
            tokenizer(batch[TEACHER_SOURCE], verbose=False)["input_ids"], tokenizer, teacher_limit
        )
        columns |= {TEACHER_PREFIX + "input_ids": theirs, TEACHER_PREFIX + "labels": targets}
        cuts.append(cut_theirs)
    return columns | {_CUT: [any(each) for each in zip(*cuts, strict=True)]}


def _ended(ids: list[int], tokenizer: Any) -> list[int]:
    return ids if tokenizer.eos_token_id in ids[-2:] else [*ids, tokenizer.eos_token_id]  # some end with a language


def _limited(rows: list[list[int]], tokenizer: Any, limit: int | None) -> tuple[list[list[int]], list[bool]]:
    """The rows, each cut to the limit; its last token, an EOS, stays. And which were cut."""
    own = tokenizer.model_max_length
    most = min(limit or own, own)
    cut = [len(ids) > most for ids in rows]
    return [[*ids[: int(most) - 1], ids[-1]] if long else ids for ids, long in zip(rows, cut, strict=True)], cut


@dataclass(frozen=True)
class PadPairs:
    """Collates rows of `tokenise(..., encoder_decoder=True)`.

    Returns `input_ids` and `attention_mask` `[B, Ls]`, `labels` `[B, Lt]` padded with -100 and `row_id` `[B]`, and the
    same of the teacher's columns where there are some. Padded on the right. pad_id: pads input_ids.
    """

    pad_id: int

    def __call__(self, rows: Sequence[Record]) -> dict[str, Tensor]:
        """The batch of these rows."""
        batch: dict[str, Tensor] = {}
        for prefix in ("", TEACHER_PREFIX):
            if prefix + "input_ids" not in rows[0]:
                continue
            for name in ("input_ids", "labels"):
                if any(prefix + name not in row for row in rows):
                    raise DataError(f"Every row of a batch needs {prefix + name!r}; make the rows by tokenise.")
            sources = [torch.as_tensor(row[prefix + "input_ids"]).long() for row in rows]
            targets = [torch.as_tensor(row[prefix + "labels"]).long() for row in rows]
            batch[prefix + "input_ids"] = _padded(sources, self.pad_id)
            batch[prefix + "attention_mask"] = _padded([torch.ones_like(ids) for ids in sources], 0)
            batch[prefix + "labels"] = _padded(targets, NO_LABEL)
        if "row_id" in rows[0]:
            batch["row_id"] = torch.tensor([int(row["row_id"]) for row in rows])
        return batch


def _padded(rows: Sequence[Tensor], value: int) -> Tensor:
    return torch.nn.utils.rnn.pad_sequence(list(rows), batch_first=True, padding_value=value)
