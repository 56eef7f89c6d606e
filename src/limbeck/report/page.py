"""The page: results become one HTML file, with its style, its script and its drawings inside.

What comes from data (names, texts, tokens, settings) is escaped by the template, and the page forbids itself, by its
content security policy, any script but its own and any request.

What this file does not know: what the numbers mean.
"""

import base64
import hashlib
from pathlib import Path
from typing import Any

from jinja2 import Environment, FileSystemLoader, StrictUndefined
from markupsafe import Markup

from limbeck.files import write_whole
from limbeck.report import classifier, language, paper, scored, tuning, words
from limbeck.report.advice import advise
from limbeck.report.headline import headline
from limbeck.report.reading import at, read
from limbeck.report.shared import curves, files, settings
from limbeck.results import PAPER, RESULTS, TUNE, Json, JsonView

HERE = Path(__file__).parent


def write_report(results: JsonView | str | Path, path: str | Path) -> None:
    """Writes results as one self-contained HTML page (UTF-8): whole or not at all.

    results: what evaluate, evaluate_language, compare or tune returned; a results.json, of `limbeck paper` too, or a
        tune.json; or a folder that holds one. An export.json beside a results.json, of the same student, is shown too.
    path: the file to write, such as runs/demo/report.html.

    What the results lack, such as a baseline, is left out. DataError for what are no results, and for newer ones.
    """
    write_whole(path, html(read(results)))


def html(results: JsonView) -> str:
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
        percent=words.percent,
        points=words.points,
        plain=words.plain,
        whole=words.whole,
        short=words.short,
        breakable=_breakable,
    )
    template, sections = PAGES[at(results, "schema")]
    return sheets.get_template(template).render(
        settings=settings(results),
        limbeck=str(at(results, "limbeck") or "an unknown version"),
        style=Markup(style),
        script=Markup(script),
        digest=digest,
        **sections(results),
    )


def _breakable(text: str) -> Markup:
    """The text, escaped, which a browser may break between words and in words that are too long."""
    return Markup("<wbr>").join(words.pieces(text))


def _of_a_run(results: JsonView) -> Json:
    task = at(results, "task")
    kind = "language" if task == "language" else "scored" if task in scored.KINDS else "classifier"
    drawn: Any = {"language": language, "scored": scored, "classifier": classifier}[kind]
    return {
        "kind": kind,
        "headline": headline(results),
        "advice": advise(results),
        "curves": curves(results),
        "files": files(results),
        "chosen": tuning.choice(at(results, "tuned"), at(results, "settings")),
        **drawn.sections(results),
    }


PAGES = {
    RESULTS: ("page.html", _of_a_run),
    PAPER: ("paper.html", paper.sections),
    TUNE: ("tune.html", tuning.sections),
}
"""schema -> its template, and what that shows."""
