"""What `limbeck COMMAND` prints for an exception that is not Limbeck's: the failing stage, the cause, what to do.

A LimbeckError says all that in its message. Any other exception comes from a library, from a network, from the user's
Python, or from a bug in Limbeck; `message_of` tells them apart by the frames of its traceback.
"""

import re
import traceback
from collections.abc import Sequence
from types import TracebackType

DEBUG = "--debug"

STAGES = {
    "limbeck.commands.jobs": "reading the training options",
    "limbeck.commands.options": "reading the options",
    "limbeck.training": "training",
    "limbeck.evaluation": "evaluating",
    "limbeck.store": "reading or writing the stored set",
    "limbeck.transfer": "reading the data",
    "limbeck.networks.folder": "loading or saving a model",
    "limbeck.report": "drawing the page",
    "limbeck.export": "exporting the student",
    "limbeck.tuning": "searching",
    "limbeck.paper": "running the experiment",
}
"""What Limbeck is doing while a frame of the module, or of a module in the package, is on the stack."""

OPTIONS = {
    "_determine_best_metric": ("metric_for_best_model", "load_best_model_at_end"),
    "get_optimizer_cls_and_kwargs": ("optim",),
    "create_scheduler": ("lr_scheduler",),
    "_get_train_sampler": ("train_sampling_strategy",),
    "activate_neftune": ("neftune",),
    "apply_liger_kernel": ("use_liger_kernel",),
    "init_hf_repo": ("push_to_hub", "hub_"),
    "get_reporting_integration_callbacks": ("report_to",),
}
"""Functions of transformers that serve some options alone: how the names of those begin."""

LIBRARIES = ("transformers", "accelerate", "datasets", "torch", "tokenizers", "huggingface_hub")


def takes_debug(words: Sequence[str]) -> tuple[list[str], bool]:
    """`(the other words, whether `--debug` is among them)`; Trainer's own `--debug VALUE` is left as it is."""
    for place, word in enumerate(words):
        if word == DEBUG and (place + 1 == len(words) or words[place + 1].startswith("-")):
            return [*words[:place], *words[place + 1 :]], True
    return list(words), False


def message_of(error: Exception, words: Sequence[str]) -> str:
    """One paragraph about an exception that is not a LimbeckError.

    words: the arguments of the subcommand; those that the exception is about are named.
    """
    frames = _modules(error.__traceback__)
    cause = f"{type(error).__name__}: {_short(str(error))}".rstrip(": ").rstrip(".")
    stage = _stage(frames)
    given = _options_about(error, words)
    about = f" Given: {' '.join(given)}." if given else ""
    show = f"Run again with {DEBUG} for the traceback."
    if (network := _network(error.__traceback__)) is not None:
        return (
            f"The {network} failed while {stage}: {cause}.{about} Check that it takes the columns of the data (their "
            f"names, shapes and types), or pass another model. {show}"
        )
    owner = next((name for name in reversed(frames) if name.partition(".")[0] in (*LIBRARIES, "limbeck")), "limbeck")
    innermost = frames[-1] if frames else "limbeck"
    if isinstance(error, OSError) and error.filename is not None:
        return f"While {stage}, a file could not be used: {cause}.{about} Check its path and permissions. {show}"
    lacks = isinstance(error, MemoryError) or type(error).__name__ in ("OutOfMemoryError", "ArrowMemoryError")
    if lacks or "can't allocate memory" in str(error):
        return f"Memory ran out while {stage}: {cause}. Use a smaller batch size, --max_length or network. {show}"
    if isinstance(error, ImportError):
        return f"A package is missing while {stage}: {cause}.{about} Install it, or remove that option. {show}"
    if owner.partition(".")[0] != "limbeck":
        library = owner.partition(".")[0]
        advice = "Change or remove that option" if given else "Check the options and the data"
        return f"While {stage}, {library} raised {cause}.{about} {advice}. {show}"
    if innermost.partition(".")[0] != "limbeck" and not _is_installed(error.__traceback__):
        return f"{innermost}, which is not part of Limbeck, failed while {stage}: {cause}.{about} {show}"
    return f"This is a bug in Limbeck or in the network, while {stage}: {cause}.{about} {show}"


def _modules(trace: TracebackType | None) -> list[str]:
    """The names of the modules on the stack, the outermost first."""
    return [str(frame.f_globals.get("__name__", "")) for frame, _ in traceback.walk_tb(trace)]


def _stage(modules: Sequence[str]) -> str:
    """What Limbeck was doing: by the outermost module that has a stage."""
    for module in modules:
        for name, stage in STAGES.items():
            if module == name or module.startswith(name + "."):
                return stage
    return "preparing"


def _network(trace: TracebackType | None) -> str | None:
    """The role and the class of the outermost network in whose forward an exception was raised; None outside of one.

    The role is just "network" where neither a teacher nor training calls it.
    """
    role = "network"
    for frame, _ in traceback.walk_tb(trace):
        module = str(frame.f_globals.get("__name__", ""))
        if module.startswith("limbeck.teachers"):
            role = "teacher"
        elif module.startswith("limbeck.training") and role == "network":
            role = "student"
        if frame.f_code.co_name == "_call_impl" and module == "torch.nn.modules.module":
            return f"{role}, {type(frame.f_locals.get('self')).__name__},"
    return None


def _is_installed(trace: TracebackType | None) -> bool:
    """Whether the innermost frame lies among installed packages or Python's, rather than in the user's files."""
    files = [frame.f_code.co_filename for frame, _ in traceback.walk_tb(trace)]
    return not files or any(part in files[-1] for part in ("site-packages", "dist-packages", "lib/python", "<frozen"))


def _options_about(error: Exception, words: Sequence[str]) -> list[str]:
    """The options among the words, with their values, that an exception is about.

    Those whose name or value stands in its message; where there are none, those that a function on the stack serves.
    """
    given = _options(words)
    text = str(error).lower()
    named = [
        name for name, values in given.items() if _is_named(name, text) or any(_is_quoted(v, text) for v in values)
    ]
    if not named:
        functions = {frame.f_code.co_name for frame, _ in traceback.walk_tb(error.__traceback__)}
        served = tuple(start for function in functions for start in OPTIONS.get(function, ()))
        named = [name for name in given if served and name.startswith(served)]
    return [word for name in named for word in (f"--{name}", *given[name])]


def _options(words: Sequence[str]) -> dict[str, list[str]]:
    """The values of each option by name; of one that is given twice, the last."""
    found: dict[str, list[str]] = {}
    name = None
    for word in words:
        if word.startswith("--"):
            name, equals, value = word[2:].partition("=")
            found[name] = [value] if equals else []
        elif name is not None:
            found[name].append(word)
    return found


def _is_named(name: str, text: str) -> bool:
    """Whether a text names an option: one of several words as it is, also within a function's name, others marked."""
    if "_" in name:
        return re.search(rf"(?<![a-z0-9]){re.escape(name)}(?![a-z0-9])", text) is not None
    return any(marked in text for marked in (f"--{name} ", f"`{name}`", f"'{name}'"))


def _is_quoted(value: str, text: str) -> bool:
    """Whether an option's value stands in a text as a word."""
    return len(value) > 3 and re.search(rf"(?<!\w){re.escape(value.lower())}(?!\w)", text) is not None


def _short(message: str, most: int = 600) -> str:
    """A message on one line, its middle omitted where it is long."""
    line = " ".join(message.split())
    return line if len(line) <= most else f"{line[: most // 2]} ... {line[-most // 2 :]}"
