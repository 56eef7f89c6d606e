"""The options of the subcommands: one typed dataclass per group, read from flags and YAML.

What this file does not know: which command has which options, which objects the values stand for.
"""

import re
import sys
from argparse import ArgumentError
from collections.abc import Callable
from dataclasses import MISSING, dataclass, field, fields
from typing import TYPE_CHECKING, Any, TypeVar, get_args, get_origin

from jsonargparse import ArgumentParser, Namespace

from limbeck.commands.config_files import VALUE_NAMES, wrong_value
from limbeck.errors import ConfigError
from limbeck.results import Json, JsonView

if TYPE_CHECKING:
    from _typeshed import DataclassInstance

T = TypeVar("T", bound="DataclassInstance")

JUDGE_BY = (
    "the score that the verdict is about: accuracy (the default), balanced_accuracy, f1_macro or roc_auc for classes; "
    "f1_macro (the default), f1_micro, roc_auc, exact_match, nll or brier for several labels; miou (the default), "
    "accuracy or nll for segmentation; r2 (the default), mae, rmse or nll for regression"
)


def _option(default: Any, text: str | Callable[[], str]) -> Any:
    """text: the help; a function is called when the help is wanted."""
    if callable(default):
        return field(default_factory=default, metadata={"help": text})
    return field(default=default, metadata={"help": text})


def _divergences() -> str:
    """Imported for the help alone, because torch comes with it."""
    from limbeck.commands.divergence_names import LISTED, OF_NUMBERS

    return f"{LISTED}; for numbers {', '.join(OF_NUMBERS)}; or package.module:function"


@dataclass(frozen=True)
class DataOptions:
    """The data."""

    data: str | None = _option(
        "digits",
        "digits (embedded); a folder in MNIST's format; a csv, tsv, json, jsonl or parquet file; an imagefolder; the "
        "name of a dataset on the Hugging Face hub; or package.module:callable that returns a TransferSet, or a dict "
        "of them by split. For language models, records of text, prompt and completion, messages, conversations "
        "(ShareGPT), or instruction and output (Alpaca); a callable returns them as a list of dicts or a "
        "datasets.Dataset, or a dict of those by split",
    )
    text_column: str | None = _option(
        None, "the column of the text, if it cannot be guessed; first,second for pairs of texts"
    )
    image_column: str | None = _option(None, "the column of the image, if it cannot be guessed")
    label_column: str | None = _option(
        None, "the column of the label, if it cannot be guessed; first,second,third for several labels or numbers"
    )
    task: str | None = _option(
        None,
        "what the labels are, if it cannot be guessed: classification, multi_label (several labels per example), "
        "segmentation (a mask per image) or regression (numbers)",
    )
    feature_columns: list[str] = _option(
        list,
        "the feature columns; by default all but the label and columns that number the rows",
    )
    column_names: list[str] = _option(list, "the column names of a csv or tsv file without a header line")
    missing: list[str] = _option(
        list,
        "words that stand for a missing value in a csv or tsv file, such as NA; empty cells always do",
    )
    label_names: list[str] = _option(
        list, "the names of the classes in order; by default those of a model, where each label is one of them"
    )
    num_classes: int | None = _option(
        None, "number of classes, where labels are numbers: labels are then taken as 0 to num_classes - 1, unchanged"
    )
    image_size: int | None = _option(None, "resize images to this many pixels, in height and width")
    max_length: int | None = _option(None, "truncate texts to this many tokens")
    tokenizer: str | None = _option(None, "folder or hub name; by default the student's, or else the teacher's")

    @property
    def source(self) -> str:
        """The value of `data`; ConfigError where there is none."""
        if self.data is None:
            raise ConfigError("There is no data: pass --data.")
        return self.data


@dataclass(frozen=True)
class LanguageOptions:
    """Language models: records of text, of prompts and completions, of conversations (docs/language.md)."""

    assistant: str = _option("all", "for conversations: all, to learn every turn of the assistant, or last")
    teacher_max_length: int | None = _option(None, "truncate what the teacher reads to this many tokens")
    packing: bool = _option(False, "put several examples into a row of max_length tokens, where attention allows it")
    num_proc: int | None = _option(None, "number of processes that tokenise")


@dataclass(frozen=True)
class SplitOptions:
    """The transfer set."""

    transfer_set: str | None = _option(
        None,
        "train on a stored set (limbeck label) and its targets: no --teacher is needed; "
        "--data then gives the test, or a part of the set is held out for it",
    )
    validation: float = _option(
        0.1,
        "share of the training examples held out for calibration and early stopping, where the data "
        "has no validation split",
    )
    labelled: int | None = _option(
        None, "use only this many labels, evenly over the classes; the other examples are used without a label"
    )
    jitter: int = _option(0, "shift training images by up to this many pixels, the same way for teacher and student")


