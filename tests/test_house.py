"""The house: who may import whom, what `import limbeck` costs, what is public, what is never done.

Every rule is a function from source to offences, tried on an offender first.
"""

import ast
import importlib
import inspect
import pydoc
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from types import ModuleType

import pytest

import limbeck

SOURCE = Path(limbeck.__file__).parent
FILES = sorted(SOURCE.rglob("*.py"))
TESTS_FOLDER = Path(__file__).parent
TESTS = sorted(TESTS_FOLDER.rglob("*.py"))

# Who may import whom: a room (a module, or a package and all in it) -> the rooms it may import from. What is
# not listed here has no place yet: draw it in CONTRIBUTING.md and give it a line. The longest name that fits counts.
PARTS = {"errors", "files", "losses", "networks", "teachers", "transfer"}
MAY_IMPORT: dict[str, set[str]] = {
    "_version": set(),
    "errors": set(),
    "files": {"errors"},  # the one atomic write, and the one lock, for whoever writes
    "results": {"errors", "files"},
    "losses": {"errors"},
    "networks": {"errors", "files", "losses"},
    "teachers": {"errors", "losses", "networks"},
    "transfer": {"errors", "losses", "networks"},
    "store": PARTS,
    "training": PARTS,
    "evaluation": PARTS | {"results"},
    "tuning": PARTS | {"results", "training", "evaluation"},
    "export": {"errors", "files", "results", "losses", "networks", "teachers"},
    "report": {"errors", "files", "results"},  # it draws old runs again from their JSON
    "paper": {"limbeck", "results"},  # the public API, and the schema of its files
    "commands": {"*"},
    "cli": {"*"},
    "__main__": {"cli"},
}

# Rooms that work in anyone's training loop: with torch alone on import, and never with these.
TORCH_ONLY = {"losses"}
TORCH = {"torch", "triton"}
NEVER_IN_LOSSES = {"transformers", "datasets", "accelerate", "sklearn"}

# Hugging Face's libraries: where batches are made, models are loaded by name and training is run.
HUGGING_FACE = {"transformers", "datasets", "accelerate"}
MAY_IMPORT_HUGGING_FACE = {
    *("networks", "teachers", "transfer", "store", "training", "evaluation", "tuning", "paper", "commands", "cli"),
}


def room_of(module: str, rooms: set[str]) -> str | None:
    """The longest room that `module` ("teachers.stored.x", without "limbeck.") lies in."""
    inside = [room for room in rooms if module == room or module.startswith(room + ".")]
    return max(inside, key=len, default=None)


def module_of(path: Path) -> str:
    parts = path.relative_to(SOURCE).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


def imports(source: str, module: str, is_package: bool) -> Iterator[tuple[str, bool]]:
    """(full name, whether importing the file imports it) of every module in it, also in functions."""
    package = f"limbeck.{module}".split(".")[: None if is_package else -1]
    tree = ast.parse(source)
    functions = (node for node in ast.walk(tree) if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef))
    later = {inner for function in functions for inner in ast.walk(function)}
    for node in ast.walk(tree):
        names: list[str] = []
        if isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            start = package[: len(package) - node.level + 1] if node.level else []
            base = ".".join([*start, *([node.module] if node.module else [])])
            # `from limbeck import x` may import the module x or a public name
            names = [f"{base}.{alias.name}" for alias in node.names] if base == "limbeck" else [base]
        yield from ((name, node not in later) for name in names)


def wrong_arrows(source: str, module: str, is_package: bool = False) -> list[str]:
    own = room_of(module, set(MAY_IMPORT))
    if own is None:
        return [f"limbeck.{module} has no line in MAY_IMPORT: say there which rooms it may import from"]
    allowed, wrong = MAY_IMPORT[own], []
    for name, at_once in sorted(set(imports(source, module, is_package))):
        top, _, inner = name.partition(".")
        if top == "limbeck":
            room = room_of(inner, set(MAY_IMPORT)) or "limbeck"
            within = room == own or room.startswith(own + ".")
            if not (within or room == "_version" or room in allowed or "*" in allowed):
                may = ", ".join(sorted(allowed)) or "nothing of ours"
                wrong.append(f"limbeck.{module} imports {name}: {own} -> {room} is no arrow of ours; {own} may: {may}")
        elif own in TORCH_ONLY and (top in NEVER_IN_LOSSES or (at_once and top not in TORCH | sys.stdlib_module_names)):
            wrong.append(f"limbeck.{module} imports {name}: {own} works with torch alone")
        elif top in HUGGING_FACE and own not in MAY_IMPORT_HUGGING_FACE:
            wrong.append(f"limbeck.{module} imports {name}: only {', '.join(sorted(MAY_IMPORT_HUGGING_FACE))} may")
    return wrong


