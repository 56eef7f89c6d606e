"""The splits of a source as data sets: the hub, folders, Parquet, CSV, TSV and JSON files.

    load_splits("train.csv")                  # {"train": Dataset}
    load_splits("reviews/")                   # train.csv, dev.csv, test.csv
    load_splits("stanfordnlp/sst2")

In CSV and TSV files only an empty cell is missing: `NA`, `None`, `null` and `nan` are words, and may be classes.
What this file does not know: which column is what.
"""

import csv
import glob
import io
import logging
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeAlias

import datasets
import pandas as pd
import pyarrow as pa

from limbeck.errors import DataError
from limbeck.transfer.raw import beginning, refuse_bombs, refuse_null_records

log = logging.getLogger("limbeck")

Source: TypeAlias = (
    str | Path | datasets.Dataset | datasets.DatasetDict | pd.DataFrame | Mapping[str, pd.DataFrame | datasets.Dataset]
)

HEADERS = "A CSV or TSV file without a header line needs column_names=."
_READERS = {".csv": "csv", ".tsv": "csv", ".json": "json", ".jsonl": "json", ".parquet": "parquet"}
_SPLITS = {
    "train": re.compile(r"train(ing)?([-_.].*)?"),
    "validation": re.compile(r"(dev|valid|validation|val)([-_.].*)?"),
    "test": re.compile(r"(test(ing)?|eval(uation)?)([-_.].*)?"),
}
_HELD_OUT = re.compile(r"(.*[-_. ])?(hold|held)[-_ ]?out([-_. ].*)?", re.IGNORECASE)
"""Names of files that are meant for no training, but name no split."""

# Without these, pandas takes NA, None, null, nan, ... as missing.
_ONLY_EMPTY_IS_MISSING = {"keep_default_na": False}
_DELIMITERS = {",": "commas", ";": "semicolons", "\t": "tabs", "|": "bars"}
_SAMPLE = 2**16
"""Bytes of a file in which its delimiter is looked for."""


@dataclass(frozen=True)
class CsvOptions:
    """How CSV and TSV files are to be read: the names of columns that have no header line, and words for "missing"."""

    column_names: Sequence[str] | None = None
    missing: Sequence[str] = ()


def load_splits(
    source: Source, column_names: Sequence[str] | None = None, missing: Sequence[str] = ()
) -> dict[str, datasets.Dataset]:
    """The splits of a source as `table` takes it, in the order of the source.

    column_names: of CSV and TSV files without a header line. missing: words in them that stand for a missing value.
    """
    if isinstance(source, pd.DataFrame):
        source = {"train": source}
    if isinstance(source, datasets.Dataset):
        source = {"train": source}
    if isinstance(source, Mapping):
        if not source:
            raise DataError("The data has no split; pass a dict of DataFrames by split, such as {'train': frame}.")
        return {str(name): _as_dataset(found, str(name)) for name, found in source.items()}
    if not isinstance(source, str | Path):
        raise DataError(
            "A table is read from a path, the name of a data set, a Dataset, a pandas DataFrame, or a dict of these by "
            f"split, but got {_described(source)}."
        )
    csv_options = CsvOptions(column_names, missing)
    text = str(source)
    path = Path(text).expanduser()
    files = [Path(name) for name in sorted(glob.glob(str(path)))] if not path.exists() else [path]
    if not files and (text.startswith((".", "/", "~")) or path.suffix in _READERS or glob.has_magic(text)):
        raise DataError(f"There is no file or folder {text}.")
    if odd := next((file for file in files if not file.is_file() and not file.is_dir()), None):
        raise DataError(f"{odd} is neither a file nor a folder, but a pipe or a device; copy it into a file.")
    try:
        if not files:
            name, _, configuration = text.partition(":")
            return _load(name, configuration or None, csv_options)
        if files == [path] and path.is_dir():
            return _load(str(path if path.name else path.resolve()), None, csv_options)
        return _load_files(files, csv_options)
    except StopIteration as error:  # datasets finds no row to tell the columns from
        raise DataError(f"{text} cannot be read: there is nothing in it.") from error
    except (OSError, ValueError, datasets.exceptions.DatasetsError) as error:
        if isinstance(error, DataError):
            raise
        what = (
            f"{text} cannot be read" if files else f"{text} is neither a local file or folder nor a data set on the hub"
        )
        cause = error.__cause__ or error  # datasets wraps the reason into "an error occurred"
        tabular = any(file.suffix in (".csv", ".tsv") or any(file.glob("*.[ct]sv")) for file in files)
        is_text = not isinstance(cause, UnicodeDecodeError)
        hint = (HEADERS if tabular else "") if is_text else "Save the file as UTF-8."
        raise DataError(f"{what}: {cause}\n{hint}".rstrip()) from error