@dataclass(frozen=True)
class TeacherOptions:
    """The teacher."""

    teacher: list[str] = _option(list, "folder, hub name or package.module:callable; several form an ensemble")
    mean: str = _option("arithmetic", "mean of an ensemble's probabilities: arithmetic or geometric")


@dataclass(frozen=True)
class StudentOptions:
    """The student."""

    student: str = _option(
        "mlp",
        "mlp; a folder, hub name or package.module:callable to start from; or a copy of some of the layers of a "
        "transformers teacher: take_layers:6 for how many, take_layers:0,2,5 for which, counted from 0",
    )
    scale: str = _option(
        "standard",
        "scaling of a table's numbers: standard (mean 0, standard deviation 1 in the training part) or none; "
        "categories become one unit each, and missing values are filled and marked, in either case",
    )
    variance: bool = _option(
        False,
        "regression: the student gives a variance for each number too, a network of your own as its log in further "
        "outputs",
    )
    hidden: list[int] = _option(lambda: [800, 800], "units of each hidden layer of an mlp")
    dropout: float = _option(0.0, "probability of dropping a hidden unit of an mlp")
    input_dropout: float = _option(0.0, "probability of dropping an input of an mlp")
    max_norm: float | None = _option(None, "bound on the L2 norm of the weights into each hidden unit of an mlp")


@dataclass(frozen=True)
class NetworkOptions:
    """Networks of your own."""

    network: list[str] = _option(
        list,
        "package.module:callable that builds the network of a folder that has only its weights, as of a run with "
        "--student package.module:callable; of several, each folder takes the one that it was trained as",
    )


@dataclass(frozen=True)
class ObjectiveOptions:
    """The objective."""

    divergence: str = _option("forward_kl", _divergences)
    temperature: float = _option(2.0, "softens teacher and student in the soft term; 1 for language models")
    soft_weight: float = _option(1.0, "weight of the divergence from the teacher")
    hard_weight: float = _option(0.0, "weight of the cross-entropy with the labels, relative to soft_weight")
    tuned: str | None = _option(
        None, "the tune.json, or its folder, of the search (limbeck tune) that the report is to explain"
    )


@dataclass(frozen=True)
class RunOptions:
    """The run."""

    output_dir: str = _option("runs/distill", "folder of the run, for the student, the results and the logs")
    judge_by: str | None = _option(None, JUDGE_BY)
    baseline: bool = _option(
        False,
        "also train the same student on the labels alone, from the same initial weights for as many steps, and compare",
    )
    seeds: int = _option(
        1, "number of students, and of baselines, trained with the seeds --seed, --seed + 1, ... and judged together"
    )
    resume: bool = _option(False, "resume from the run's last complete checkpoint")
    overwrite: bool = _option(False, "replace the run in the folder")
    early_stopping: int | None = _option(
        None, "stop after this many evaluations without a lower validation loss, and keep the best"
    )
    learning_rate: float | None = _option(None, "by default 1e-3, or 5e-5 for a pretrained transformers model")


@dataclass(frozen=True)
class TuneOptions:
    """The search."""

    temperatures: list[float] = _option(lambda: [1.0, 1.5, 2.5, 4.0, 6.0, 10.0, 20.0], "temperatures to try")
    hard_weights: list[float] = _option(
        lambda: [0.0, 0.1, 0.5], "weights of the labels to try with each, relative to a soft_weight of 1"
    )
    divergence: str = _option(ObjectiveOptions.divergence, "as `limbeck distill` takes it")
    measure: str | None = _option(
        None,
        "nll or accuracy on held-out labels, or forward_kl to the teacher on held-out examples, all at T = 1; by "
        "default nll where there are labels",
    )
    seeds: int = _option(3, "number of seeds that the best candidates are trained with")
    keep: float = _option(
        0.5, "share of the candidates trained with the next seed; 1 trains all of them with every seed"
    )
    output_dir: str = _option("runs/tune", "the folder of the trials; the same command resumes from them")
    learning_rate: float | None = _option(None, "by default 1e-3, or 5e-5 for a pretrained transformers model")


@dataclass(frozen=True)
class EvaluateOptions:
    """The evaluation."""

    student: list[str] = _option(
        list, "folders, hub names or package.module:callable; several are seeds of one student"
    )
    baseline: list[str] = _option(list, "optional; one per student, paired by position")
    split: str = _option("test", "the split of the data to measure on")
    output: str = _option("results.json", "the file for the results")
    batch_size: int = _option(256, "examples per forward pass")
    judge_by: str | None = _option(None, JUDGE_BY)