def unsafe(source: str) -> list[str]:
    """What runs code out of files: pickle, eval and exec, torch.load of objects, code from the hub."""
    found = []
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import | ast.ImportFrom):
            names = [node.module or ""] if isinstance(node, ast.ImportFrom) else [alias.name for alias in node.names]
            pickles = {"pickle", "cPickle", "cloudpickle", "dill", "joblib", "marshal", "shelve"}
            found += [f"line {node.lineno}: import {name}" for name in names if name.split(".")[0] in pickles]
        elif isinstance(node, ast.Call):
            name = ast.unparse(node.func)
            given = {keyword.arg: ast.unparse(keyword.value) for keyword in node.keywords}
            wrong = (
                name in ("eval", "exec", "compile", "__import__")
                or (name == "torch.load" and given.get("weights_only") != "True")
                or (name in ("yaml.load", "yaml.unsafe_load", "yaml.full_load"))
                or given.get("trust_remote_code") == "True"
                or given.get("allow_pickle") == "True"
            )
            found += [f"line {node.lineno}: {ast.unparse(node)}"] if wrong else []
        elif isinstance(node, ast.Dict):
            keys = [key.value if isinstance(key, ast.Constant) else None for key in node.keys]
            pairs = dict(zip(keys, map(ast.unparse, node.values), strict=True))
            found += [f"line {node.lineno}: trust_remote_code"] if pairs.get("trust_remote_code") == "True" else []
    return found


def kinds_told_apart(source: str) -> list[str]:
    """Calls of isinstance, matches and comparisons of types with a kind of targets: each kind has members for it."""
    kinds = {f"{kind}Targets" for kind in ("Dense", "Hidden", "Sparse", "Sampled", "Mixed")}
    found = []
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Call) and ast.unparse(node.func) in ("isinstance", "issubclass"):
            asked: list[ast.expr] = node.args[1:]
        elif isinstance(node, ast.MatchClass):
            asked = [node.cls]
        elif isinstance(node, ast.Compare) and "type(" in ast.unparse(node):
            asked = [node.left, *node.comparators]
        else:
            continue
        names = {ast.unparse(inner).split(".")[-1] for expression in asked for inner in ast.walk(expression)}
        found += [f"line {node.lineno}: {ast.unparse(node)}"] if names & kinds else []
    return found


def without_help(name: str, thing: object) -> list[str]:
    """Public names whose `help` does not begin with a text of their own; values that are not callable need none."""
    if not callable(thing):
        return []
    if not thing.__doc__:
        return [f"limbeck.{name} has no docstring"]
    if isinstance(thing, type):
        return []
    if thing.__doc__ == type(thing).__doc__:
        return [f"help(limbeck.{name}) shows only the text of {type(thing).__name__}"]
    first = thing.__doc__.strip().splitlines()[0]
    shown = pydoc.render_doc(thing, renderer=pydoc.plaintext)
    return [] if first in shown else [f"help(limbeck.{name}) does not show its text"]


CLOCKS = {"time", "time_ns", "monotonic", "monotonic_ns", "perf_counter", "perf_counter_ns", "process_time"}
CLOCKS |= {"process_time_ns", "thread_time", "thread_time_ns", "default_timer", "now"}


def clocks(source: str) -> list[str]:
    """Calls that read a clock: what a test asserts does not depend on how busy the machine is."""
    calls = [node for node in ast.walk(ast.parse(source)) if isinstance(node, ast.Call)]
    names = [(call.lineno, ast.unparse(call.func)) for call in calls]
    return [f"line {line}: {name}()" for line, name in names if name.split(".")[-1] in CLOCKS]


every_file = pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(SOURCE)))


@pytest.mark.parametrize(
    "path",
    [path for path in FILES if path != SOURCE / "__init__.py"],  # the front door names every room and opens none
    ids=lambda path: str(path.relative_to(SOURCE)),
)
def test_arrows_point_one_way(path: Path) -> None:
    assert wrong_arrows(path.read_text(), module_of(path), path.name == "__init__.py") == []


@pytest.mark.parametrize(
    ("module", "line", "arrow"),
    [
        ("losses.divergences", "from limbeck.networks.asking import logits_of", "losses -> networks"),
        ("losses.objective", "import limbeck.teachers.model", "losses -> teachers"),
        ("losses.objective", "def f():\n    from limbeck.store.opened import open", "losses -> store"),
        ("teachers.model", "from limbeck.training.plan import check_student", "teachers -> training"),
        ("teachers.model", "from ..store import read", "teachers -> store"),
        ("transfer.rows", "from limbeck import teachers", "transfer -> teachers"),
        ("evaluation.classes", "from limbeck.training.trainer import DistillConfig", "evaluation -> training"),
        ("training.trainer", "from limbeck.store.opened import open", "training -> store"),
        ("store.label", "from limbeck.training.plan import check_student", "store -> training"),
        ("networks.asking", "from limbeck.transfer.rows import arrays", "networks -> transfer"),
        ("report.page", "import limbeck", "report -> limbeck"),
        ("losses.targets", "import transformers", "torch alone"),
        ("losses.metrics", "def f():\n    from sklearn.metrics import f1_score", "torch alone"),
        ("losses.objective", "import numpy", "torch alone"),
        ("report.page", "import datasets", "only"),
        ("utils", "", "no line in MAY_IMPORT"),
    ],
)
def test_a_wrong_arrow_is_named(module: str, line: str, arrow: str) -> None:
    (offence,) = wrong_arrows(line, module)
    assert arrow in offence


