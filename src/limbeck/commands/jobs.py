"""The options of a command as one typed, frozen job, with the defaults of its kind of model.

    job = read_job(DistillJob, distill_parser(), words)    # with a classifier's defaults
    job = job.for_language_models()                        # once the models are open

What this file does not know: models, data, how a job is run. It imports torch and transformers only for the parsers and
arguments of training, so that a mistyped option is answered at once (known.py).
"""

from collections.abc import Mapping
from dataclasses import dataclass, fields
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, ClassVar, Self, TypeVar, get_type_hints

from jsonargparse import SUPPRESS, ArgumentParser, Namespace

from limbeck.commands.options import (
    DataOptions,
    EvaluateOptions,
    ExportOptions,
    InspectOptions,
    LabelOptions,
    LanguageOptions,
    NetworkOptions,
    ObjectiveOptions,
    RunOptions,
    SplitOptions,
    StudentOptions,
    TeacherOptions,
    TuneOptions,
    add_options,
    new_parser,
    options_of,
    read,
)
from limbeck.errors import ConfigError
from limbeck.results import Json, JsonView

if TYPE_CHECKING:
    from limbeck.training.config import DistillConfig

LANGUAGE_DEFAULTS: JsonView = {
    "temperature": 1.0,
    "per_device_train_batch_size": 8,
    "per_device_eval_batch_size": 8,
    "num_train_epochs": 3.0,
    "train_sampling_strategy": "group_by_length",
}
"""Defaults of language models that differ from a classifier's."""

TRAINER_DEFAULTS: JsonView = {
    "per_device_train_batch_size": 128,
    "per_device_eval_batch_size": 256,
    "num_train_epochs": 20.0,
    "lr_scheduler_type": "cosine",
    "logging_steps": 0.05,
    "save_strategy": "epoch",
    "save_total_limit": 2,
}
"""Defaults of the command that differ from TrainingArguments'."""

NOT_OFFERED = {"output_dir", "label_names", "learning_rate", "run_name", "resume_from_checkpoint"}
"""Arguments of the trainer that the command sets through other options."""

SHOWN = {
    *("num_train_epochs", "max_steps", "per_device_train_batch_size", "weight_decay", "bf16", "seed"),
    *("logging_steps", "report_to"),
}
"""Arguments of the trainer that `--help` shows."""

NEW_RATE, TRAINED_RATE = 1e-3, 5e-5
"""The default learning rates of a new student and of a transformers model that was trained before."""

PARSER_OPTIONS = ("config", "help", "help_all", "print_config")
"""Options of the parser itself."""

J = TypeVar("J", bound="Job")


@dataclass(frozen=True)
class Job:
    """The options of a command.

    groups: the fields that are groups of options, in the order of the help.
    given: the names of the options that the user gave, on the command line or in a YAML file; the others are defaults.
    """

    groups: ClassVar[tuple[str, ...]]
    given: frozenset[str]

    @classmethod
    def of(cls, values: JsonView, given: frozenset[str]) -> Self:
        """The job with these values of options, by name."""
        kinds = get_type_hints(cls)
        groups = {name: options_of(kinds[name], values) for name in cls.groups}
        grouped = {option for group in groups.values() for option in vars(group)}
        rest = {k: v for k, v in values.items() if k not in grouped and k not in PARSER_OPTIONS}
        return cls(given=given, **groups, **cls._ungrouped(rest))

    @classmethod
    def _ungrouped(cls, rest: Json) -> Json:
        """The fields that are not groups, from the values that belong to no group."""
        return rest

    def values(self) -> Json:
        """Returns every option by name, as `of` takes them and as a run's settings record them."""
        found: Json = {}
        for name in self.groups:
            found |= vars(getattr(self, name))
        for f in fields(self):
            if f.name not in self.groups and f.name != "given":
                value = getattr(self, f.name)
                found |= value if isinstance(value, Mapping) else {f.name: value}
        return found

    def with_defaults(self, defaults: JsonView) -> Self:
        """The same job, in which the options that the user did not give have these values, where it has them."""
        values = self.values()
        new = {k: v for k, v in defaults.items() if k in values and k not in self.given}
        return type(self).of(values | new, self.given)


@dataclass(frozen=True)
class EvaluateJob(Job):
    """The options of `limbeck evaluate`."""

    groups = ("evaluate", "teacher", "own", "data", "texts")
    evaluate: EvaluateOptions
    teacher: TeacherOptions
    own: NetworkOptions
    data: DataOptions
    texts: LanguageOptions

    def for_language_models(self) -> Self:
        """The same with a language model's defaults."""
        return self.with_defaults({"batch_size": LANGUAGE_DEFAULTS["per_device_eval_batch_size"]})


@dataclass(frozen=True)
class LabelJob(Job):
    """The options of `limbeck label`."""

    groups = ("data", "teacher", "own", "label", "texts")
    data: DataOptions
    teacher: TeacherOptions
    own: NetworkOptions
    label: LabelOptions
    texts: LanguageOptions