def _load(name: str, configuration: str | None, csv_options: CsvOptions) -> dict[str, datasets.Dataset]:
    """The splits of a folder, or of a data set on the hub."""
    if Path(name).is_dir() and glob.has_magic(name):
        raise DataError(f"The name of the folder {name} has one of [ ] * ?, which stand for patterns; rename it.")
    builder = datasets.load_dataset_builder(name, configuration)
    if Path(name).is_dir():
        by_split = builder.config.data_files or {}
        _check_names(Path(name), {split: [Path(url) for url in urls] for split, urls in by_split.items()})
        _refuse_harmful(
            [Path(url) for urls in by_split.values() for url in urls], type(builder).__module__.rpartition(".")[2]
        )
    if hasattr(builder.config, "keep_default_na"):  # a folder of CSV or TSV files
        urls = [str(url) for of_split in (builder.config.data_files or {}).values() for url in of_split]
        options = _csv_options([Path(url) for url in urls if Path(url).exists()], csv_options)
        builder = datasets.load_dataset_builder(name, configuration, **options)
    builder.download_and_prepare()
    return dict(builder.as_dataset())


def _refuse_harmful(files: Sequence[Path], reader: str | None) -> None:
    """DataError for files that would end the process, or fill its memory, while they are read."""
    refuse_bombs(files)
    if reader == "json":
        refuse_null_records(files)


def _check_names(folder: Path, by_split: Mapping[str, Sequence[Path]]) -> None:
    """DataError where a held-out file of a folder would be trained on; logs which tables are not read."""
    used = [file for files in by_split.values() for file in files if file.suffix.lower() in _READERS]
    if not used:  # a folder of images
        return
    _refuse_held_out(by_split.get("train", []))
    kinds = {_READERS[file.suffix.lower()] for file in used}
    names = {file.name for file in used}
    found = sorted(file.name for file in folder.iterdir() if _READERS.get(file.suffix.lower()) in kinds)
    if ignored := [name for name in found if name not in names]:
        log.warning(
            "Of %s only the files that name a split are read; %s %s left out.",
            folder,
            ", ".join(ignored[:5]),
            "is" if len(ignored) == 1 else "are",
        )


def _refuse_held_out(training: Sequence[Path]) -> None:
    """DataError where one of several training files is named as one that is held out."""
    held_out = [file.name for file in training if _HELD_OUT.fullmatch(file.stem)]
    if held_out and len(training) > 1:
        raise DataError(
            f"{held_out[0]} would be trained on, as its name is that of no split; rename it to test{_ending(training)} "
            f"or validation{_ending(training)}, or remove it."
        )


def _as_dataset(found: object, split: str) -> datasets.Dataset:
    """The rows of a split; DataError for what is no table, or has columns that no table can have."""
    if isinstance(found, datasets.Dataset):
        return found
    if not isinstance(found, pd.DataFrame):
        raise DataError(f"The split {split} must be a pandas DataFrame or a Dataset, but got {_described(found)}.")
    if not found.columns.is_unique:
        twice = sorted({str(name) for name in found.columns[found.columns.duplicated()]})
        raise DataError(f"The split {split} has several columns named {', '.join(twice)}; rename them.")
    try:
        return datasets.Dataset.from_pandas(found, preserve_index=False)
    except (pa.ArrowException, TypeError) as error:  # such as numbers and texts in one column
        reasons = "; ".join(str(reason) for reason in error.args)
        raise DataError(f"The split {split} cannot be read: {reasons}. Give each column values of one type.") from error


def _described(found: object) -> str:
    """The type of a value, and for a column of pandas how it becomes a table."""
    return type(found).__name__ + (" (its to_frame() is a DataFrame)" if isinstance(found, pd.Series) else "")


def _ending(files: Sequence[Path]) -> str:
    return files[0].suffix.lower()


def _load_files(files: Sequence[Path], csv_options: CsvOptions) -> dict[str, datasets.Dataset]:
    readers = {_READERS.get(file.suffix.lower()) for file in files}
    if len(readers) > 1 or None in readers:
        raise DataError(
            f"Files must be of one kind out of {sorted(_READERS)}, but these are {[file.name for file in files[:5]]}."
        )
    by_split: dict[str, list[Path]] = {}
    unnamed: list[str] = []
    for file in files:
        fitting = [split for split, pattern in _SPLITS.items() if pattern.fullmatch(file.stem)]
        by_split.setdefault(fitting[0] if fitting else "train", []).append(file)
        if not fitting:
            unnamed.append(file.name)
    _refuse_held_out(by_split.get("train", []))
    if unnamed and len(unnamed) < len(files):
        raise DataError(
            f"{', '.join(unnamed[:5])} would be trained on: of these {len(files)} files, some are named after their "
            f"split (train.*, validation.*, test.*) and {'this one is' if len(unnamed) == 1 else 'these are'} not. "
            "Rename or remove what is not training data."
        )
    (reader,) = readers
    if csv_options.missing and reader != "csv":
        raise DataError(f"missing (--missing) is for CSV and TSV files; a {reader} file has its own missing values.")
    _refuse_harmful(files, reader)
    options = _csv_options(files, csv_options) if reader == "csv" else {}
    escaped = {split: [glob.escape(str(file)) for file in of_split] for split, of_split in by_split.items()}
    return dict(datasets.load_dataset(reader, data_files=escaped, **options))