@pytest.mark.parametrize(
    ("module", "line"),
    [
        ("store.teacher", "from limbeck.teachers.model import Teacher"),
        ("teachers.ensemble", "from limbeck.teachers.model import ModelTeacher"),
        ("teachers", "from limbeck.teachers.model import ModelTeacher"),
        ("training.trainer", "from transformers import Trainer\nfrom limbeck.losses.linear import linear_divergence"),
        (
            "losses.metrics",
            "import torch\nfrom limbeck.losses.divergences import forward_kl\ndef f():\n    import scipy",
        ),
        ("paper.mnist", "from limbeck import Objective"),
        ("cli", "from limbeck import __version__\nfrom limbeck.report.page import draw"),
    ],
)
def test_a_right_arrow_is_not(module: str, line: str) -> None:
    assert wrong_arrows(line, module, is_package="." not in module and module == "teachers") == []


def modules_after(code: str) -> tuple[str, set[str]]:
    """What a fresh interpreter prints when it runs `code`, and the modules that it has imported then."""
    end = "import sys; print('\\nMODULES', *sys.modules)"
    run = subprocess.run(
        [sys.executable, "-c", f"{code}\n{end}"], capture_output=True, text=True, timeout=60, check=False
    )
    assert run.returncode == 0, run.stderr
    printed, _, names = run.stdout.partition("\nMODULES ")
    return printed, set(names.split())


HEAVY = {"torch", "transformers", "datasets", "accelerate", "sklearn", "pandas", "matplotlib"}


def test_import_is_light() -> None:
    _, modules = modules_after("import limbeck; limbeck.__version__; dir(limbeck)")
    assert modules & HEAVY == set()


def test_help_imports_the_standard_library_and_the_door_alone() -> None:
    """What `limbeck --help` takes is what it imports; the interpreter's own start is taken off."""
    code = (
        "import sys; sys.argv = ['limbeck', '--help']\n"
        "from limbeck.cli import main\n"
        "try: code = main()\n"
        "except SystemExit as end: code = end.code\n"
        "assert not code, code"
    )
    _, at_start = modules_after("")
    printed, modules = modules_after(code)
    new = modules - at_start
    assert {name for name in new if name.split(".")[0] not in sys.stdlib_module_names} == {
        *("limbeck", "limbeck._version", "limbeck.cli", "limbeck.errors"),
    }
    assert new & {"argparse", "asyncio", "json", "logging", "multiprocessing", "unittest"} == set()
    for command in ("demo", "distill", "evaluate"):
        assert command in printed


def test_all_is_what_is_visible() -> None:
    """Public names of the front door: no more, no less, each of which opens."""
    rooms = {path.stem if path.name != "__init__.py" else path.parent.name for path in FILES}
    visible = {
        name
        for name in dir(limbeck)
        if not name.startswith("_") and not (name in rooms and isinstance(getattr(limbeck, name), ModuleType))
    }
    assert visible == {name for name in limbeck.__all__ if not name.startswith("_")}
    assert len(limbeck.__all__) == len(set(limbeck.__all__))
    assert "__version__" in limbeck.__all__


def test_help_of_the_package_is_its_public_names_by_theme() -> None:
    """A few screens: the names, each once, and not the pages of all of them."""
    shown = pydoc.render_doc(limbeck, renderer=pydoc.plaintext)
    assert len(shown.splitlines()) < 100
    themes = (limbeck.__doc__ or "").partition("by theme;")[2].partition("The modules behind")[0]
    listed = [word.rstrip(":") for word in themes.split() if word.rstrip(":") in limbeck.__all__]
    missing = sorted(set(limbeck.__all__) - set(listed) - {"__version__"})
    assert missing == [], "list these names under a theme in the docstring of src/limbeck/__init__.py"
    assert set(limbeck.__all__) == set(dir(limbeck)) == {name for name, _ in inspect.getmembers(limbeck)}


@pytest.mark.parametrize("name", limbeck.__all__)
def test_help_shows_what_a_public_name_is(name: str) -> None:
    assert without_help(name, getattr(limbeck, name)) == []


INSTANCES = [name for name in limbeck.__all__ if isinstance(getattr(limbeck, name), limbeck.Divergence)]


