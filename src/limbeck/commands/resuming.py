"""Which options may differ when `limbeck distill --resume` continues a run, and the record of those that did.

    refuse_other_options(before, now, folder)      # before anything runs
    NoteChanges(folder, ...)                       # once training begins: changed.json, config.yaml

What a run was trained with stands in its config.yaml and results.json. An option that decides what is trained keeps its
value from the first step to the last; the options of MAY_CHANGE do not, and their changes are listed.

What this file does not know: how a run's folder is prepared, what is trained.
"""

import json
import shlex
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path

from transformers import TrainerCallback, TrainerControl, TrainerState, TrainingArguments

from limbeck.commands import console
from limbeck.errors import ConfigError
from limbeck.files import write_whole
from limbeck.results import Json, JsonView

CHANGED = "changed.json"
"""The file of a run's folder that lists the options that were changed on resuming."""

LENGTH = {"max_steps", "num_train_epochs"}
"""Options of how long is trained: more at any time, but not less than has been trained."""

BATCHES = {"per_device_train_batch_size", "gradient_accumulation_steps"}
"""Options that may change together: a checkpoint is refused where their product, with the processes, is another one."""

REPORTED = {"tuned", "judge_by", "report_to", "project", "trackio_space_id", "trackio_bucket_id"}
REPORTED |= {"trackio_static_space_id", "log_level", "log_level_replica", "log_on_each_node", "logging_first_step"}
REPORTED |= {
    "logging_steps",
    "logging_strategy",
    "include_num_input_tokens_seen",
    "disable_tqdm",
    "skip_memory_metrics",
}
"""Options of what is logged and reported."""

SAVED = {"save_on_each_node", "save_only_model", "save_steps", "save_strategy", "save_total_limit"}
SAVED |= {"enable_jit_checkpoint", "push_to_hub", "hub_always_push", "hub_model_id", "hub_private_repo"}
SAVED |= {"hub_revision", "hub_strategy"}
"""Options of what is saved, and where."""

EVALUATED = {"eval_strategy", "eval_steps", "eval_delay", "eval_on_start", "eval_accumulation_steps"}
EVALUATED |= {"per_device_eval_batch_size", "eval_use_gather_object", "include_for_metrics", "do_eval", "do_predict"}
"""Options of evaluations during training."""

MACHINE = {"num_proc", "dataloader_num_workers", "dataloader_persistent_workers", "dataloader_pin_memory"}
MACHINE |= {"dataloader_prefetch_factor", "dataloader_multiprocessing_context", "use_cpu", "local_rank"}
MACHINE |= {"gradient_checkpointing", "gradient_checkpointing_kwargs", "torch_empty_cache_steps"}
MACHINE |= {"ddp_backend", "ddp_broadcast_buffers", "ddp_bucket_cap_mb", "ddp_find_unused_parameters"}
MACHINE |= {"ddp_static_graph", "ddp_timeout"}
"""Options of how the same numbers are computed: processes, memory, loading."""

GROWING = {"baseline", "seeds"}
"""Options that may grow, since what they add is trained beside what is there."""

MAY_CHANGE = LENGTH | BATCHES | REPORTED | SAVED | EVALUATED | MACHINE | GROWING
"""The options that may differ on resuming; every other difference is refused."""

WHERE = {"output_dir"}
"""Options that say where a run is: a folder that was moved is the same run."""


def refuse_other_options(before: JsonView, now: JsonView, folder: Path) -> None:
    """Prints a note for each option that may change; ConfigError that names all of those that may not.

    before: the settings that the run in `folder` was trained with. now: those of this command.
    """
    found = differences(before, now)
    refused = [name for name in found if not _may_change(name, before.get(name), now[name])]
    if refused:
        listed = "; ".join(f"--{name} was {_text(before.get(name))}, but is {_text(now[name])} now" for name in refused)
        all_of_them = f"--config {shlex.quote(str(folder / 'config.yaml'))}"
        if not _same(before.get("output_dir"), str(folder)):  # it was moved
            all_of_them += f" --output_dir {shlex.quote(str(folder))}"
        raise ConfigError(
            f"{folder} was trained with other options, and --resume cannot change them: {listed}. Pass the former "
            f"values (limbeck distill {all_of_them} --resume has all of them), or train a new run in another "
            "--output_dir."
        )
    for name in found:
        console.say(f"Note: {name} was {_text(before.get(name))} until now, and is {_text(now[name])} from here on.")


def differences(before: JsonView, now: JsonView) -> list[str]:
    """The names of the settings that differ, sorted; two spellings of the path of one file are the same."""
    return [name for name in sorted(now) if name not in WHERE and not _same(before.get(name), now[name])]


def changed_in(folder: Path) -> list[Json]:
    """The options that were changed on resuming the run, oldest first: option, before, after, at_step, date."""
    try:
        found = json.loads((folder / CHANGED).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return []
    return found if isinstance(found, list) else []


class NoteChanges(TrainerCallback):
    """Records the changed options once the checkpoint that the run continues from has been accepted.

    before: the settings in the run's folder, None where there are none. now: those of this command.
    save: writes `now` as the run's settings.
    """

    def __init__(self, folder: Path, before: JsonView | None, now: JsonView, save: Callable[[JsonView, Path], None]):
        self.folder, self.before, self.now, self.save = folder, before, now, save

    def on_train_begin(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: object
    ) -> None:
        """Writes changed.json and config.yaml; ConfigError where the run has been trained for longer than is wanted."""
        taken, wanted = state.global_step, state.max_steps
        if taken > wanted:
            raise ConfigError(
                f"{self.folder} has been trained for {taken:,} steps, which --resume cannot take back to {wanted:,}; "
                "pass a larger --max_steps or --num_train_epochs, or train a new run in another --output_dir."
            )
        if not state.is_world_process_zero:
            return
        if not taken:  # it begins anew, with these settings alone
            (self.folder / CHANGED).unlink(missing_ok=True)
        elif self.before is not None:
            note_changes(self.folder, self.before, self.now, taken)
        self.save(self.now, self.folder)


def note_changes(folder: Path, before: JsonView, now: JsonView, step: int) -> None:
    """Adds the options that differ to the run's list of changes. step: the steps taken with the former values.

    A change that is changed again at the same step has trained nothing: one of the two is left, or none.
    """
    changes = changed_in(folder)
    today = datetime.now(UTC).date().isoformat()
    for name in differences(before, now):
        first = before.get(name)
        for earlier in [c for c in changes if (c.get("option"), c.get("at_step")) == (name, step)]:
            first = earlier.get("before")
            changes.remove(earlier)
        if not _same(first, now[name]):
            changes.append({"option": name, "before": first, "after": now[name], "at_step": step, "date": today})
    if changes or (folder / CHANGED).exists():
        write_whole(folder / CHANGED, json.dumps(changes, indent=1, ensure_ascii=False, default=str) + "\n")


def _may_change(name: str, before: object, now: object) -> bool:
    if name in GROWING:
        return isinstance(before, int) and isinstance(now, int) and now > before
    return name in MAY_CHANGE


def _same(one: object, other: object) -> bool:
    if isinstance(one, list | tuple) and isinstance(other, list | tuple):
        return len(one) == len(other) and all(map(_same, one, other))
    if isinstance(one, str) and isinstance(other, str) and one != other:
        return Path(one).exists() and Path(one).resolve() == Path(other).resolve()
    return one == other


def _text(value: object) -> str:
    if isinstance(value, list | tuple):
        return " ".join(map(str, value)) or "none"
    return "none" if value is None else str(value)
