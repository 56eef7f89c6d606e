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


def defined_in(folder: Path) -> dict[str, set[str]]:
    """name -> the files below a folder that define it; a method also goes by its own name."""
    found: dict[str, set[str]] = {}
    for path in folder.rglob("*.py"):
        for name in names_in(path):
            for known in {name, name.split(".")[-1]}:
                found.setdefault(known, set()).add(str(path.relative_to(folder)))
    return found


TESTS = defined_in(ROOT / "tests")


def missing_tests(text: str) -> list[str]:
    """Tests that a page names, `file::test`, `…::test` (any file), `test` or `file`, and that do not exist."""
    files = [path.relative_to(ROOT / "tests").with_suffix("").as_posix() for path in (ROOT / "tests").rglob("*.py")]
    wrong = []
    for quoted in re.findall(r"`([^`\s]*test_\w+[^`\s]*)`", text):
        file, _, name = quoted.rpartition("::") if "::" in quoted else ("", "", quoted)
        stem = file.removesuffix(".py")
        there = [known for known in files if f"/tests/{known}".endswith(f"/{stem}")]
        if not stem or stem in ("…", "contract"):
            path = name.removesuffix(".py")
            exists = name in TESTS or any(f"/tests/{known}".endswith(f"/{path}") for known in files)
        else:
            exists = any(f"{known}.py" in TESTS.get(name, ()) for known in there)
        wrong += [] if exists else [quoted]
    return wrong


def missing_code(text: str) -> list[str]:
    """Paths below src/limbeck and dotted names of functions and classes that a page gives, and that do not exist."""
    wrong = []
    for quoted in re.findall(r"`([^`\s]+)`", text):
        if re.fullmatch(r"(?:\w+/)+\w+\.py", quoted):
            folders = (ROOT, SOURCE, SOURCE / "losses")
            wrong += [] if any((folder / quoted).is_file() for folder in folders) else [quoted]
        dotted = re.fullmatch(r"(?:limbeck\.)?([a-z_]+(?:\.[A-Za-z_]\w*)+)(?:\(.*\))?", quoted)
        if dotted and (SOURCE / dotted[1].split(".")[0]).is_dir():
            wrong += [] if resolves(dotted[1].split(".")) else [quoted]
    return wrong


def resolves(parts: list[str]) -> bool:
    """Whether `package.module.Class.member` is a module below src/limbeck, or a name in one."""
    for end in range(len(parts), 0, -1):
        inside = SOURCE.joinpath(*parts[:end])
        for file in (inside.with_suffix(".py"), inside / "__init__.py"):
            if file.is_file():
                named = ".".join(parts[end:])
                text = file.read_text(encoding="utf-8")
                return not named or named in names_in(file) or re.search(rf"\b{parts[end]}\b", text) is not None
    return False


@pytest.mark.parametrize("path", DOCS, ids=lambda path: path.name)
def test_what_a_page_names_exists(path: Path) -> None:
    text = path.read_text(encoding="utf-8")
    assert missing_tests(text) == []
    assert missing_code(re.sub(r"```.*?```", "", text, flags=re.DOTALL)) == []


def test_what_does_not_exist_is_found() -> None:
    assert missing_tests("`test_objective::test_eq_2`, `…::test_eq_2`, `test_eq_2`, `contracts/test_kernel`") == []
    gone = ["test_targets::test_eq_2", "…::test_eq_5", "language/test_objective.py", "test_eq_5"]
    assert missing_tests(", ".join(f"`{name}`" for name in gone)) == gone
    assert (
        missing_code("`losses/terms.py`, `losses.terms.SoftTerm`, `limbeck.losses.objective`, `linear/chunked.py`")
        == []
    )
    gone = ["losses/teams.py", "losses.terms.Soft", "limbeck.losses.objectives"]
    assert missing_code(", ".join(f"`{name}`" for name in gone)) == gone


def test_the_functions_of_the_tables_of_methods_exist() -> None:
    columns: list[str] = []
    found = []
    for line in (ROOT / "docs" / "methods.md").read_text(encoding="utf-8").splitlines():
        cells = [cell.strip() for cell in line.strip("|").split("|")] if line.startswith("|") else []
        if {"Function", "Where"} & set(cells):
            columns = cells
        elif columns and len(cells) >= len(columns):  # an equation may hold a bar
            place = next(i for i, name in enumerate(columns) if name in ("Function", "Where"))
            found += re.findall(r"`([A-Za-z_.]+)(?:\(.*?\))?`", cells[place + len(cells) - len(columns)])
    names = [name for name in found if "/" not in name and not name.startswith(".")]
    assert len(names) > 25
    known = defined_in(SOURCE)
    assert [name for name in names if name not in known and not resolves(name.split("."))] == []
