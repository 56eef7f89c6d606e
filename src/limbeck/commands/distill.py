"""`limbeck distill`: a student from data, a teacher and an objective, judged beside its baseline.

Files in the run's folder:
    student/, baseline/    the trained models, for limbeck.load
    results.json           what was measured (docs/results.md)
    report.html            the same as a page (docs/report.md)
    log.jsonl              a line per logged step; baseline.jsonl for the baseline
    config.yaml            the settings: `limbeck distill --config` runs them again
    changed.json           the options that were changed on resuming, where any were
    checkpoints/           of the trainer, for --resume
    seeds/43/              student/, baseline/, their logs and checkpoints of each further seed, with --seeds
"""

import copy
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, TypeAlias

from accelerate import PartialState
from torch import nn
from transformers import EarlyStoppingCallback, IntervalStrategy, TrainerCallback, set_seed

from limbeck.commands import classifiers, console, language, progress
from limbeck.commands.jobs import TRAINER_DEFAULTS, DistillJob, distill_parser, read_job
from limbeck.commands.options import RunOptions
from limbeck.commands.resuming import NoteChanges, changed_in
from limbeck.commands.run_folder import (
    SEEDS,
    SETTINGS,
    claimed,
    remove_exports,
    save_settings,
    settings_in,
    settings_of,
)
from limbeck.commands.signals import finishes_step
from limbeck.commands.texts import (
    divergence_from_text,
    open_student,
    open_teacher,
    refuse_unused_networks,
    was_trained,
)
from limbeck.commands.work import Work
from limbeck.errors import ConfigError
from limbeck.losses.objective import Objective
from limbeck.networks.folder import save
from limbeck.networks.trained import note_objective
from limbeck.report import write_report
from limbeck.results import write_results
from limbeck.store.opened import open as open_stored
from limbeck.teachers import BaseTeacher
from limbeck.training.checkpoints import newest_whole
from limbeck.training.config import DistillConfig
from limbeck.training.objectives import default_objective, require_objective_of
from limbeck.training.trainer import DistillTrainer
from limbeck.tuning import RESULTS, differences, read_tune, settings_of_search

ROLES = ("student", "baseline")
"""The models of a run, in the order in which they are trained."""

Models: TypeAlias = dict[str, nn.Module]
Curves: TypeAlias = dict[str, list[dict[str, Any]]]
"""Models, and the logs of their training, by role."""


def run(words: list[str]) -> None:
    """The command; `words` are its arguments."""
    with ExitStack() as resources:
        _run(words, resources)