def test_the_divergences_without_a_parameter_are_instances() -> None:
    assert {"forward_kl", "reverse_kl", "cross_entropy", "total_variation", "logit_matching"} <= set(INSTANCES)


@pytest.mark.parametrize("name", INSTANCES)
def test_help_of_a_divergence_is_its_own_text(name: str) -> None:
    divergence = getattr(limbeck, name)
    shown = pydoc.render_doc(divergence, renderer=pydoc.plaintext)
    assert all(line.strip() in shown for line in divergence.text.splitlines())
    others = [getattr(limbeck, other).text for other in INSTANCES if other != name]
    assert divergence.text not in others
    assert not any(other.splitlines()[0] in shown for other in others)


def test_a_name_without_help_is_found() -> None:
    bare = replace(limbeck.forward_kl, text=None)  # `__doc__` is then that of its class
    assert without_help("bare", bare) == ["help(limbeck.bare) shows only the text of Divergence"]
    hidden = replace(limbeck.forward_kl, text=None)
    object.__setattr__(hidden, "__doc__", "")
    assert without_help("hidden", hidden) == ["limbeck.hidden has no docstring"]

    def undocumented() -> None: ...

    assert without_help("undocumented", undocumented) == ["limbeck.undocumented has no docstring"]


def test_what_is_not_there_is_an_attribute_error() -> None:
    with pytest.raises(AttributeError, match="alpha"):
        _ = limbeck.alpha
    with pytest.raises(ImportError):
        importlib.import_module("limbeck.utils")


@every_file
def test_every_module_says_what_it_is(path: Path) -> None:
    docstring = ast.get_docstring(ast.parse(path.read_text()))
    assert docstring, f"{path.relative_to(SOURCE)} has no docstring"


@every_file
def test_nothing_runs_code_out_of_a_file(path: Path) -> None:
    assert unsafe(path.read_text()) == []


@pytest.mark.parametrize(
    "line",
    [
        "import pickle",
        "from joblib import load",
        "def f():\n    import dill",
        "torch.load(path)",
        "torch.load(path, weights_only=False)",
        "eval(text)",
        "exec(text)",
        "__import__(name)",
        "AutoModel.from_pretrained(name, trust_remote_code=True)",
        "options = {'trust_remote_code': True}",
        "numpy.load(path, allow_pickle=True)",
        "yaml.load(text, Loader=yaml.Loader)",
    ],
)
def test_what_would_run_code_is_found(line: str) -> None:
    assert len(unsafe(line)) == 1


@pytest.mark.parametrize(
    "path",
    [path for path in FILES if not module_of(path).startswith("losses.targets")],
    ids=lambda path: str(path.relative_to(SOURCE)),
)
def test_no_file_outside_losses_targets_tells_kinds_of_targets_apart(path: Path) -> None:
    assert kinds_told_apart(path.read_text()) == []


@pytest.mark.parametrize(
    ("line", "offences"),
    [
        ("isinstance(targets, DenseTargets)", 1),
        ("isinstance(targets, (SparseTargets, Tensor))", 1),
        ("isinstance(targets, limbeck.HiddenTargets | MixedTargets)", 1),
        ("type(targets) is SampledTargets", 1),
        ("match targets:\n    case MixedTargets():\n        pass", 1),
        ("isinstance(targets, SoftTargets)", 0),
        ("DenseTargets(logits)", 0),
        ("def f(x) -> DenseTargets:\n    return isinstance(x, Tensor)", 0),
    ],
)
def test_telling_kinds_of_targets_apart_is_found(line: str, offences: int) -> None:
    assert len(kinds_told_apart(line)) == offences


@pytest.mark.parametrize("path", TESTS, ids=lambda path: str(path.relative_to(TESTS_FOLDER)))
def test_no_test_reads_a_clock(path: Path) -> None:
    assert clocks(path.read_text()) == []


@pytest.mark.parametrize(
    ("line", "offences"),
    [
        ("start = time.perf_counter()\nassert time.perf_counter() - start < 1", 2),
        ("from time import monotonic\nmonotonic()", 1),
        ("time.sleep(0.1)", 0),
        ("latency_ms(network, batch, 2, seconds=0.0)", 0),
        ("SimpleNamespace(perf_counter=lambda: 0.0)", 0),
    ],
)
def test_reading_a_clock_is_found(line: str, offences: int) -> None:
    assert len(clocks(line)) == offences


@pytest.mark.parametrize(
    "line",
    [
        "model.eval()",
        "torch.load(path, weights_only=True)",
        "re.compile(x)",
        "torch.compile(model)",
        "from_pretrained(name, trust_remote_code=trust)",
        "yaml.safe_load(text)",
    ],
)
def test_what_would_not_is_not(line: str) -> None:
    assert unsafe(line) == []