@dataclass(frozen=True)
class ExportJob(Job):
    """The options of `limbeck export`; without data, inputs are drawn at random."""

    groups = ("export", "own", "data")
    path: str
    to: str
    export: ExportOptions
    own: NetworkOptions
    data: DataOptions


@dataclass(frozen=True)
class InspectJob(Job):
    """The options of `limbeck inspect`; path: the data as an operand, None where --data gives it."""

    groups = ("view", "own", "data", "texts")
    path: str | None
    view: InspectOptions
    own: NetworkOptions
    data: DataOptions
    texts: LanguageOptions


@dataclass(frozen=True)
class VerifyJob(Job):
    """The options of `limbeck verify`; rows: how many rows are recomputed with the teacher."""

    groups = ("teacher", "own")
    path: str
    teacher: TeacherOptions
    own: NetworkOptions
    rows: int


@dataclass(frozen=True)
class InfoJob(Job):
    """The options of `limbeck info`."""

    groups = ()
    path: str


@dataclass(frozen=True)
class PaperJob(Job):
    """The options of `limbeck paper`; output_dir: None for a folder named after data and budget."""

    groups = ()
    experiment: str
    data: str
    budget: str
    seeds: int
    output_dir: str | None


@dataclass(frozen=True)
class DemoJob(Job):
    """The options of `limbeck demo`; output_dir: None for a folder named after the demo."""

    groups = ()
    language: bool
    output_dir: str | None
    seeds: int


@dataclass(frozen=True)
class TrainingJob(Job):
    """The options that `limbeck distill` and `limbeck tune` share.

    trainer: values of DistillConfig's fields, by name.
    """

    data: DataOptions
    split: SplitOptions
    teacher: TeacherOptions
    student: StudentOptions
    own: NetworkOptions
    texts: LanguageOptions
    trainer: JsonView

    @classmethod
    def _ungrouped(cls, rest: Json) -> Json:
        return {"trainer": rest}

    @property
    def seed(self) -> int:
        """The seed of training."""
        return int(self.trainer["seed"])

    @property
    def has_targets(self) -> bool:
        """Whether there are soft targets to learn from: a teacher's, or those of a stored set."""
        return bool(self.teacher.teacher or self.split.transfer_set)

    @property
    def with_baseline(self) -> bool:
        """Whether the same student is trained on the labels alone too."""
        return False

    @property
    def judge_by(self) -> str | None:
        """The score that the verdict is about; None for the task's default."""
        return None

    def for_language_models(self) -> Self:
        """The same with a language model's defaults; rows of a stored set are not grouped by length."""
        excluded = "train_sampling_strategy" if self.split.transfer_set else None
        return self.with_defaults({k: v for k, v in LANGUAGE_DEFAULTS.items() if k != excluded})

    def with_default_rate(self, trained_before: bool) -> Self:
        """The same with the learning rate of a new student, or of one that was trained before, unless one is given."""
        return self.with_defaults({"learning_rate": TRAINED_RATE if trained_before else NEW_RATE})

    def _arguments(self, output_dir: str, learning_rate: float | None, **changes: object) -> "DistillConfig":
        """The trainer's arguments. learning_rate: None until the student is known; a new one's is taken until then."""
        from limbeck.training.config import DistillConfig

        rate = NEW_RATE if learning_rate is None else learning_rate
        return DistillConfig(**{**self.trainer, "output_dir": output_dir, "learning_rate": rate, **changes})


@dataclass(frozen=True)
class DistillJob(TrainingJob):
    """The options of `limbeck distill`."""

    groups = ("data", "split", "teacher", "student", "own", "objective", "run", "texts")
    objective: ObjectiveOptions
    run: RunOptions

    @property
    def with_baseline(self) -> bool:
        """Whether the same student is trained on the labels alone too."""
        return self.run.baseline

    @property
    def judge_by(self) -> str | None:
        """The score that the verdict is about; None for the task's default."""
        return self.run.judge_by

    def as_trained(self) -> Self:
        """The same with the weights that training uses: without soft targets only the labels count."""
        if self.has_targets:
            return self
        weights = {"soft_weight": 0.0, "hard_weight": self.objective.hard_weight or 1.0}
        return type(self).of(self.values() | weights, self.given)

    def training_arguments(self) -> "DistillConfig":
        """The trainer's arguments; ConfigError for options that contradict each other."""
        options, changes = self.run, dict[str, object](disable_tqdm=True)
        if (options.early_stopping or 0) < 0:
            raise ConfigError(f"--early_stopping must be 1 or more, but is {options.early_stopping}; 0 turns it off.")
        if options.early_stopping:
            strategy = self.trainer["save_strategy"]
            if strategy not in ("epoch", "steps"):
                raise ConfigError(
                    f"--early_stopping keeps the best checkpoint, so --save_strategy must be epoch or steps, but is "
                    f"{strategy}."
                )
            changes |= {"eval_strategy": strategy, "eval_steps": self.trainer["save_steps"]}
            changes |= {"load_best_model_at_end": True, "metric_for_best_model": "loss", "greater_is_better": False}
        if options.seeds < 1 or self.seed + options.seeds > 2**32:
            raise ConfigError(
                f"--seeds must be 1 or more, and no seed above 2**32 - 1, but --seeds is {options.seeds} and --seed is "
                f"{self.seed}."
            )
        if options.resume and options.overwrite:
            raise ConfigError("--resume continues a run and --overwrite replaces it; pass only one of them.")
        if options.baseline and not self.has_targets:
            raise ConfigError(
                "Without a teacher the student is the baseline itself; remove --baseline, or pass --teacher."
            )
        return self._arguments(str(Path(options.output_dir, "checkpoints")), options.learning_rate, **changes)


