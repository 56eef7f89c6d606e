"""Words of a command line or a YAML file, and the objects that they stand for.

    "digits", "data/mnist", "reviews.csv", "imdb"    transfer sets      open_data
    "runs/teacher", "google-bert/bert-base-cased"    models             open_model
    "my_package.networks:resnet"                     Python objects     python_object
    "take_layers:6", "take_layers:0,2,5"             cut students       open_student
    "jensen_shannon:0.3"                             divergences        divergence_from_text

What this file does not know: options, training, printing.
"""

import copy
import importlib
import importlib.util
import inspect
import os
import sys
import warnings
from collections.abc import Callable, Mapping, Sequence, Sized
from dataclasses import fields
from pathlib import Path
from typing import Any, TypeVar

from datasets import disable_progress_bars
from torch import nn
from transformers import PreTrainedTokenizerBase

from limbeck.commands.divergence_names import OF_NUMBERS, PLAIN, WITH_PARAMETER
from limbeck.commands.options import DataOptions
from limbeck.errors import ConfigError, DataError, ModelError
from limbeck.losses import divergences
from limbeck.losses.divergences import Divergence, PositionFunction
from limbeck.losses.values import VALUE_DIVERGENCES, ValueDivergence
from limbeck.networks.asking import label_names_of, networks_of
from limbeck.networks.configs import CONFIG
from limbeck.networks.folder import load, own_network
from limbeck.networks.layers import take_layers
from limbeck.networks.outputs import CLASSIFICATION, task_of
from limbeck.networks.table import Feature, table_encoder_of
from limbeck.networks.texts import text_limit
from limbeck.networks.trained import note_builder
from limbeck.teachers import Ensemble, as_teacher
from limbeck.teachers.protocol import BaseTeacher
from limbeck.transfer import TransferSet, digits, idx, table

DEFAULT_LENGTH = 128
"""How many tokens of a text `table` reads by default."""

S = TypeVar("S", bound=Sized)


def open_data(
    options: DataOptions,
    tokenizer: PreTrainedTokenizerBase | None = None,
    teacher_tokenizer: PreTrainedTokenizerBase | None = None,
    readers: Sequence[object] = (),
    features: Sequence[Feature] | None = None,
) -> dict[str, TransferSet]:
    """The splits of the data, by name: at least "train" or "test".

    readers: the models that read the data; texts are truncated to what all of them can read, and tables are read as
        their encoders expect. features: the columns and categories of a table, where a stored set has them already.
    """
    data = options.source
    if data == "digits":
        rest, test = split_off_a_fifth(digits())
        return {"train": rest, "test": test}
    if names_python_data(data):
        ignored = [f.name for f in fields(options) if f.name not in ("data", "tokenizer") and getattr(options, f.name)]
        if ignored:
            raise ConfigError(f"{data} makes its own columns, so --{ignored[0]} has no effect; remove it.")
        returned = python_data(data)
        splits = {"train": returned} if isinstance(returned, TransferSet) else returned
        if not isinstance(splits, dict) or not all(isinstance(s, TransferSet) for s in splits.values()):
            raise DataError(
                f"{data} must return a TransferSet, or a dict of them by split, but returned {type(returned).__name__}."
            )
        return splits
    path = Path(data)
    if path.is_dir() and any(path.glob("*idx[13]-ubyte*")):
        return idx(path)
    disable_progress_bars()  # of reading: training has its own
    text_column = options.text_column
    pair = text_column.split(",") if text_column is not None and "," in text_column else None
    arguments: dict[str, Any] = {"text_column": pair or text_column, "image_column": options.image_column}
    arguments |= {"label_column": label_columns(options.label_column), "image_size": options.image_size}
    arguments["task"] = options.task or kind_of(readers)
    arguments |= {"num_classes": options.num_classes, "missing": options.missing}
    model_names = next((names for reader in readers if (names := label_names_of(reader))), None)
    arguments |= {"label_names": options.label_names or None, "model_names": model_names}
    arguments |= {"features": table_features(readers) or features, "with_rows": any(map(reads_rows, readers))}
    arguments |= {"feature_columns": options.feature_columns or None, "column_names": options.column_names or None}
    limit = text_limit(*readers)
    if options.max_length is not None:
        arguments["max_length"] = options.max_length
    if limit is not None and limit < arguments.get("max_length", DEFAULT_LENGTH):
        warnings.warn(
            f"Texts are truncated to {limit} tokens, the most positions that one of the models has.", stacklevel=2
        )
        arguments["max_length"] = limit
    return table(data, tokenizer=tokenizer, teacher_tokenizer=teacher_tokenizer, **arguments)