def _run(words: list[str], resources: ExitStack) -> None:
    """resources: closed when the command ends."""
    console.hush()
    job = read_job(DistillJob, distill_parser(brief="--help" in words or "-h" in words), words)
    job = job.as_trained()
    _objective(job), job.training_arguments()  # raise before anything is read
    tuned = _read_tuned(job.objective.tuned, words) if job.objective.tuned else None
    classifiers.refuse_options_of_mlp(job.student)
    refuse_unused_networks(job.own.network, [job.student.student, *job.teacher.teacher])
    # before the data is read, so that a wrong name is reported at once
    teacher = open_teacher(job.teacher.teacher, job.teacher.mean, job.own.network)
    stored_set = open_stored(job.split.transfer_set) if job.split.transfer_set else None
    student = _opened(job, job.seed, teacher)  # after the teacher, so that the same seed gives the same student
    writes = language.are_language_models(student, teacher)
    if writes:
        language.refuse_judge_by(job.run.judge_by)
        job = job.for_language_models()
    objective = _objective(job)
    state = PartialState()  # of this process, and those that torchrun or accelerate launch started beside it
    console.console.quiet = not state.is_main_process
    with state.main_process_first():  # the others find in the cache what it has read
        work = (language if writes else classifiers).prepare(job, student, teacher, stored_set)
    job, objective = _for_task(job, objective, work)
    student, taught_by, train = work.student, work.teacher, work.splits["train"]
    job = job.with_default_rate(was_trained(job.student.student, student))
    options, config = job.run, job.training_arguments()
    if options.early_stopping and "validation" not in work.splits:
        raise ConfigError("--early_stopping needs a validation loss; set --validation to a share above 0.")
    folder = resources.enter_context(claimed(job)) if state.is_main_process else Path(options.output_dir)
    state.wait_for_everyone()
    console.say_plan(student, taught_by, objective, work.splits, config)
    if tuned is not None:
        given = dict(work.with_trainer)
        held_out = given.pop("eval_dataset")
        here = settings_of_search(student, taught_by, objective.divergence, train, held_out, config, given)
        tuned["differs"] = differences(tuned, here)
        if not tuned["finished"]:
            console.say(
                f"Note: the search of {job.objective.tuned} has not finished, so the report will not explain it."
            )
        elif tuned["differs"]:
            console.say(f"Note: the search of {job.objective.tuned} was made with {', '.join(tuned['differs'])}.")

    settings = settings_of(job)
    before = settings_in(folder, settings) if state.is_main_process else None
    noted = NoteChanges(folder, before, settings, save_settings)
    lesson = Lesson("student", taught_by, objective, config, train, (noted,))
    places = {job.seed + k: folder / SEEDS / str(job.seed + k) if k else folder for k in range(options.seeds)}
    trained: list[tuple[Models, Curves]] = []
    for seed, place in places.items():
        if options.seeds > 1:
            console.say(f"Seed {seed} ({len(trained) + 1} of {options.seeds}).")
        if trained:
            again, with_trainer = work.of_seed(seed, _opened(job, seed, teacher))
            work = replace(work, student=again, with_trainer=with_trainer)
            lesson = replace(lesson, config=copy.copy(config), callbacks=())
            lesson.config.seed = seed
        trained.append(_train_pair(lesson, place, options, work))

    state.destroy_process_group()
    if not state.is_main_process:
        return
    for models, _ in trained:
        for model in models.values():
            model.to(config.device)
    students, baselines = ([models[role] for models, _ in trained if role in models] for role in ROLES)
    results = work.measure(students, baselines, trained[0][1], config.per_device_eval_batch_size)
    for place, (models, _) in zip(places.values(), trained, strict=True):
        remove_exports(place, models)
    results["settings"] = settings
    if changed := changed_in(folder):
        results["changed"] = changed
    if tuned is not None:
        results["tuned"] = {k: v for k, v in tuned.items() if k != "trials"}
    write_results(results, folder / "results.json")
    write_report(folder, folder / "report.html")
    console.print_results(results)
    models_left = ", ".join([*trained[0][0], *([SEEDS] if len(trained) > 1 else [])])
    console.say(f"{folder}: {models_left}, results.json, report.html, log.jsonl, {SETTINGS}")


def _for_task(job: DistillJob, objective: Objective, work: Work) -> tuple[DistillJob, Objective]:
    """The job and the objective with the divergence of the task, where the user did not choose one."""
    if work.task is None or not work.task.is_regression:
        require_objective_of(objective, work.task, work.teacher)
        return job, objective
    if "temperature" in job.given:
        raise ConfigError("Numbers are not softened, so --temperature has no effect on regression; remove it.")
    chosen = default_objective(work.task, work.teacher).divergence
    job = job.with_defaults({"divergence": getattr(chosen, "name", ""), "temperature": 1.0})
    objective = _objective(job)
    require_objective_of(objective, work.task, work.teacher)
    if job.judge_by == "nll" and not work.task.variance:
        raise ConfigError("--judge_by nll needs a variance of each number: pass --variance, or judge by another score.")
    return job, objective


def _opened(job: DistillJob, seed: int, teacher: BaseTeacher | None) -> Any:
    """The student that --student names, with the weights of a seed where it is new; None for an mlp."""
    text = job.student.student
    if text == "mlp":
        return None
    set_seed(seed)
    student = open_student(text, teacher, job.own.network)
    if not isinstance(student, nn.Module):
        raise ConfigError(f"{text} is not a network that can be trained, but a {type(student).__name__}.")
    return student if job.run.seeds == 1 else copy.deepcopy(student)  # a callable may return the same network again


def _read_tuned(path: str, words: list[str]) -> dict[str, Any] | None:
    """The search that explains the run; None where the YAML file names a search that no longer exists."""
    file = Path(path, RESULTS) if Path(path).is_dir() else Path(path)
    if not file.exists() and not any(word.partition("=")[0] == "--tuned" for word in words):
        console.say(f"Note: there is no {file}, so the report will not say how T and hard_weight were chosen.")
        return None
    return read_tune(file)


@dataclass(frozen=True)
class Lesson:
    """How one of a run's models is trained.

    role: "student" or "baseline". teacher: None for labels alone. train: the training examples. callbacks: further
    ones of the trainer.
    """

    role: str
    teacher: BaseTeacher | None
    objective: Objective
    config: DistillConfig
    train: Any
    callbacks: tuple[TrainerCallback, ...] = ()


