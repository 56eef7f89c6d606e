"""The page: results become one HTML file, with its style, its script and its drawings inside.

What comes from data (names, texts, tokens, settings) is escaped by the template, and the page forbids itself, by its
content security policy, any script but its own and any request.

What this file does not know: what the numbers mean.
"""

import base64
import hashlib
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from jinja2 import Environment, FileSystemLoader, StrictUndefined
from markupsafe import Markup

from limbeck.report import classifier, language, paper, words
from limbeck.report.advice import advise
from limbeck.report.reading import PAPER, at, read
from limbeck.report.shared import curves, headline, settings

HERE = Path(__file__).parent


def write_report(results: Mapping[str, Any] | str | Path, path: str | Path) -> None:
    """Writes results as one self-contained HTML page (UTF-8): whole or not at all.

    results: what evaluate, evaluate_language or compare returned; a results.json, of `limbeck paper` too; or a folder
        that holds one.
    path: the file to write, such as runs/demo/report.html.

    What the results lack, such as a baseline, is left out. DataError for what are no results, and for newer ones.
    """
    page = html(read(results))
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    beside = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        beside.write_text(page, encoding="utf-8")
        os.replace(beside, path)
    finally:
        beside.unlink(missing_ok=True)


def html(results: Mapping[str, Any]) -> str:
    """The page of results that `read` has checked."""
    style, script = ((HERE / name).read_text(encoding="utf-8") for name in ("page.css", "page.js"))
    digest = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
    sheets = Environment(
        loader=FileSystemLoader(HERE),
        undefined=StrictUndefined,
        autoescape=True,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
    )
    sheets.filters.update(
        percent=words.percent, points=words.points, plain=words.plain, whole=words.whole, short=words.short
    )
    of_paper = at(results, "schema") == PAPER
    return sheets.get_template("paper.html" if of_paper else "page.html").render(
        settings=settings(results),
        limbeck=str(at(results, "limbeck") or "an unknown version"),
        style=Markup(style),
        script=Markup(script),
        digest=digest,
        **(paper.sections(results) if of_paper else _of_a_run(results)),
    )


def _of_a_run(results: Mapping[str, Any]) -> dict[str, Any]:
    writes = at(results, "task") == "language"
    return {
        "kind": "language" if writes else "classifier",
        "headline": headline(results),
        "advice": advise(results),
        "curves": curves(results),
        **(language if writes else classifier).sections(results),
    }
