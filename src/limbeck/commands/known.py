"""The options that a command knows, found without importing torch or transformers; and what a mistyped one is close to.

    refuse_unknown("distill", ["--temprature", "3"])    # prints "Did you mean --temperature?" and exits with 2

What this file does not know: what options mean, and whether their values can be used. Whatever it cannot decide, such
as a flag with a dot in it, is left to the command's parser.
"""

import ast
import re
import sys
from collections.abc import Iterable, Sequence
from dataclasses import fields
from difflib import get_close_matches
from functools import cache
from importlib.util import find_spec
from pathlib import Path
from typing import NoReturn

from limbeck.commands import jobs
from limbeck.commands.config_files import config_files, settings_in
from limbeck.commands.jobs import Job, TrainingJob
from limbeck.errors import ConfigError

JOBS: dict[str, type[Job]] = {
    "demo": jobs.DemoJob,
    "distill": jobs.DistillJob,
    "evaluate": jobs.EvaluateJob,
    "export": jobs.ExportJob,
    "info": jobs.InfoJob,
    "inspect": jobs.InspectJob,
    "label": jobs.LabelJob,
    "paper": jobs.PaperJob,
    "tune": jobs.TuneJob,
    "verify": jobs.VerifyJob,
}
"""The commands whose options are the fields of a job."""

ALSO = {"data_dir", "debug", "print_shtab"}
"""Another name of --data of `limbeck paper`, what every command takes, and what jsonargparse adds beside shtab."""

USUAL = {
    **{"lr": "learning_rate", "epochs": "num_train_epochs", "steps": "max_steps", "batch": "batch_size"},
    **{"batch_size": "per_device_train_batch_size", "dataset": "data", "output": "output_dir", "out": "output_dir"},
}
"""What other programs call an option -> what the commands call it, where spelling alone does not lead there."""


def refuse_unknown(command: str, words: Sequence[str]) -> None:
    """Prints what is wrong and exits with 2 where a flag, or a key of a --config file, is none of the command's.

    command: a subcommand. words: its arguments.
    """
    known = known_options(command)
    if not known or not {"-h", "--help", "--help_all"}.isdisjoint(words):
        return
    help_flag = "--help_all" if issubclass(JOBS[command], TrainingJob) else "--help"
    flags = [_flag(word) for word in _before_operands(words) if re.match(r"--\w|-[a-zA-Z_]{2}", word)]
    unknown = [flag for flag in dict.fromkeys(flags) if not _is_known(flag, known)]
    if unknown:
        named = " and ".join(_with_hint(flag, known, "--") for flag in unknown)
        _refuse(command, f"there is no option {named}", help_flag)
    for path in config_files(words):
        try:
            wrong = [key for key in settings_in(path) if not _is_known(f"--{key}", known)]
        except ConfigError as error:
            _refuse(command, str(error).rstrip("."), help_flag)
        if wrong:
            named = " and ".join(_with_hint(key, known, "") for key in wrong)
            what = "key" if len(wrong) == 1 else "keys"
            _refuse(command, f"{path} has the unknown {what} {named}", help_flag)


@cache
def known_options(command: str) -> frozenset[str]:
    """The names of a command's options, without dashes; none for a command whose options are no job's."""
    if command not in JOBS:
        return frozenset()
    kind = JOBS[command]
    names = {f.name for f in fields(kind) if f.name not in (*kind.groups, "given")}
    names |= {f.name for options in jobs.groups_of(kind) for f in fields(options)}
    if issubclass(kind, TrainingJob):
        names = names - {"trainer"} | _trainer_options()
    return frozenset(names | set(jobs.PARSER_OPTIONS) | ALSO)


def nearest(name: str, known: Iterable[str]) -> str | None:
    """The known name that one without dashes is most likely meant to be; None where none is near."""
    name, known = name.lower().replace("-", "_"), list(known)
    if USUAL.get(name) in known:
        return USUAL[name]
    near = get_close_matches(name, known, n=1)
    if near:
        return near[0]
    longer = sorted((other for other in known if other.startswith(name) or name in other.split("_")), key=len)
    return longer[0] if longer else None


def _trainer_options() -> set[str]:
    """The fields of DistillConfig and of TrainingArguments, read from their source; what is not offered is left out."""
    package = find_spec("transformers")
    places = [(Path(jobs.__file__).parents[1] / "training" / "config.py", "DistillConfig")]
    for folder in package.submodule_search_locations or () if package else ():
        places.append((Path(folder) / "training_args.py", "TrainingArguments"))
    return {name for path, owner in places for name in _fields_of(path, owner)} - jobs.NOT_OFFERED


def _fields_of(path: Path, owner: str) -> set[str]:
    """The annotated names in the body of a class."""
    tree = ast.parse(path.read_text(encoding="utf-8"))
    classes = [node for node in tree.body if isinstance(node, ast.ClassDef) and node.name == owner]
    annotated = [node.target for found in classes for node in found.body if isinstance(node, ast.AnnAssign)]
    return {target.id for target in annotated if isinstance(target, ast.Name)}


def _before_operands(words: Sequence[str]) -> Sequence[str]:
    """The words before a `--`, after which none is a flag."""
    return words[: words.index("--")] if "--" in words else words


def _flag(word: str) -> str:
    return word.partition("=")[0]


def _is_known(flag: str, known: frozenset[str]) -> bool:
    """Whether a command has a flag; the parser decides about parts of an option (--option.part) and added items."""
    return flag.startswith("--") and re.split(r"[.+]", flag[2:])[0] in known


def _with_hint(name: str, known: frozenset[str], dashes: str) -> str:
    near = nearest(name.lstrip("-"), known - ALSO)
    return f"{name} (did you mean {dashes}{near}?)" if near else name


def _refuse(command: str, message: str, help_flag: str) -> NoReturn:
    print(f"limbeck {command}: {message}. limbeck {command} {help_flag} shows the options.", file=sys.stderr)
    raise SystemExit(2)
