"""`limbeck info PATH`: prints the manifest of a stored set."""

from collections.abc import Mapping
from typing import Any

from rich.markup import escape
from rich.table import Table

from limbeck.commands.console import console
from limbeck.commands.jobs import InfoJob, read_job
from limbeck.commands.options import new_parser
from limbeck.store.manifest import Manifest
from limbeck.store.opened import open


def run(words: list[str]) -> None:
    """The command; `words` are its arguments."""
    parser = new_parser("info", "Print the manifest of a stored set.", "PATH")
    parser.add_argument("path", type=str, help="its folder or URL")
    console.print(table(open(read_job(InfoJob, parser, words).path).manifest))


def table(manifest: Manifest) -> Table:
    """A line per fact; what does not apply is left out."""
    shown = Table(show_header=False, title="Stored set", title_justify="left")
    size = sum(shard.bytes for shard in manifest.shards)
    augmented = manifest.augmentation and f"{manifest.augmentation}, {manifest.views} views"
    facts: Mapping[str, Any] = {
        "examples": f"{manifest.rows:,}",
        "positions": f"{manifest.positions:,} {manifest.positions_are}",
        "kept": ", ".join(f"{name} {value}" for name, value in manifest.kind.items()),
        "classes": f"{manifest.classes:,}",
        "columns": ", ".join(manifest.columns),
        "files": f"{len(manifest.shards):,}, {size:,} bytes, {size / max(1, manifest.positions):,.1f} per position",
        "augmentation": augmented,
        "teacher": manifest.teacher,
        "data": manifest.dataset,
        "tokenizer": manifest.tokenizer,
        "chat template": manifest.chat_template,
        "made by": ", ".join(f"{name} {number}" for name, number in manifest.versions.items()),
    }
    for name, value in facts.items():
        if value is not None:
            shown.add_row(name, escape(str(value)))
    return shown
