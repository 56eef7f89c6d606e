"""The folder of a run: made ready without mixing in an older run or losing it, and the settings that are left there.

What this file does not know: what is trained.
"""

import json
import shutil
from argparse import ArgumentError
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

from torch import nn

from limbeck.commands import console
from limbeck.commands.jobs import DistillJob, TrainingJob, distill_parser, read_job, read_saved
from limbeck.commands.options import yaml_of
from limbeck.commands.resuming import CHANGED, refuse_other_options
from limbeck.errors import ConfigError, DataError
from limbeck.export import files_of
from limbeck.files import final_name, in_use, require_writable, write_whole
from limbeck.results import Json, JsonView, read_results
from limbeck.teachers import fingerprint_of

SETTINGS = "config.yaml"
SEEDS = "seeds"
"""The folder of the further seeds of a run, each in a folder with its number."""

MODELS = {"student", "baseline"}
LEFT = MODELS | {"results.json", "report.html", "log.jsonl", "baseline.jsonl", SETTINGS, CHANGED, "checkpoints", SEEDS}
LEFT |= {"export.json", "baseline.export.json"}
LEFT |= {path.name for model in MODELS for path in files_of(Path(f"{model}.onnx"))}


@contextmanager
def claimed(job: DistillJob) -> Iterator[Path]:
    """The run's folder, made ready and held: an older run there is neither mixed in nor lost unasked.

    ConfigError where another process trains there.
    """
    folder = Path(job.run.output_dir)
    if folder.exists() and not folder.is_dir():
        raise ConfigError(f"{folder} is a file; pass another --output_dir.")
    require_writable(folder)
    with in_use(folder):
        yield _prepared(job)


def _prepared(job: DistillJob) -> Path:
    options, folder = job.run, Path(job.run.output_dir)
    found = {entry.name for entry in folder.iterdir()}
    foreign = {final_name(name) for name in found} - LEFT
    known = SETTINGS in found or (options.resume and not foreign)  # a damaged settings file may have been deleted
    begun = known and ("student" in found or any(folder.glob("checkpoints/*/checkpoint-*")))
    if found and not begun and (foreign or SETTINGS not in found):
        raise ConfigError(f"{folder} is not empty and is not a Limbeck run; pass another --output_dir.")
    if begun and not options.resume and not options.overwrite:
        raise ConfigError(
            f"{folder} already holds a run; --resume continues it, --overwrite replaces it, and another "
            "--output_dir leaves it alone."
        )
    if not options.resume:
        _remove_run(folder)
    settings = settings_of(job)
    before = settings_in(folder, settings) if options.resume else None
    if begun and before is not None:
        refuse_other_options(before, settings, folder)
    else:
        if begun:
            console.say(f"Note: {folder} has no {SETTINGS}, so the options that it was trained with are not compared.")
        save_settings(settings, folder)  # a run that is resumed keeps what it has until it trains on
    return folder


def settings_in(folder: Path, now: JsonView) -> Json | None:
    """The settings that the run in a folder was trained with, also from its results; None where neither has them.

    now: those of this command, for a default that older runs did not record. ConfigError where they cannot be read.
    """
    if not (folder / SETTINGS).exists():
        return _settings_in_results(folder)
    try:
        before = settings_of(read_saved(folder / SETTINGS).as_trained())
    except (ArgumentError, TypeError, ValueError, AttributeError, RecursionError, OSError) as error:
        raise ConfigError(
            f"{folder / SETTINGS} cannot be read ({error}); delete it; --resume works without it."
        ) from error
    if before.get("learning_rate") is None:
        before["learning_rate"] = now["learning_rate"]
    return before


def _settings_in_results(folder: Path) -> Json | None:
    """The settings in a run's results.json, and defaults for options that it does not have; None where it has none."""
    try:
        found = read_results(folder / "results.json").get("settings")
    except DataError:
        return None
    defaults = settings_of(read_job(DistillJob, distill_parser(), []))
    return defaults | found if isinstance(found, dict) else None


def save_settings(settings: JsonView, folder: Path) -> None:
    """Writes the settings of a run as YAML, for --config."""
    write_whole(folder / SETTINGS, yaml_of(distill_parser(), settings))


def remove_exports(folder: Path, models: Mapping[str, nn.Module]) -> None:
    """Deletes the exports of models that have been trained again since, and prints a note.

    models: by their names in the folder. Each export is known by its export.json; a file without one is left alone.
    """
    for name, model in models.items():
        record = folder / export_of(name)
        try:
            exported = json.loads(record.read_text(encoding="utf-8"))["student"]
        except (OSError, ValueError, KeyError, TypeError):
            continue
        if exported == fingerprint_of(model):
            continue
        exported_files = [path for path in files_of(folder / f"{name}.onnx") if path.exists()] + [record]
        for path in exported_files:
            path.unlink()
        removed = ", ".join(path.name for path in exported_files)
        console.say(
            f"Note: {removed} belonged to the previous {name} and have been removed; limbeck export writes new ones."
        )


def export_of(model: str) -> str:
    """The name of the export.json of a model; the report shows that of the student."""
    return "export.json" if model == "student" else f"{model}.export.json"


def _remove_run(folder: Path) -> None:
    """Deletes what a run left in its folder, and no other files."""
    for path in (folder / name for name in LEFT):
        shutil.rmtree(path) if path.is_dir() else path.unlink(missing_ok=True)


def settings_of(job: TrainingJob) -> Json:
    """The options that a run was trained with, by name; without secrets such as hub_token."""
    left_out = ("resume", "overwrite")
    return {k: v for k, v in job.values().items() if k not in left_out and not k.endswith("_token")}
