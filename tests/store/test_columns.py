"""Columns in Arrow: what goes in comes out, and a hash of rows that does not depend on how they are cut.

Oracle: the arrays that went in.
"""

import numpy as np
import pyarrow as pa
import pytest

from limbeck.errors import DataError
from limbeck.store.columns import Chunks, ColumnFormat, Digest, format_of, to_arrow, to_numpy

SHAPES: list[tuple[int | None, ...]] = [(), (3,), (2, 4), (None,), (None, 3)]
DTYPES = ["uint8", "int16", "int32", "int64", "float16", "float32", "float64", "bool"]


@pytest.mark.parametrize("copied", [0, 2**27])
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("shape", SHAPES)
def test_what_goes_in_comes_out(
    shape: tuple[int | None, ...], dtype: str, copied: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("limbeck.store.columns._COPIED", copied)
    random = np.random.default_rng(0)
    lengths = np.array([2, 0, 5, 1, 3]) if None in shape else None
    entries = 5 if lengths is None else int(lengths.sum())
    own = tuple(size for size in shape if size is not None)
    values = random.integers(0, 100, (entries, *own)).astype(dtype)
    kept = ColumnFormat(dtype, shape)
    table = pa.table({"column": to_arrow(values, kept, lengths)})
    found, found_lengths = to_numpy(table.column("column"), kept)
    assert found.dtype == values.dtype
    assert np.array_equal(found, values)
    assert lengths is None or np.array_equal(found_lengths, lengths)
    cut = pa.concat_tables([table.slice(2, 2), table.slice(0, 1)])  # as rows are chosen: not from the start
    found, _ = to_numpy(cut.column("column"), kept)
    ends = np.arange(1, 6) if lengths is None else np.cumsum(lengths)
    starts = ends - (1 if lengths is None else lengths)
    expected = np.concatenate([values[starts[i] : ends[i]] for i in (2, 3, 0)])
    assert np.array_equal(found, expected)
    chosen, chosen_lengths = Chunks(cut.column("column"), kept).at(np.array([2, 0, 2]))  # rows 0, 2 and 0
    expected = np.concatenate([values[starts[i] : ends[i]] for i in (0, 2, 0)])
    assert chosen.dtype == values.dtype
    assert np.array_equal(chosen, expected)
    assert lengths is None or np.array_equal(chosen_lengths, lengths[[0, 2, 0]])


def test_rows_without_a_value_are_refused() -> None:
    for column, kept in (
        (pa.array([1, None]), ColumnFormat("int64")),
        (pa.array([[1], None]), ColumnFormat("int64", (None,))),
    ):
        with pytest.raises(DataError, match="rows without a value"):
            Chunks(pa.chunked_array([column]), kept)


def test_columns_that_are_in_arrow_are_kept_as_they_are() -> None:
    assert format_of(pa.int64()) == ColumnFormat("int64")
    assert format_of(pa.list_(pa.int32())) == ColumnFormat("int32", (None,))
    assert format_of(pa.string()) == ColumnFormat("string")


ROWS = pa.table({"a": pa.array([[1, 2], [], [3]]), "b": pa.array(["x", None, "z"]), "c": pa.array([1.5, 2.5, 3.5])})


def digest(*tables: pa.Table) -> str:
    made = Digest()
    for table in tables:
        made.update(table)
    return made.hexdigest()


def test_a_digest_is_of_the_rows_and_not_of_how_they_are_cut() -> None:
    assert digest(ROWS) == digest(ROWS.slice(0, 1), ROWS.slice(1)) == digest(*(ROWS.slice(i, 1) for i in range(3)))


@pytest.mark.parametrize(
    "changed",
    [
        {"a": pa.array([[1], [2], [3]])},
        {"a": pa.array([[1, 2], [], [4]])},
        {"b": pa.array(["x", "", "z"])},
        {"c": pa.array([1.5, 2.5, 3.5], pa.float32())},
        {"d": pa.array([1, 2, 3])},
    ],
)
def test_a_digest_tells_rows_apart(changed: dict[str, pa.Array]) -> None:
    columns = {name: ROWS.column(name) for name in ROWS.column_names}
    assert digest(pa.table(columns | changed)) != digest(ROWS)
    assert digest(ROWS.take([1, 0, 2])) != digest(ROWS)
