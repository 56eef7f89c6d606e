"""`limbeck export`: a student as an ONNX file, checked, measured and, on request, quantised to 8 bits.

Files beside the student's folder: student.onnx, student.int8.onnx, export.json (docs/export.md).
"""

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from rich.table import Table

from limbeck.commands import console
from limbeck.commands.jobs import ExportJob, export_parser, read_job
from limbeck.commands.options import DataOptions
from limbeck.commands.run_folder import export_of
from limbeck.commands.texts import (
    open_data,
    open_model,
    open_tokenizers,
    refuse_unused_networks,
    split_off_a_fifth,
    with_test,
)
from limbeck.errors import ConfigError, DataError
from limbeck.export import export_onnx
from limbeck.files import require_writable
from limbeck.networks.halves import is_language_model
from limbeck.report import write_report
from limbeck.results import write_results


def run(words: list[str]) -> None:
    """The command; `words` are its arguments."""
    console.hush()
    job = read_job(ExportJob, export_parser(), words)
    options = job.export
    folder = Path(job.path).resolve()
    if (folder / "student").is_dir() and not (folder / "config.json").exists():
        folder = folder / "student"
    if not folder.is_dir():
        raise ConfigError(f"{job.path} is not a folder; pass the folder of a run or of a model.")
    output = Path(options.output_dir or os.path.relpath(folder.parent))
    require_writable(output)
    refuse_unused_networks(job.own.network, [str(folder)])
    model = open_model(str(folder), job.own.network)
    batch = None
    if job.data.data and not is_language_model(model):  # export_onnx raises for these, and says what to use
        batch = _examples(job.data, str(folder), options.examples, model)
    report = export_onnx(model, output / f"{folder.name}.onnx", batch, int8=options.int8)
    record = export_of(folder.name)
    write_results(report, output / record)
    console.console.print(_table(report))
    if report["drawn"]:
        console.say("The inputs were drawn at random; pass --data to check the file on examples and measure accuracy.")
    files = [report[form]["file"] for form in ("onnx", "int8") if form in report] + [record]
    if folder.name == "student" and (output / "results.json").exists():
        write_report(output, output / "report.html")  # with the file's size and latency on it
        files.append("report.html")
    console.say(f"{output}: {', '.join(files)}")


def _examples(data: DataOptions, folder: str, most: int, model: object) -> Any:
    """At most `most` test examples, evenly spaced over the test."""
    if most < 2:
        raise ConfigError(f"--examples must be 2 or more, but is {most}.")
    tokenizer, of_teacher = open_tokenizers(data.tokenizer, [folder], [])
    splits = with_test(open_data(data, tokenizer, of_teacher, [model]), split_off_a_fifth)[0]
    if "test" not in splits:
        raise DataError(f"{data.data} has no test split; it has {', '.join(splits)}.")
    test = splits["test"]
    return test.__getitems__(list(range(0, len(test), -(-len(test) // most))))


def _table(report: Mapping[str, Any]) -> Table:
    """A column per form of the network."""
    forms = {form: report[form] for form in ("torch", "onnx", "int8") if form in report}
    what = "random inputs" if report["drawn"] else "examples"
    table = Table(title=f"{report['examples']:,} {what}, CPU threads: {report['threads']}", title_justify="left")
    for header in ("", *forms):
        table.add_column(header, justify="left" if header == "" else "right")
    lines = {
        "bytes": [f"{of['bytes']:,}" for of in forms.values()],
        "ms per example, batch of 1": [f"{of['latency_ms']['batch_1']:.3f}" for of in forms.values()],
        "ms per example, batch of 32": [f"{of['latency_ms']['batch_32']:.4f}" for of in forms.values()],
        "right": ["" if of["accuracy"] is None else f"{of['accuracy']:.2%}" for of in forms.values()],
        "predicts as torch does": [
            "" if of["same_prediction"] is None else f"{of['same_prediction']:.2%}" for of in forms.values()
        ],
        "largest difference of a logit": [f"{of['largest_difference']:.2g}" for of in forms.values()],
    }
    for line, values in lines.items():
        if any(values):
            table.add_row(line, *values)
    return table