def label_columns(text: str | None) -> str | list[str] | None:
    """The value of --label_column: one column, or several that are joined by commas."""
    return text.split(",") if text is not None and "," in text else text


def kind_of(readers: Sequence[object]) -> str | None:
    """The task of the models that read the data, where one of them says so and it is not one class per example."""
    for reader in readers:
        networks = networks_of(reader) or []
        for model in (*networks, reader):
            task = task_of(model)
            if task is not None and task.kind != CLASSIFICATION:
                return task.kind
    return None


def table_features(readers: Sequence[object]) -> Sequence[Feature] | None:
    """The columns and categories of a table that the networks among the readers expect; None where none does.

    ConfigError where two of them read different ones.
    """
    networks = [network for reader in readers for network in networks_of(reader) or [] if network is not None]
    encoders = [encoder for network in networks if (encoder := table_encoder_of(network)) is not None]
    if any(encoder.features != encoders[0].features for encoder in encoders):
        raise ConfigError(
            "The models read tables of different columns or categories, so they cannot be compared on one; train them "
            "on the same data."
        )
    return encoders[0].features if encoders else None


def reads_rows(reader: object) -> bool:
    """Whether a teacher, or one of its members, reads the rows of a table by the names of their columns."""
    members: Sequence[object] = getattr(reader, "members", ())
    return bool(getattr(reader, "reads_rows", False)) or any(map(reads_rows, members))


def names_python_data(text: str) -> bool:
    """Whether --data names a Python object, and not a configuration of a data set on the hub."""
    return _names_python(text) and _can_be_imported(text)


def python_data(text: str) -> Any:
    """What the user's `package.module:callable` returns; the object itself where it cannot be called."""
    found = python_object(text)
    return _call(found, text) if callable(found) else found


def with_test(splits: Mapping[str, S], part: Callable[[S], tuple[S, S]]) -> tuple[dict[str, S], str | None]:
    """The splits with a "test" among them, and a sentence about how it was made; None where the data has one.

    part: divides the training split into `(the rest, the test)`, in the same way at each call.
    """
    if "test" in splits:
        return dict(splits), None
    if "validation" in splits:
        others = {name: split for name, split in splits.items() if name != "validation"}
        sentence = "The data has no test split: its validation split is used as the test, and for nothing else."
        return others | {"test": splits["validation"]}, sentence
    if "train" not in splits:
        return dict(splits), None
    rest, test = part(splits["train"])
    sentence = f"The data has one split: {len(test)} of its examples are set apart as the test."
    return {**splits, "train": rest, "test": test}, sentence


def split_off_a_fifth(train: TransferSet) -> tuple[TransferSet, TransferSet]:
    """`(the rest, a fifth)` of the examples of a classifier, always the same ones."""
    return train.split(0.2, seed=0)


def open_model(text: str, networks: Sequence[str] = ()) -> Any:
    """A network (or any teacher) by folder, hub name or `package.module:callable`.

    networks: --network, the callables that may build the network of a folder that has only its weights.
    """
    if _names_python(text):
        found = _built(text)
        if isinstance(found, nn.Module):
            note_builder(found, text)
        return found
    described = own_network(text)
    return load(text) if described is None else _filled(text, described, networks)


def _built(text: str) -> Any:
    """What `package.module:callable` returns; the object itself where it is a network or a teacher already."""
    found = python_object(text)
    if isinstance(found, nn.Module) or not callable(found) or hasattr(found, "fingerprint"):
        return found
    return _call(found, text)


