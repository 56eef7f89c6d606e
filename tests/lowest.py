"""Prints the lowest version that pyproject.toml promises of each dependency, for `make test-lowest`."""

import re
import tomllib
from pathlib import Path

HIGHEST_TOO = {"torch"}  # installed by the pin in constraints.txt: other builds may bring gigabytes of CUDA


def lowest(project: dict) -> list[str]:
    """The requirements of Limbeck and of its extras for users, each with `==` for its `>=`."""
    extras = project["optional-dependencies"]
    found = []
    for requirement in [*project["dependencies"], *extras["peft"], *extras["export"]]:
        name, version = re.match(r"([\w.-]+)>=([\w.]+)", requirement).groups()
        if name not in HIGHEST_TOO:
            found.append(f"{name}=={version}")
    return found


if __name__ == "__main__":
    pyproject = Path(__file__).parent.parent / "pyproject.toml"
    print("\n".join(lowest(tomllib.loads(pyproject.read_text())["project"])))
