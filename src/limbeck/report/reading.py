"""Results as they come: read from JSON, and looked into without trust. What is missing or no number is None.

What this file does not know: what a page looks like.
"""

import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from limbeck.errors import DataError
from limbeck.results import EXPORT, PAPER, RESULTS, TUNE, Json, JsonView, checked, read_file

FILES = ("results.json", "tune.json")
"""What a run's folder may hold, the first of them that it does."""

MOST = 1e300
"""A number larger than this is read as missing."""

ROLES = ("teacher", "student", "baseline")

NEEDED: dict[str, tuple[str, list[tuple[str, ...]]]] = {
    RESULTS: ("the roles and the verdict of an evaluation", [("roles", "student"), ("verdict",)]),
    PAPER: ("the rows of an experiment", [("rows",)]),
    TUNE: ("the candidates of a search", [("candidates",)]),
}
"""schema -> what there must be, in words, and where it stands."""


def read(results: JsonView | str | Path) -> Json:
    """The results, or those of a file or of a run's folder; DataError for anything else and for newer versions.

    With those of a file comes, as "export", an export.json that lies beside it and is of the same student.
    """
    if isinstance(results, Mapping):
        where = "The mapping"
        found = checked(results, where, *NEEDED)
    else:
        path = Path(results)
        if path.is_dir():
            path = next((path / name for name in FILES if (path / name).exists()), path / FILES[0])
        where = str(path)
        found = read_file(path, *NEEDED, advice="give a run's folder, or a results.json that Limbeck wrote")
        export = _export(path.with_name("export.json"))
        if export is not None and at(export, "student") in items(found, "roles", "student", "fingerprints"):
            found["export"] = export
    needed, places = NEEDED[found["schema"]]
    if any(not at(found, *place) for place in places):
        raise DataError(f"{where} must hold {needed}, but lacks them.")
    return found


def _export(path: Path) -> Json | None:
    """What `limbeck export` wrote there; None for any other file, which is somebody else's."""
    try:
        return read_file(path, EXPORT, advice="run limbeck export")
    except DataError:
        return None


def at(of: Any, *path: str) -> Any:
    """What stands there, or None."""
    for name in path:
        of = of.get(name) if isinstance(of, Mapping) else None
    return of


def number(of: Any, *path: str) -> float | None:
    """The number that stands there; of what was measured per seed, the mean."""
    value = at(of, *path)
    value = at(value, "mean") if isinstance(value, Mapping) else value
    if isinstance(value, bool) or not isinstance(value, int | float) or abs(value) > MOST or math.isnan(value):
        return None
    return float(value)


def numbers(of: Any, *path: str) -> list[float | None]:
    """The list that stands there, None for what is no number; empty where there is no list."""
    return [number({"": value}, "") for value in items(of, *path)]


def items(of: Any, *path: str) -> list[Any]:
    """The list that stands there, or an empty one."""
    value = at(of, *path)
    return list(value) if isinstance(value, list | tuple) else []


def matrix(of: Any, *path: str) -> list[list[float | None]]:
    """A square of numbers, or an empty list; a row that is null, or no list, is one of None."""
    rows = items(of, *path)
    values = [numbers({"": row}, "") or [None] * len(rows) for row in rows]
    return values if all(len(row) == len(rows) for row in values) else []


def class_name(results: JsonView, index: int) -> str:
    """The class's name, or its number."""
    names = items(results, "test", "label_names")
    return str(names[index]) if 0 <= index < len(names) else str(index)


def trained_with(results: JsonView, name: str) -> Any:
    """divergence, temperature, soft_weight or hard_weight of the student's objective, or None.

    It stands in `objective`; files of earlier versions have it, where they do, in `settings`.
    """
    objective = at(results, "objective")
    return at(objective if isinstance(objective, Mapping) else at(results, "settings"), name)


def weights_of(results: JsonView) -> tuple[float | None, float | None]:
    """The soft and the hard weight that the student was trained with, None where they are not known."""
    soft, hard = (number({"": trained_with(results, f"{term}_weight")}, "") for term in ("soft", "hard"))
    return soft, hard


def temperature_of(results: JsonView) -> float | None:
    """The temperature that the student was trained at, where the results say so."""
    temperature = number({"": trained_with(results, "temperature")}, "")
    return temperature if temperature is not None and temperature > 0 else None
