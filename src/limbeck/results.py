"""Results as JSON files: the schemas and their versions, and how such a file is written and read.

    write_results(results, "runs/demo/results.json")
    results = read_results("runs/demo/results.json")

Every file begins with its schema, the schema's version, and the version of Limbeck that wrote it (`header`).

What this file does not know: torch, how results come about, what they look like on a page.
"""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from limbeck._version import __version__
from limbeck.errors import DataError
from limbeck.files import Json as Json
from limbeck.files import JsonView as JsonView
from limbeck.files import write_whole

RESULTS, PAPER, TUNE, EXPORT = "limbeck.results", "limbeck.paper", "limbeck.tune", "limbeck.export"
"""What an evaluation, `limbeck paper`, `limbeck tune` and `limbeck export` write."""

VERSIONS = {RESULTS: 1, PAPER: 1, TUNE: 1, EXPORT: 1}
"""schema -> its newest version, which is the one that is written."""


def header(schema: str) -> Json:
    """The first fields of a file of this schema."""
    return {"schema": schema, "version": VERSIONS[schema], "limbeck": __version__}


def write_results(results: JsonView, path: str | Path) -> None:
    """Writes results as JSON (UTF-8): whole or not at all, so that a reader never meets half a file.

    results: plain Python values, as `evaluate`, `compare` or `tune` return them; ValueError for nan and infinity.
    path: the file, such as runs/demo/results.json; its folder is made where there is none.
    """
    write_whole(path, json.dumps(results, indent=1, ensure_ascii=False, allow_nan=False) + "\n")


def read_results(path: str | Path) -> Json:
    """Reads the results of an evaluation; DataError for anything else, and for results of a newer Limbeck."""
    return read_file(path, RESULTS, advice="give a results.json that Limbeck wrote")


def read_file(path: str | Path, *schemas: str, advice: str) -> Json:
    """Reads a file of one of these schemas; DataError for anything else, and for newer versions.

    advice: ends the message where there is no such file, or no JSON in it: "give a results.json that Limbeck wrote".
    """
    path = Path(path)
    try:
        found = json.loads(path.read_text(encoding="utf-8-sig"))
    except FileNotFoundError:
        raise DataError(f"There is no {path}; {advice}.") from None
    except OSError as error:
        raise DataError(f"{path} cannot be read: {error.strerror}.") from error
    except (ValueError, RecursionError) as error:
        raise DataError(f"{path} is not a JSON file ({error}); {advice}.") from None
    return checked(found, str(path), *schemas)


def checked(found: Any, where: str, *schemas: str) -> Json:
    """The results, if they are of one of these schemas and of a version that this Limbeck reads; else DataError.

    found: parsed JSON. where: what it was read from, for the message.
    """
    schema = found.get("schema") if isinstance(found, Mapping) else None
    if schema not in schemas:
        expected = " or ".join(f'"{name}"' for name in schemas)
        raise DataError(f'{where} must hold "schema": {expected}, but has {schema!r}.')
    version = found.get("version")
    if not isinstance(version, int) or version > VERSIONS[schema]:
        raise DataError(
            f"{where} holds results of version {version!r}, but this Limbeck ({__version__}) reads version "
            f"{VERSIONS[schema]}; update Limbeck."
        )
    return dict(found)