@dataclass(frozen=True)
class LabelOptions:
    """The stored set."""

    output_dir: str = _option("runs/labelled", "the folder, or an fsspec URL, for the stored set")
    split: str = _option("train", "the split of the data to store targets for")
    kind: str = _option("top_k", "top_k, dense, hidden (causal language models) or sampled; see docs/store.md")
    k: int | None = _option(None, "number of classes stored per position, for top_k and sampled (default 64)")
    bits: int | None = _option(None, "bits of a log-probability, 8 or 16, for top_k (default 8)")
    dtype: str | None = _option(None, "float16 or float32 for dense; float16, bfloat16 or int8 for hidden")
    temperature: float | None = _option(
        None, "the temperature that students will be trained at, for top_k and sampled (default 1)"
    )
    jitter: int = _option(0, "store targets of images shifted by up to this many pixels; training replays these views")
    views: int = _option(1, "number of epochs whose views are stored, with --jitter")
    batch_size: int = _option(32, "examples per forward pass of the teacher")
    rows_per_shard: int | None = _option(None, "examples per file; by default about 256 MB of them")
    seed: int = _option(0, "seed of the samples and views")


@dataclass(frozen=True)
class InspectOptions:
    """The view."""

    student: str | None = _option(
        None, "the model that reads the data: a folder, hub name or package.module:callable, or take_layers:6"
    )
    teacher: list[str] = _option(list, "the teacher, whose reading is shown where it is another one")
    split: str = _option("train", "the split to show examples of")
    examples: int = _option(3, "number of examples to show")


@dataclass(frozen=True)
class ExportOptions:
    """The export."""

    int8: bool = _option(False, "also write NAME.int8.onnx, with the weights of linear layers in 8 bits")
    output_dir: str | None = _option(None, "by default the folder of the run")
    examples: int = _option(256, "number of examples of --data that the file is checked with")


def options_of(kind: type[T], values: JsonView) -> T:
    """Returns an instance of the dataclass, made from the values that have the names of its fields."""
    names = [f.name for f in fields(kind) if f.init and f.name in values]
    return kind(**{name: values[name] for name in names})


def read(parser: ArgumentParser, words: list[str], defaults: bool = True) -> Namespace:
    """The options of the command line and of YAML files; for wrong ones, prints a message and exits with 2.

    defaults: whether to include the other options, with their default values.
    """
    message = wrong_value(parser, words)
    try:
        if message is None:
            return parser.parse_args(words, defaults=defaults)
    except (ArgumentError, UnicodeDecodeError, RecursionError) as error:  # the latter for a --config that is not text
        message = _explained(str(error).strip())
    print(f"{parser.prog}: {message}. {parser.prog} --help shows the options.", file=sys.stderr)
    raise SystemExit(2)


def _explained(message: str) -> str:
    """jsonargparse's message about a value of the wrong type, in terms of the option; any other message as it is."""
    key = re.match(r'Parser key "(\w+)"', message)
    types = re.findall(r"Expected an? <class '(\w+)'>", message)
    value = re.search(r"(?:Got|Given) value: (.*)", message)
    if message.startswith('Parser key "config": '):
        return f"--config: {message.partition(': ')[2]}"
    names = {kind.__name__: name for kind, name in VALUE_NAMES.items()}
    if key is None or value is None or not types or types[0] not in names:
        return message
    return f"--{key[1]} must be {names[types[0]]}, but got {value[1]!r}"


def yaml_of(parser: ArgumentParser, values: JsonView) -> str:
    """Values of options as YAML, for --config."""
    namespace: Callable[..., Namespace] = Namespace  # jsonargparse does not annotate its constructor
    text: str = parser.dump(namespace(**values), skip_validation=True)
    return text


def new_parser(name: str, description: str, operand: str = "") -> ArgumentParser:
    """A parser for `limbeck name OPERAND`, to be read with `read`."""
    prog = f"limbeck {name}"
    usage = " ".join(word for word in (prog, operand, "[options]") if word)
    parser = ArgumentParser(prog=prog, description=description, usage=usage, exit_on_error=False)
    parser.allow_abbrev = False  # an abbreviation would mean another option once one is added
    return parser


def add_options(parser: ArgumentParser, options: type) -> None:
    """The fields of a dataclass as flags; a list takes one or more values."""
    group = parser.add_argument_group((options.__doc__ or "").rstrip("."))
    for f in fields(options):
        default = f.default if f.default_factory is MISSING else f.default_factory()
        kind: Json = {"type": f.type}
        if get_origin(f.type) is list:
            kind = {"type": get_args(f.type)[0], "nargs": "+"}
        elif f.type is bool:
            kind = {"action": "store_true"}
        text = f.metadata["help"]
        group.add_argument(f"--{f.name}", default=default, help=text() if callable(text) else text, **kind)