@dataclass(frozen=True)
class TuneJob(TrainingJob):
    """The options of `limbeck tune`."""

    groups = ("data", "split", "teacher", "student", "own", "search", "texts")
    search: TuneOptions

    def training_arguments(self) -> "DistillConfig":
        """The trainer's arguments, the same for every candidate."""
        return self._arguments(self.search.output_dir, self.search.learning_rate, save_strategy="no")


def read_job(kind: type[J], parser: ArgumentParser, words: list[str]) -> J:
    """The job of the command line and its YAML files; for wrong options, prints a message and exits with 2.

    With a stored set and no --data, a part of the set is the test.
    """
    return _resolved(kind, read(parser, words), read(parser, words, defaults=False))


def read_saved(path: Path) -> DistillJob:
    """The job that a run's settings describe; ArgumentError or TypeError where they cannot be read."""
    parser = distill_parser()
    return _resolved(DistillJob, parser.parse_path(path), parser.parse_path(path, defaults=False))


def _resolved(kind: type[J], chosen: Namespace, given: Namespace) -> J:
    """The job of the options with their defaults, and of those that were given alone."""
    values = chosen.as_dict()
    names = frozenset(name for name, value in given.as_dict().items() if value is not None)
    job = kind.of(values, names)
    return job.with_defaults({"data": None}) if values.get("transfer_set") else job


@cache
def distill_parser(brief: bool = False) -> ArgumentParser:
    """The parser of `limbeck distill`; brief: hide most options of Trainer in the help."""
    description = "Train a small model to behave like a big one; without --teacher, on labels alone."
    return _training_parser("distill", description, DistillJob, brief)


@cache
def tune_parser(brief: bool = False) -> ArgumentParser:
    """The parser of `limbeck tune`; brief as above."""
    description = "Choose the temperature and the weight of the labels on held-out examples, never on the test."
    return _training_parser("tune", description, TuneJob, brief)


def label_parser() -> ArgumentParser:
    """The parser of `limbeck label`."""
    return _parser(
        "label", "Run a teacher on every example once and store its targets for any number of students.", LabelJob
    )


def evaluate_parser() -> ArgumentParser:
    """The parser of `limbeck evaluate`."""
    return _parser("evaluate", "Measure students against a teacher and against baselines.", EvaluateJob)


def export_parser() -> ArgumentParser:
    """The parser of `limbeck export`."""
    description = "Write a student as an ONNX file, and check that it predicts the same."
    parser = _parser("export", description, ExportJob, "RUN")
    parser.add_argument("path", type=str, help="the folder of a run or of a model")
    parser.add_argument("--to", choices=["onnx"], default="onnx", help="the format")
    parser.set_defaults({"data": None})
    return parser


def inspect_parser() -> ArgumentParser:
    """The parser of `limbeck inspect`."""
    parser = _parser("inspect", "Show the first examples as the models will read them.", InspectJob, "DATA")
    parser.add_argument("path", type=str, nargs="?", default=None, help="the data, as --data takes it")
    parser.set_defaults({"data": None})
    return parser


def _training_parser(name: str, description: str, kind: type[TrainingJob], brief: bool) -> ArgumentParser:
    from limbeck.training.config import DistillConfig

    parser = _parser(name, description, kind)
    parser.add_argument("--help_all", action="help", help="show every option, including those of transformers' Trainer")
    parser.add_class_arguments(DistillConfig, skip=NOT_OFFERED)
    for group in parser._action_groups:
        if "DistillConfig" in str(group.title):
            group.title = "Training, by transformers' Trainer (all of it: --help_all)"
    parser.set_defaults(dict(TRAINER_DEFAULTS))
    shown = {f.name for options in groups_of(kind) for f in fields(options)} | SHOWN | {"help", "help_all", "config"}
    if brief:
        for action in parser._actions:
            if action.dest not in shown:
                action.help = SUPPRESS  # hidden, but accepted
    return parser


def _parser(name: str, description: str, kind: type[Job], operand: str = "") -> ArgumentParser:
    """A parser with the options of a job's groups, to be read with `read_job`."""
    parser = new_parser(name, description, operand)
    parser.add_argument("--config", action="config", help="a YAML file of options; flags after it override it")
    for options in groups_of(kind):
        add_options(parser, options)
    return parser


def groups_of(kind: type[Job]) -> list[type]:
    """The dataclasses of a job's options, in the order of the help."""
    kinds = get_type_hints(kind)
    return [kinds[name] for name in kind.groups]
