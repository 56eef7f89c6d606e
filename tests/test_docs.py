"""What the documents name exists: files, functions, tests and links; and the walks of docs/architecture.md go down.

Oracles: the source, parsed; the table of `tests/test_house.py`.
"""

import ast
import re
from functools import cache
from pathlib import Path

import pytest
from test_house import MAY_IMPORT, SOURCE, imports, module_of

ROOT = Path(__file__).parent.parent
DOCS = [*sorted((ROOT / "docs").glob("*.md")), ROOT / "README.md", ROOT / "CONTRIBUTING.md"]
ARCHITECTURE = (ROOT / "docs" / "architecture.md").read_text(encoding="utf-8")

Step = tuple[int, str, tuple[str, ...]]
"""Depth, file below src/limbeck, and the names in it that take part."""


def walks(text: str) -> list[list[Step]]:
    """The walks of a page: its blocks whose lines are `FILE.py  name, name  what happens`."""
    found = []
    for block in re.findall(r"```text\n(.*?)```", text, flags=re.DOTALL):
        steps = []
        for line in block.splitlines():
            match = re.fullmatch(r"( *)(\S+\.py) +((?:[\w.]+, )*[\w.]+)(?:  .*)?", line)
            assert match, f"This line is no step of a walk: {line!r}"
            steps.append((len(match[1]), match[2], tuple(match[3].split(", "))))
        found.append(steps)
    return found


@cache
def names_in(path: Path) -> frozenset[str]:
    """The functions, classes, methods, fields and constants that a file defines: `Class.member` for members."""
    found = set()

    def visit(body: list[ast.stmt], prefix: str) -> None:
        for node in body:
            if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef):
                found.add(prefix + node.name)
            if isinstance(node, ast.ClassDef):
                visit(node.body, f"{prefix}{node.name}.")
            targets = node.targets if isinstance(node, ast.Assign) else [getattr(node, "target", None)]
            found.update(prefix + target.id for target in targets if isinstance(target, ast.Name))

    visit(ast.parse(path.read_text(encoding="utf-8")).body, "")
    return frozenset(found)


@cache
def imported_by(file: str) -> frozenset[str]:
    """The files that a file imports, at once or in a function, as written there."""
    path = SOURCE / file
    found = set()
    for name, _ in imports(path.read_text(encoding="utf-8"), module_of(path), path.name == "__init__.py"):
        inside = Path(*name.split(".")[1:])
        candidates = [inside.with_suffix(".py"), inside / "__init__.py"] if name.startswith("limbeck.") else []
        found.update(str(candidate) for candidate in candidates if (SOURCE / candidate).is_file())
    return frozenset(found)


def reached_from(file: str) -> set[str]:
    """The files that a file imports, and those that they import, and so on."""
    reached: set[str] = set()
    ahead = [file]
    while ahead:
        new = imported_by(ahead.pop()) - reached
        reached |= new
        ahead += new
    return reached


def steps_back(walk: list[Step]) -> list[str]:
    """Calls of a walk whose callee imports its caller, directly or through others."""
    callers: list[Step] = []
    wrong = []
    for step in walk:
        depth, file, _ = step
        callers = [caller for caller in callers if caller[0] < depth]
        wrong += [f"{file} reaches {caller}" for _, caller, _ in callers[-1:] if caller in reached_from(file)]
        callers.append(step)
    return wrong


WALKS = walks(ARCHITECTURE)
STEPS = [(file, names) for walk in WALKS for _, file, names in walk]


def test_there_are_two_walks() -> None:
    assert [(walk[0][1], len(walk) > 20) for walk in WALKS] == [("cli.py", True), ("commands/distill.py", True)]


@pytest.mark.parametrize(("file", "names"), sorted(set(STEPS)), ids=str)
def test_files_and_functions_of_a_walk_exist(file: str, names: tuple[str, ...]) -> None:
    assert (SOURCE / file).is_file()
    assert set(names) - names_in(SOURCE / file) == set()


@pytest.mark.parametrize("walk", WALKS, ids=["temperature", "batch"])
def test_no_step_of_a_walk_goes_back_up(walk: list[Step]) -> None:
    assert steps_back(walk) == []


def test_a_step_back_is_found() -> None:
    up = walks("```text\nlosses/numbers.py  widened\n    losses/objective.py  Objective  more\n```\n")
    assert steps_back(up[0]) == ["losses/objective.py reaches losses/numbers.py"]
    through_others = [(0, "errors.py", ()), (4, "commands/distill.py", ()), (8, "losses/numbers.py", ())]
    assert steps_back(through_others) == ["commands/distill.py reaches errors.py"]


def test_the_table_of_rooms_is_the_one_that_is_enforced() -> None:
    table = {}
    for rooms, allowed in re.findall(r"^\| (`.*?) \| (.*?) \|$", ARCHITECTURE, flags=re.MULTILINE):
        for room in re.findall(r"`(\w+)`", rooms):
            table[room] = {"*"} if allowed == "everything" else set(re.findall(r"`(\w+)`", allowed))
    assert table == MAY_IMPORT


@pytest.mark.parametrize("path", DOCS, ids=lambda path: path.name)
def test_links_lead_somewhere(path: Path) -> None:
    text = re.sub(r"```.*?```", "", path.read_text(encoding="utf-8"), flags=re.DOTALL)
    links = [link for link in re.findall(r"\]\(([^)#\s]+)", text) if "://" not in link]
    assert [link for link in links if not (path.parent / link).exists()] == []
