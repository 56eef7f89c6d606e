"""`limbeck report`: the page of a run or of a search, drawn from its results, without model, data or torch."""

import argparse
from pathlib import Path

from limbeck.errors import ConfigError
from limbeck.files import why_unwritable
from limbeck.report import write_report


def run(words: list[str]) -> None:
    """The command; `words` are its arguments."""
    parser = argparse.ArgumentParser(
        prog="limbeck report", description="Draw the results of a run as one page that opens in any browser."
    )
    parser.add_argument("run", metavar="RUN", help="a run's folder, or a results.json or tune.json")
    parser.add_argument("--output", help="the file to write; by default report.html beside the results")
    chosen = parser.parse_args(words)
    results = Path(chosen.run)
    path = Path(chosen.output) if chosen.output else page_of(results)
    if path.suffix == ".json" or path.is_dir():
        raise ConfigError(f"--output is the page to write, a file such as report.html, but is {path}.")
    try:
        write_report(results, path)
    except OSError as error:
        raise ConfigError(f"{path} cannot be written: {why_unwritable(path, error)}; pass another --output.") from error
    print(path)


def page_of(results: Path) -> Path:
    """report.html in a folder, beside results.json or beside tune.json; report_x.html beside results_x.json."""
    if results.is_dir() or results.name == "tune.json":
        return (results if results.is_dir() else results.parent) / "report.html"
    name = results.stem if "results" in results.stem else f"results_{results.stem}"
    return results.with_name(f"{name.replace('results', 'report')}.html")