def _train_pair(lesson: Lesson, folder: Path, options: RunOptions, work: Work) -> tuple[Models, Curves]:
    """Trains a student and, with --baseline, its baseline: `(the models by role, their logs by role)`.

    lesson: the student's. folder: for the models of this seed. Of several seeds, the models are left on the CPU, so
    that those of the next one have the memory.
    """
    config = lesson.config
    untrained = copy.deepcopy(work.student) if options.baseline else None
    models, curves = {}, {}
    models["student"], curves["student"] = _train(work.student, lesson, folder, options, work)
    if untrained is not None:
        on_labels = lesson.objective.of_labels()
        matched = copy.copy(config)
        matched.max_steps = curves["student"][-1]["step"]  # as many steps, however few the labels
        _count_in_steps(matched, -(-len(lesson.train) // config.train_batch_size))
        lesson = Lesson("baseline", None, on_labels, matched, work.baseline_train)
        models["baseline"], curves["baseline"] = _train(untrained, lesson, folder, options, work)
    if options.seeds > 1:
        for model in models.values():
            model.cpu()
    return models, curves


def _train(
    student: nn.Module, lesson: Lesson, folder: Path, options: RunOptions, work: Work
) -> tuple[nn.Module, list[dict[str, Any]]]:
    """Trains and saves one model; returns it with all of its weights, also where processes held shards, and its log."""
    role, config = lesson.role, copy.copy(lesson.config)
    name = role if options.seeds == 1 else f"{role} of seed {config.seed}"
    config.output_dir = str(folder / "checkpoints" / role)
    log_file = folder / ("log.jsonl" if role == "student" else f"{role}.jsonl")
    callbacks: list[TrainerCallback] = [*lesson.callbacks, console.LogFile(log_file), progress.Training(name)]
    if config.logging_steps == TRAINER_DEFAULTS["logging_steps"]:  # the user did not choose how often
        callbacks.append(console.OftenEnough())
    if options.early_stopping:
        callbacks.append(EarlyStoppingCallback(early_stopping_patience=options.early_stopping))
    more = work.with_trainer
    trainer = DistillTrainer(
        student,
        lesson.teacher,
        lesson.objective,
        config,
        train_dataset=lesson.train,
        callbacks=callbacks,
        **more,
    )
    console.quiet(trainer)
    resume = options.resume and _has_whole_checkpoint(config.output_dir, name)
    whole = copy.deepcopy(student) if trainer.is_fsdp_enabled else None
    if config.world_size > 1 or config.save_strategy == IntervalStrategy.NO:  # processes would have to agree
        trainer.train(resume_from_checkpoint=resume or None)
    else:
        with finishes_step() as is_told:
            trainer.add_callback(_StopWhenTold(is_told))
            trainer.train(resume_from_checkpoint=resume or None)
    if whole is not None:
        weights = trainer.accelerator.get_state_dict(trainer.model)  # of all processes, for the first
        if trainer.is_world_process_zero():
            whole.load_state_dict(weights)
        student = whole.to(config.device)
        note_objective(student, lesson.objective)
    if trainer.is_world_process_zero():
        save(student, folder / role, label_names=work.label_names, tokenizer=more["processing_class"])
    history: list[dict[str, Any]] = trainer.state.log_history
    return student, history


def _has_whole_checkpoint(run: str, role: str) -> bool:
    """Whether a run has a checkpoint to resume from; where it has none, says so, and what is wrong with those there."""
    whole, skipped = newest_whole(run)
    if whole is None:
        for checkpoint, wrong in skipped.items():
            console.say(f"{checkpoint} cannot be used: {wrong}.")
        console.say(f"There is no complete checkpoint of the {role}, so its training starts from the beginning.")
    return whole is not None


class _StopWhenTold(TrainerCallback):
    """Ends training with a checkpoint after the step in which the command was told to stop."""

    def __init__(self, is_told: Callable[[], bool]):
        self.is_told = is_told

    def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        if self.is_told():
            control.should_save = control.should_training_stop = True


def _count_in_steps(config: DistillConfig, steps_per_epoch: int) -> None:
    """Turns "every epoch" into every `steps_per_epoch` steps, as an epoch of the labels alone is shorter."""
    for what in ("save", "eval", "logging"):
        if getattr(config, f"{what}_strategy") == "epoch":
            setattr(config, f"{what}_strategy", IntervalStrategy.STEPS)
            setattr(config, f"{what}_steps", steps_per_epoch)


def _objective(job: DistillJob) -> Objective:
    """What the student is trained to do."""
    wanted = job.objective
    divergence = divergence_from_text(wanted.divergence)
    return Objective(divergence, wanted.temperature, wanted.soft_weight, wanted.hard_weight)
