"""Several examples in one row, so that little of a batch is padding.

    rows = pack(tokenise(records, tokenizer, max_length=1024), 1024)
    rows[0]
    # {"row_id": [0, 0, 0, 2, 2], "length": 5, "input_ids": [5, 7, 9, 4, 9], "labels": [-100, 7, 9, -100, 9],
    #  "position_ids": [0, 1, 2, 0, 1]}

A new example begins where `position_ids` restart at 0, and attention must not reach across; training refuses models
for which it does.

What this file does not know: models, batches, tokenizers.
"""

from collections.abc import Mapping, Sequence
from typing import Any

import datasets
import numpy as np

from limbeck.errors import ConfigError, DataError
from limbeck.losses.numbers import NO_LABEL
from limbeck.networks.asking import TEACHER_PREFIX
from limbeck.transfer import arrow
from limbeck.transfer.text.examples import progress_bar
from limbeck.transfer.text.versions import PACK, cache_version

AT_ONCE = 1_000
"""Rows within which examples are combined."""


def pack(
    rows: datasets.Dataset,
    max_length: int,
    *,
    teacher_max_length: int | None = None,
    num_proc: int | None = None,
    progress: bool = False,
) -> datasets.Dataset:
    """A dataset of fewer, longer rows from one of `tokenise`; each example is in one of them as a whole.

    Examples are combined by first-fit decreasing within each 1,000 rows: the same rows in the same order give the
    same result, and their order stays about the same.

    rows: the result of `tokenise`.
    max_length: the longest packed row, in tokens. It may exceed a model's positions, since they restart in each
        example.
    teacher_max_length: the longest packed row of the teacher, in tokens, where the rows have teacher columns; by
        default max_length.
    num_proc, progress: as for `tokenise`. With several workers, each combines only its rows.

    Columns: `input_ids`, `labels`, `position_ids` (from 0 in each example) and `row_id` (of each token's
    example), all of one length; `length`; and `teacher_input_ids`, `teacher_labels`, `teacher_position_ids`, with the
    same examples in the same order. DataError where a row is longer than max_length, where its first token is
    learned (the example before it would predict it), where the sides learn different numbers of tokens, and where
    rows are not those of `tokenise`.
    """
    prefixes = _sides_of(rows)
    limits = [_limit("max_length", max_length)]
    if len(prefixes) > 1:
        of_teacher = max_length if teacher_max_length is None else teacher_max_length
        limits.append(_limit("teacher_max_length", of_teacher))
    for start in range(0, len(rows), AT_ONCE):
        _check(rows.select(range(start, min(start + AT_ONCE, len(rows)))), prefixes, limits)
    with progress_bar(progress):
        packed = rows.with_format("numpy").map(
            _pack,
            batched=True,
            batch_size=AT_ONCE,
            fn_kwargs={"prefixes": prefixes, "limits": limits, "version": cache_version(PACK)},
            remove_columns=rows.column_names,
            features=_features(prefixes),
            num_proc=num_proc,
            desc="Packing",
        )
    return packed.with_format(None)


def _sides_of(rows: datasets.Dataset) -> list[str]:
    """The prefix of the student's columns, and that of the teacher's columns where there are any."""
    if not isinstance(rows, datasets.Dataset):
        raise DataError(
            f"limbeck.pack needs the datasets.Dataset that limbeck.tokenise returns, but got a {type(rows).__name__}."
        )
    prefixes = ["", TEACHER_PREFIX] if TEACHER_PREFIX + "input_ids" in rows.column_names else [""]
    needed = {"row_id", *(prefix + name for prefix in prefixes for name in ("input_ids", "labels"))}
    found = set(rows.column_names)
    if needed - found or found - needed - {"length"}:
        raise DataError(
            f"limbeck.pack needs the columns {sorted(needed)} that limbeck.tokenise returns, but these rows have "
            f"{sorted(found)}; pack rows of tokenise once, before other columns per token are added."
        )
    if len(rows) == 0:
        raise DataError("There must be a row to pack, but there is none.")
    return prefixes


