"""The description of a stored set: the settings that it was written with, and its files.

    plan.json       while it is being written: the settings that a resuming call must share
    manifest.json   written last: its presence means that the set is complete

Each ends with `sha256`, the hash of its other fields: a changed setting would be read as another distribution.
What this file does not know: Parquet, teachers and tokenizers, which are hashes here.
"""

import hashlib
import json
from collections.abc import Callable
from dataclasses import MISSING, asdict, dataclass, field, fields
from typing import Any, Self

from limbeck.errors import DataError
from limbeck.files import Json, JsonView
from limbeck.networks.asking import TARGET_PREFIX
from limbeck.networks.table import Feature, feature_from
from limbeck.store.columns import ColumnFormat
from limbeck.store.fields import is_deep, wrong_field
from limbeck.store.kinds import Kind

VERSION = 1
NAME = "manifest.json"
SEAL = "sha256"

NEXT_TOKENS = "next tokens"
"""The value of `positions_are` for language models: the positions are those that predict a label."""

TEMPERATURE = "p = softmax(logits / T); no power of T is in what is kept"


@dataclass(frozen=True)
class Plan:
    """The settings that determine the content of the rows.

    kind: the settings of its encoding. classes: of the teacher, or of the tokenizer that it was cut to.
    dtype: of what the teacher gave. columns: how each is kept. positions_are: "examples", "tokens" (one per token of
    an example) or "next tokens" (those that predict a label).
    features: the columns of a table in `inputs`; None for other rows.
    teacher, dataset, tokenizer, chat_template: hashes. augmentation: its repr. views: how many of them are kept.
    """

    kind: Json
    classes: int
    hidden_size: int | None
    dtype: str
    positions_are: str
    columns: dict[str, ColumnFormat]
    rows: int
    rows_per_shard: int
    teacher: str
    dataset: str
    label_names: tuple[str, ...] | None = None
    tokenizer: str | None = None
    chat_template: str | None = None
    augmentation: str | None = None
    augmentation_seed: int | None = None
    views: int = 1
    seed: int = 0
    temperature: str = TEMPERATURE
    version: int = VERSION
    features: tuple[Feature, ...] | None = None

    @property
    def shard_names(self) -> list[str]:
        """The names of its files, in order."""
        shards = -(-self.rows // self.rows_per_shard)
        return [f"part-{shard:05}-of-{shards:05}.parquet" for shard in range(shards)]

    @property
    def targets(self) -> dict[str, ColumnFormat]:
        """The columns of the teacher's targets."""
        return {name: layout for name, layout in self.columns.items() if name.startswith(TARGET_PREFIX)}

    def rows_of(self, shard: int) -> range:
        """The places of a shard's rows."""
        return range(shard * self.rows_per_shard, min(self.rows, (shard + 1) * self.rows_per_shard))

    def to_json(self) -> bytes:
        """The bytes of the file."""
        values = asdict(self)
        return json.dumps(values | {SEAL: _sha256(values)}, indent=1).encode()

    @classmethod
    def from_json(cls, content: bytes, file: str) -> Self:
        """The plan in the bytes of a file; DataError that names the file, where it was changed or a field is wrong."""
        try:
            values = json.loads(content)
        except (ValueError, RecursionError) as error:
            raise DataError(f"{file} is not JSON ({error}); the stored set is damaged.") from error
        if not isinstance(values, dict):
            raise DataError(f"{file} must be a JSON object, but is a {type(values).__name__}.")
        if is_deep(values):
            raise DataError(f"{file} is nested deeper than a description is; the stored set is damaged.")
        version = values.get("version", VERSION)
        if version != VERSION:
            raise DataError(
                f"{file} has version {version}, and this Limbeck reads version {VERSION}; update limbeck to read it."
            )
        wanted = {f.name: f for f in fields(cls)}
        missing = [n for n, f in wanted.items() if n not in values and f.default is f.default_factory is MISSING]
        if SEAL not in values:
            missing.append(SEAL)
        if missing:
            raise DataError(f"{file} has no field {missing[0]!r}; the stored set is damaged.")
        if values.pop(SEAL) != _sha256(values):
            raise DataError(
                f"{file} was changed after it was written: the SHA-256 of its fields is not the one that it ends with; "
                "restore the file, or label the transfer set again."
            )
        if wrong := wrong_field(values):
            raise DataError(f"{file} cannot be read: {wrong}; the stored set is damaged.")
        try:
            return cls(**{name: _READ.get(name, _as_is)(values[name]) for name in wanted if name in values})
        except (TypeError, ValueError, KeyError, AttributeError) as error:
            raise DataError(f"{file} cannot be read: {error}; the stored set is damaged.") from error

    def require_same(self, plan: "Plan", where: str) -> None:
        """DataError with every field in which this plan, found at `where`, differs from the given one."""
        different = differences(self.settings(), plan.settings())
        if different:
            raise DataError(
                f"{where} was made with other settings than those of this call; pass another "
                "path, or the same settings. They differ in:\n" + "\n".join(different)
            )

    def settings(self) -> Json:
        """The fields of a plan, as JSON has them."""
        named = {f.name for f in fields(Plan)}
        return {name: value for name, value in json.loads(Plan.to_json(self)).items() if name in named}


@dataclass(frozen=True)
class Shard:
    """A file of rows."""

    name: str
    rows: int
    positions: int
    bytes: int
    sha256: str


@dataclass(frozen=True)
class Manifest(Plan):
    """The description of a complete set.

    shards: its files. head: of the teacher's output layer, where it is stored: `bytes` and `sha256` of its file,
    `logit_scale`, `softcap`. versions: of the libraries that made it.
    """

    shards: tuple[Shard, ...] = ()
    head: Json | None = None
    versions: dict[str, str] = field(default_factory=dict)

    @property
    def positions(self) -> int:
        """The number of positions with targets, each view counted once."""
        return sum(shard.positions for shard in self.shards)

    @property
    def bytes(self) -> int:
        """The size of all shards together."""
        return sum(shard.bytes for shard in self.shards)


def target_columns(
    kind: Kind, classes: int, hidden_size: int | None, positions_are: str, views: int | None
) -> dict[str, ColumnFormat]:
    """How each column of targets is stored by this kind. views: None for rows without augmentation."""
    lead: tuple[int | None, ...] = () if positions_are == "examples" else (None,)
    columns = {}
    for name, (dtype, width) in kind.columns(classes, hidden_size).items():
        shape = (width,) if width > 1 else ()
        columns[TARGET_PREFIX + name] = ColumnFormat(str(dtype), lead + (shape if views is None else (views, width)))
    return columns


def differences(theirs: JsonView, ours: JsonView, at: str = "") -> list[str]:
    """The fields that differ, a line each with the stored and the given value."""
    found = []
    for name in [*theirs, *(name for name in ours if name not in theirs)]:
        stored, given = theirs.get(name), ours.get(name)
        if isinstance(stored, dict) and isinstance(given, dict):
            found += differences(stored, given, f"{at}{name}.")
        elif stored != given:
            found.append(f"  {at}{name}: stored {stored!r}, given {given!r}")
    return found


def _sha256(values: JsonView) -> str:
    """The hash of the fields, which does not depend on their order or on spaces."""
    return hashlib.sha256(json.dumps(values, sort_keys=True, separators=(",", ":")).encode()).hexdigest()


def _as_is(value: Any) -> Any:
    return value


_READ: dict[str, Callable[[Any], Any]] = {
    "columns": lambda columns: {
        name: ColumnFormat(layout["dtype"], tuple(layout["shape"]), layout["padding"])
        for name, layout in columns.items()
    },
    "features": lambda features: None if features is None else tuple(feature_from(values) for values in features),
    "label_names": lambda names: None if names is None else tuple(names),
    "shards": lambda shards: tuple(Shard(**shard) for shard in shards),
}