def _filled(folder: str, described: Mapping[str, Any], networks: Sequence[str]) -> nn.Module:
    """A network of the user's, built by one of `networks`, with the weights of the folder."""
    trained_as = described["network"] if _names_python(described["network"] or "") else None
    name = trained_as if trained_as in networks else next(iter(networks), None)
    if name is None:
        was = f"It was trained as {trained_as}" if trained_as else f"It is a {described['class']!r:.80} of your own"
        advice = trained_as or "package.module:callable, which builds it"
        raise ConfigError(f"{folder} holds only the weights of its network. {was}; pass --network {advice}.")
    if len(networks) > 1 and name != trained_as:
        known = f"was trained as {trained_as}, which is none of them" if trained_as else "does not say which of them"
        raise ConfigError(
            f"--network names {' and '.join(networks)}, but {folder} {known}; pass the one that it needs."
        )
    if not _names_python(name):
        raise ConfigError(f"--network must be package.module:callable, but is {name!r}.")
    network = copy.deepcopy(_built(name))  # each folder fills one of its own
    if not isinstance(network, nn.Module):
        raise ConfigError(f"--network {name} must return a torch.nn.Module, but returned a {type(network).__name__}.")
    try:
        load(folder, into=network)
    except ModelError as error:
        hint = f" {folder} was trained as {trained_as}, not as {name}." if trained_as not in (None, name) else ""
        raise ModelError(f"{error}{hint}") from error
    note_builder(network, name)
    return network


def refuse_unused_networks(networks: Sequence[str], models: Sequence[str]) -> None:
    """ConfigError for --network where none of the models named on the command line needs it.

    A path that is no model is left to `open_model`, which says what is wrong with it.
    """
    paths = [Path(text) for text in models if "/" in text or Path(text).is_dir()]
    if any(path.parent.is_dir() and not (path / CONFIG).is_file() for path in paths):
        return
    if networks and not any(own_network(text) for text in models if not _names_python(text)):
        raise ConfigError(
            f"--network builds the network of a folder that has only its weights, but {', '.join(models) or 'no model'}"
            f" {'is none' if len(models) == 1 else 'are none'}; remove it."
        )


def _call(function: Callable[..., Any], text: str) -> Any:
    """The result of calling a user's function without arguments; ConfigError where it needs some."""
    try:
        inspect.signature(function).bind()
    except ValueError:  # of a builtin, which has no signature
        pass
    except TypeError as error:
        raise ConfigError(f"{text} is called without arguments, but: {error}; name one that needs none.") from error
    return function()


def open_teacher(texts: list[str], mean: str = "arithmetic", networks: Sequence[str] = ()) -> BaseTeacher | None:
    """The teacher named on the command line: None for none, an ensemble for several.

    networks: as `open_model` takes them.
    """
    teachers = [as_teacher(open_model(text, networks)) for text in texts]
    return Ensemble(teachers, mean=mean) if len(teachers) > 1 else next(iter(teachers), None)


def open_student(text: str, teacher: BaseTeacher | None, networks: Sequence[str] = ()) -> Any:
    """A network as `open_model` opens it, or a copy of some of the teacher's layers: `take_layers:6`."""
    if not is_cut(text):
        return open_model(text, networks)
    if teacher is None:
        raise ConfigError(f"{text} copies layers of the teacher, but there is no teacher; pass --teacher.")
    cut = networks_of(teacher) or []
    if len(cut) != 1:
        raise ConfigError(
            f"{text} copies layers of one network, but the teacher has {len(cut)}; pass "
            "one --teacher that is a transformers model, or another --student."
        )
    layers = text.partition(":")[2]
    try:
        keep = [int(index) for index in layers.split(",")]
    except ValueError as error:
        raise ConfigError(
            f"take_layers takes how many layers to keep, take_layers:6, or which, take_layers:0,2,5; got {text!r}."
        ) from error
    return take_layers(cut[0], keep if "," in layers else keep[0])