def _limit(name: str, given: int) -> int:
    if given < 2:
        raise ConfigError(f"{name} must be at least 2, one token to read and one to learn, but is {given}.")
    return given


def _check(rows: datasets.Dataset, prefixes: Sequence[str], limits: Sequence[int]) -> None:
    """DataError for rows that cannot be combined with others."""
    learned = []
    for prefix, limit in zip(prefixes, limits, strict=True):
        _, lengths = arrow.lists(rows, prefix + "input_ids")
        labels, places = arrow.lists(rows, prefix + "labels")
        named = f"{prefix}max_length={limit}"
        _refuse(rows, lengths > limit, f"longer than {named}; tokenise with that {prefix}max_length, or give more")
        _refuse(rows, lengths != places, f"with {prefix}labels and {prefix}input_ids of different lengths")
        ends = np.cumsum(lengths)
        counted = np.concatenate([[0], np.cumsum(labels != NO_LABEL)])  # learned tokens before each token
        learned.append(counted[ends] - counted[ends - lengths])
        first = np.full(len(lengths), -1)  # a row without tokens is refused too
        first[lengths > 0] = labels[(ends - lengths)[lengths > 0]]
        _refuse(rows, first != NO_LABEL, "whose first token is learned, which another example would predict")
    _refuse(rows, learned[0] != learned[-1], "with different numbers of learned tokens for student and teacher")


def _refuse(rows: datasets.Dataset, bad: np.ndarray, what: str) -> None:
    if bad.any():
        ids = arrow.column(rows, "row_id").to_numpy()[bad]
        more = ", ..." if len(ids) > 10 else ""
        raise DataError(f"Rows cannot be packed {what} (row_id {', '.join(map(str, ids[:10]))}{more}).")


def _features(prefixes: Sequence[str]) -> Any:
    ids = datasets.List(datasets.Value("int32"))
    columns = {"row_id": datasets.List(datasets.Value("int64")), "length": datasets.Value("int32")}
    names = ("input_ids", "labels", "position_ids")
    return datasets.Features(columns | {prefix + name: ids for prefix in prefixes for name in names})


def _pack(
    batch: Mapping[str, Any], prefixes: Sequence[str], limits: Sequence[int], version: str
) -> dict[str, list[Any]]:
    """The packed rows of a batch of rows, for datasets.map. version: part of the fingerprint of cached rows only."""
    lengths = np.array([[len(ids) for ids in batch[prefix + "input_ids"]] for prefix in prefixes]).T  # [rows, sides]
    columns: dict[str, list[Any]] = {name: [] for name in _features(prefixes)}
    for together in _first_fit_decreasing(lengths, np.array(limits)):
        parts = lengths[together]  # [examples, sides]
        columns["row_id"].append(np.repeat(batch["row_id"][together], parts[:, 0]))
        columns["length"].append(parts[:, 0].sum())
        for side, prefix in enumerate(prefixes):
            for name in ("input_ids", "labels"):
                columns[prefix + name].append(np.concatenate([batch[prefix + name][place] for place in together]))
            columns[prefix + "position_ids"].append(np.concatenate([np.arange(n) for n in parts[:, side]]))
    return columns


def _first_fit_decreasing(lengths: np.ndarray, limits: np.ndarray) -> list[list[int]]:
    """The row numbers of each packed row. lengths `[rows, sides]`: in tokens; limits `[sides]`: of a packed row."""
    room = np.tile(limits, (len(lengths), 1))  # at most one packed row per row; unused ones stay empty
    together: list[list[int]] = [[] for _ in lengths]
    for place in np.argsort(-(lengths / limits).max(1), kind="stable").tolist():
        first = int((room >= lengths[place]).all(1).argmax())
        room[first] -= lengths[place]
        together[first].append(place)
    return sorted(sorted(places) for places in together if places)
