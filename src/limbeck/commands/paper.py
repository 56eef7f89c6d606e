"""`limbeck paper EXPERIMENT`: runs an experiment of the 2015 paper and compares with its figures.

Files in OUTPUT/EXPERIMENT: results.json, report.html and, for some experiments, a plot.
"""

from importlib import import_module
from pathlib import Path

from rich.markup import escape
from rich.table import Table

from limbeck.commands.console import console, say
from limbeck.commands.jobs import PaperJob, read_job
from limbeck.commands.options import DataOptions, new_parser
from limbeck.commands.texts import open_data
from limbeck.errors import ConfigError
from limbeck.paper.lab import Lab
from limbeck.report import write_report
from limbeck.report.paper import REPORTED
from limbeck.results import Json


def run(words: list[str]) -> None:
    """The command; `words` are its arguments."""
    listed = "; ".join(f"{name}: {title} ({section})" for name, (title, section, _) in REPORTED.items())
    parser = new_parser("paper", f"The experiments of arXiv 1503.02531. {listed}.", "EXPERIMENT")
    parser.add_argument("experiment", choices=list(REPORTED), help="the experiment")
    parser.add_argument(
        "--data", "--data_dir", type=str, default="digits", help="digits, a folder in MNIST's format, or a hub name"
    )
    parser.add_argument("--budget", choices=["quick", "full"], default="quick", help="how long to train")
    parser.add_argument("--seeds", type=int, default=3, help="number of seeds each student is trained with")
    parser.add_argument("--output_dir", type=str, help="by default runs/paper/DATA-BUDGET")
    job = read_job(PaperJob, parser, words)
    folder = Path(job.output_dir or Path("runs", "paper", f"{Path(job.data).name}-{job.budget}"))
    splits: Json = open_data(DataOptions(data=job.data))
    example = splits[next(iter(splits))][0]
    if "inputs" not in example:
        raise ConfigError(f"The experiments need images in a column 'inputs', but {job.data} has {sorted(example)}.")
    lab = Lab(splits, folder, budget=job.budget, seeds=job.seeds, say=lambda text: say(f"{text} ..."))
    results = import_module(f"limbeck.paper.{job.experiment}").run(lab)
    console.print(table(results))
    if "verdict" in results:
        say(results["verdict"]["sentence"])
    write_report(results, lab.results_of(job.experiment) / "report.html")
    written = sorted(path.name for path in lab.results_of(job.experiment).iterdir())
    say(f"{folder / job.experiment}: {', '.join(written)}; the networks are in {folder / 'nets'}")


def table(results: Json) -> Table:
    """The experiment's rows, with the paper's figures."""
    shown = Table(title=f"{results['experiment']}: errors of {results['test_examples']:,}", title_justify="left")
    shares = [k for k in ("threes_right", "train_right", "test_right") if k in results["rows"][0]]
    for header in ("", "errors", "95 % interval", *(s.replace("_", " ") for s in shares), "the paper"):
        shown.add_column(header, justify="left" if header == "" else "right")
    for line in results["rows"]:
        errors = line["errors"]
        interval = f"{errors['low']:,.0f} to {errors['high']:,.0f}"
        paper = "" if line["paper"] is None else str(line["paper"])
        shown.add_row(
            escape(line["name"]), f"{errors['mean']:,.1f}", interval, *(f"{line[s]:.1%}" for s in shares), paper
        )
    return shown