def _csv_options(files: Sequence[Path], given: CsvOptions) -> dict[str, Any]:
    """The options of the reader of CSV and TSV files: the delimiter, the decimal sign and what is missing."""
    column_names = given.column_names
    options: dict[str, Any] = {**_ONLY_EMPTY_IS_MISSING, "na_values": ["", *given.missing]}
    if column_names is not None:
        options["names"] = list(column_names)
    found = {file: _delimiter_and_decimal(file, column_names) for file in files}
    if len(set(found.values())) > 1:
        first, other = next((a, b) for a in found for b in found if found[a] != found[b])
        raise DataError(
            "All files of a source must have the same delimiter and decimal sign, but "
            f"{first.name} has {_named(*found[first])} and {other.name} {_named(*found[other])}."
        )
    for file, (delimiter, decimal) in list(found.items())[:1]:
        options |= {"sep": delimiter, "decimal": decimal}
        if file.suffix.lower() == ".tsv" and delimiter == "\t":  # a TSV has no quoting: a lone " is a character
            options["quoting"] = csv.QUOTE_NONE
        if delimiter != _default_delimiter(file):
            log.warning("%s is read with %s.", file.name, _named(delimiter, decimal))
    return options


def _named(delimiter: str, decimal: str) -> str:
    return f"{_DELIMITERS[delimiter]} between its columns" + (" and decimal commas" if decimal == "," else "")


def _default_delimiter(file: Path) -> str:
    return "\t" if file.suffix.lower() == ".tsv" else ","


def _delimiter_and_decimal(file: Path, column_names: Sequence[str] | None) -> tuple[str, str]:
    """The delimiter of a file and its decimal sign, "." or ",".

    The delimiter is that of the file's kind, unless only another one splits all lines into the same number of columns.
    """
    sample = beginning(file, _SAMPLE)
    lines = sample.decode("utf-8", errors="replace").removeprefix("\ufeff")
    if len(sample) == _SAMPLE:
        lines = lines[: lines.rfind("\n") + 1]  # the last line may be cut
    usual = _default_delimiter(file)
    rows = _split(lines, usual)
    delimiter = usual
    if rows and not _fits(rows, column_names):
        others = [other for other in _DELIMITERS if other != usual and _fits(_split(lines, other), column_names)]
        if len(others) == 1:
            (delimiter,) = others
            rows = _split(lines, delimiter)
    _check_lengths(file, rows, column_names)
    cells = [cell.strip() for row in rows for cell in row]
    commas = any(re.fullmatch(r"[+-]?\d+,\d+", cell) and not re.fullmatch(r".*,\d{3}", cell) for cell in cells)
    points = any(re.fullmatch(r"[+-]?\d+\.\d+", cell) for cell in cells)
    return delimiter, "," if delimiter != "," and commas and not points else "."


def _check_lengths(file: Path, rows: Sequence[Sequence[str]], column_names: Sequence[str] | None) -> None:
    """DataError for a row with more cells than the header, which would shift the others; logs what else is odd.

    rows: those of the sample, the header first where there is one.
    """
    expected = len(column_names or rows[0]) if rows else 0
    lengths = [len(row) for row in rows[0 if column_names else 1 :]]
    row = next((i for i, length in enumerate(lengths) if length > expected), None)
    if row is not None and (lengths[0] != expected + 1 or len(set(lengths)) > 1 or expected == 1):
        raise DataError(
            f"Row {row} of {file} has {lengths[row]} cells, but there are {expected} columns"
            f"{'' if column_names else ' in its header'}; a cell that contains the delimiter needs quotes."
        )
    if row is not None:
        log.warning("Each row of %s has one cell more than its header: the first is read as the row's name.", file.name)
    short = [i for i, length in enumerate(lengths) if length < expected]
    if short:
        log.warning(
            "Row %d of %s has %d of its %d cells; the others are taken as empty (%d such rows near the beginning).",
            short[0],
            file.name,
            lengths[short[0]],
            expected,
            len(short),
        )


def _fits(rows: Sequence[Sequence[str]], column_names: Sequence[str] | None) -> bool:
    """Whether a delimiter gives every row the same number of columns, of which there are several."""
    expected = len(rows[0]) if column_names is None else len(column_names)
    return (expected > 1 or column_names is not None) and all(len(row) == expected for row in rows)


def _split(lines: str, delimiter: str) -> list[list[str]]:
    """The cells of the lines that are not empty."""
    options: dict[str, Any] = {"delimiter": delimiter}
    if delimiter == "\t":
        options["quoting"] = csv.QUOTE_NONE
    limit = csv.field_size_limit()
    csv.field_size_limit(max(limit, _SAMPLE))
    try:
        return [row for row in csv.reader(io.StringIO(lines), **options) if row]
    except csv.Error:  # such as a NUL byte: left to the reader, whose message names the line
        return []
    finally:
        csv.field_size_limit(limit)