def is_cut(text: str) -> bool:
    """Whether --student asks for some layers of the teacher."""
    return text.partition(":")[0] == "take_layers" and not _names_python(text)


def was_trained(text: str, student: nn.Module) -> bool:
    """Whether --student names a transformers model whose weights were trained before."""
    return is_cut(text) or (hasattr(student, "config") and ":" not in text)


def python_object(text: str) -> Any:
    """The object named `package.module:name`, imported from the current folder or from installed packages."""
    module, _, name = text.partition(":")
    _look_here()
    try:
        found: Any = importlib.import_module(module)
    except ModuleNotFoundError as error:
        if error.name is None or not module.startswith(error.name):
            raise  # the module is there, and something that it imports is not
        raise ModelError(
            f"There is no module {module!r}, which {text!r} names; write package.module:name, and run the command in "
            "the folder that holds the package."
        ) from error
    for part in name.split("."):
        if not hasattr(found, part):
            raise ModelError(f"{module} has no {name!r}; it has {_some_names(found)}.")
        found = getattr(found, part)
    return found


def open_tokenizers(
    given: str | None, students: list[str], teachers: list[str]
) -> tuple[PreTrainedTokenizerBase | None, PreTrainedTokenizerBase | None]:
    """The tokenizers of student and teacher, None where there is none: tables of texts say so if they need one.

    given: --tokenizer, for both. A student without a tokenizer uses the teacher's.
    """
    if given is not None:
        try:
            return (_tokenizer(given),) * 2
        except (OSError, ValueError) as error:
            raise ConfigError(f"No tokenizer could be loaded from {given}: {error}") from error
    found = []
    for texts in (students, teachers):
        folders = [text for text in texts if text != "mlp" and not is_cut(text) and not _names_python(text)]
        found.append(next((t for t in map(_tokenizer_if_any, folders) if t is not None), None))
    student, teacher = found
    return student or teacher, teacher


def _tokenizer_if_any(text: str) -> Any:
    if Path(text).is_dir() and not any(Path(text).glob("token*")) and not any(Path(text).glob("vocab*")):
        return None
    try:
        return _tokenizer(text)
    except (OSError, ValueError):  # a model of images, say
        return None


def _tokenizer(text: str) -> Any:
    from transformers import AutoTokenizer

    return AutoTokenizer.from_pretrained(text, trust_remote_code=False)


def divergence_from_text(text: str) -> Divergence | ValueDivergence | PositionFunction:
    """A divergence by name, with its parameter behind a colon: `jensen_shannon:0.3`; or `package.module:function`."""
    name, _, parameter = text.replace("(", ":").rstrip(")").partition(":")
    if name in OF_NUMBERS and not parameter:
        return VALUE_DIVERGENCES[name]
    if name in PLAIN and not parameter:
        plain: Divergence = getattr(divergences, name)
        return plain
    if name in WITH_PARAMETER:
        try:
            parametrised: Divergence = getattr(divergences, name)(*([float(parameter)] if parameter else []))
            return parametrised
        except ValueError as error:
            raise ConfigError(f"{text!r}: {error}") from error
    if _names_python(text):
        function: PositionFunction = python_object(text)
        return function
    raise ConfigError(
        f"There is no divergence {text!r}; choose {', '.join(PLAIN)}; for numbers {', '.join(OF_NUMBERS)}; with a "
        "parameter "
        f"{', '.join(f'{n}:0.1' for n in WITH_PARAMETER)}; or your own function as package.module:function."
    )


def _can_be_imported(text: str) -> bool:
    _look_here()
    return importlib.util.find_spec(text.partition(":")[0].partition(".")[0]) is not None


def _look_here() -> None:
    if os.getcwd() not in sys.path:  # a console script does not look into the current folder
        sys.path.insert(0, os.getcwd())


def _names_python(text: str) -> bool:
    module, colon, name = text.partition(":")
    return bool(colon) and all(part.isidentifier() for part in [*module.split("."), *name.split(".")])


def _some_names(module: Any) -> str:
    return ", ".join([name for name in dir(module) if not name.startswith("_")][:12]) or "nothing public"
