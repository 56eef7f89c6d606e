"""Several examples in one row, so that little of a batch is filling.

    rows = pack(tokenise(records, tokenizer, max_length=1024), 1024)
    rows[0]
    # {"row_id": [0, 0, 0, 2, 2], "length": 5, "input_ids": [5, 7, 9, 4, 9], "labels": [-100, 7, 9, -100, 9],
    #  "position_ids": [0, 1, 2, 0, 1]}

Where `position_ids` begin again at 0 another example begins, and attention does not reach across: of the models that
do not keep to that, training refuses to begin.

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

AT_ONCE = 1_000
"""Rows among which companions are looked for."""


def pack(
    rows: Any,
    max_length: int,
    *,
    teacher_max_length: int | None = None,
    num_proc: int | None = None,
    progress: bool = False,
) -> Any:
    """A `datasets.Dataset` of fewer, longer rows from one of `tokenise`; every example is whole and in one of them.

    Examples are put together by first-fit decreasing within each 1,000 rows: the same rows in the same order give the
    same result, and it keeps about their order.

    max_length: the length of a packed row, in tokens. It may exceed what a model reads at once, since
        positions begin again.
    teacher_max_length: the length of the teacher's packed row, in tokens, where the rows have teacher columns; by
        default max_length.
    num_proc, progress: as of `tokenise`. With workers, companions are looked for in the rows of each.

    Columns: `input_ids`, `labels`, `position_ids` (from 0 in each example) and `row_id` (of the example that a token
    is of), all of one length; `length`; and `teacher_input_ids`, `teacher_labels`, `teacher_position_ids`, with the
    same examples in the same order. DataError where a row is longer than max_length, where its first token is
    learned (the example before it would predict it), where the sides learn different numbers of tokens, and where
    rows are not those of `tokenise`.
    """
    prefixes = _sides_of(rows)
    limits = [_limit("max_length", max_length)]
    if len(prefixes) > 1:
        own = max_length if teacher_max_length is None else teacher_max_length
        limits.append(_limit("teacher_max_length", own))
    for start in range(0, len(rows), AT_ONCE):
        _check(rows.select(range(start, min(start + AT_ONCE, len(rows)))), prefixes, limits)
    with progress_bar(progress):
        packed = rows.with_format("numpy").map(
            _pack,
            batched=True,
            batch_size=AT_ONCE,
            fn_kwargs={"prefixes": prefixes, "limits": limits},
            remove_columns=rows.column_names,
            features=_features(prefixes),
            num_proc=num_proc,
            desc="Packing",
        )
    return packed.with_format(None)


def _sides_of(rows: Any) -> list[str]:
    """What the columns of the student's side begin with, and of the teacher's where it has its own."""
    if not isinstance(rows, datasets.Dataset):
        raise DataError(f"What is packed is the datasets.Dataset of limbeck.tokenise, not a {type(rows).__name__}.")
    prefixes = ["", TEACHER_PREFIX] if TEACHER_PREFIX + "input_ids" in rows.column_names else [""]
    needed = {"row_id", *(prefix + name for prefix in prefixes for name in ("input_ids", "labels"))}
    found = set(rows.column_names)
    if needed - found or found - needed - {"length"}:
        raise DataError(
            f"What is packed has the columns {sorted(needed)} that limbeck.tokenise makes, but these rows have "
            f"{sorted(found)}; pack rows of tokenise, each once, before any other column per token is added."
        )
    if len(rows) == 0:
        raise DataError("There must be a row to pack, but there is none.")
    return prefixes


def _limit(name: str, given: int) -> int:
    if given < 2:
        raise ConfigError(f"{name} must be at least 2, one token to read and one to learn, but is {given}.")
    return given


def _check(rows: Any, prefixes: Sequence[str], limits: Sequence[int]) -> None:
    """DataError for rows that cannot stand beside others."""
    learned = []
    for prefix, limit in zip(prefixes, limits, strict=True):
        _, lengths = arrow.lists(rows, prefix + "input_ids")
        labels, places = arrow.lists(rows, prefix + "labels")
        named = f"{prefix}max_length={limit}"
        _refuse(rows, lengths > limit, f"longer than {named}; tokenise with that {prefix}max_length, or give more")
        _refuse(rows, lengths != places, f"without one of {prefix}labels for each of {prefix}input_ids")
        ends = np.cumsum(lengths)
        counted = np.concatenate([[0], np.cumsum(labels != NO_LABEL)])  # learned ones before each token
        learned.append(counted[ends] - counted[ends - lengths])
        first = np.full(len(lengths), -1)  # of a row without tokens too
        first[lengths > 0] = labels[(ends - lengths)[lengths > 0]]
        _refuse(rows, first != NO_LABEL, "whose first token is learned, which another example would predict")
    _refuse(rows, learned[0] != learned[-1], "that ask student and teacher for different numbers of tokens")


def _refuse(rows: Any, bad: np.ndarray, what: str) -> None:
    if bad.any():
        ids = arrow.column(rows, "row_id").to_numpy()[bad]
        more = ", ..." if len(ids) > 10 else ""
        raise DataError(f"Rows cannot be packed {what} (row_id {', '.join(map(str, ids[:10]))}{more}).")


def _features(prefixes: Sequence[str]) -> Any:
    ids = datasets.List(datasets.Value("int32"))
    columns = {"row_id": datasets.List(datasets.Value("int64")), "length": datasets.Value("int32")}
    names = ("input_ids", "labels", "position_ids")
    return datasets.Features(columns | {prefix + name: ids for prefix in prefixes for name in names})


def _pack(batch: Mapping[str, Any], prefixes: Sequence[str], limits: Sequence[int]) -> dict[str, list[Any]]:
    """The packed rows of a batch of rows, for datasets.map."""
    lengths = np.array([[len(ids) for ids in batch[prefix + "input_ids"]] for prefix in prefixes]).T  # [rows, sides]
    columns: dict[str, list[Any]] = {name: [] for name in _features(prefixes)}
    for together in _first_fit_decreasing(lengths, np.array(limits)):
        own = lengths[together]  # [examples, sides]
        columns["row_id"].append(np.repeat(batch["row_id"][together], own[:, 0]))
        columns["length"].append(own[:, 0].sum())
        for side, prefix in enumerate(prefixes):
            for name in ("input_ids", "labels"):
                columns[prefix + name].append(np.concatenate([batch[prefix + name][place] for place in together]))
            columns[prefix + "position_ids"].append(np.concatenate([np.arange(n) for n in own[:, side]]))
    return columns


def _first_fit_decreasing(lengths: np.ndarray, limits: np.ndarray) -> list[list[int]]:
    """The places of the rows that stand together, each within limits `[sides]`; lengths `[rows, sides]`."""
    room = np.tile(limits, (len(lengths), 1))  # a packed row for each at most; those not used yet are empty
    together: list[list[int]] = [[] for _ in lengths]
    for place in np.argsort(-(lengths / limits).max(1), kind="stable").tolist():
        first = int((room >= lengths[place]).all(1).argmax())
        room[first] -= lengths[place]
        together[first].append(place)
    return sorted(sorted(places) for places in together if places)
