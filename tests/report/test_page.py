"""The page: every number is one of the results', what data says is escaped, what is missing is left out."""

import json
import math
import re
import subprocess
import sys
import tomllib
from fnmatch import fnmatch
from html.parser import HTMLParser
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import limbeck
from limbeck.cli import main
from limbeck.errors import DataError
from limbeck.report import write_report
from limbeck.report.heat import _alike
from limbeck.report.page import HERE, html

from .samples import CLASSES, PAYLOAD, classifier, experiment, exported, hostile, language, results_of, search

ROOT = Path(limbeck.__file__).parent.parent.parent

VOID = {"meta", "link", "img", "input", "br", "wbr"}


class Page(HTMLParser):
    """What stands on a page: (tag, attributes, text within), in order."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.elements: list[tuple[str, dict[str, str | None], list[str]]] = []
        self.open: list[int] = []
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.append((tag, dict(attrs), []))
        if tag not in VOID:
            self.open.append(len(self.elements) - 1)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.append((tag, dict(attrs), []))

    def handle_endtag(self, tag: str) -> None:
        assert self.elements[self.open[-1]][0] == tag, f"{tag} closes {self.elements[self.open[-1]][0]}"
        self.open.pop()

    def handle_data(self, data: str) -> None:
        for place in self.open:
            self.elements[place][2].append(data)

    def all(self, tag: str, **wanted: str) -> list[tuple[dict[str, str | None], str]]:
        """The elements of this tag whose attributes (class_ for class) hold these words."""
        return [
            (attributes, "".join(text).strip())
            for name, attributes, text in self.elements
            if name == tag
            and all(set(v.split()) <= set((attributes.get(k.rstrip("_")) or "").split()) for k, v in wanted.items())
        ]

    def rows(self) -> list[list[str]]:
        """The cells of every table row."""
        found: list[list[str]] = []
        for tag, _, text in self.elements:
            if tag == "tr":
                found.append([])
            elif tag in ("td", "th") and found:
                found[-1].append(" ".join("".join(text).split()))
        return found


def row(page: Page, name: str) -> list[str]:
    return next(cells for cells in page.rows() if cells and cells[0] == name)


@pytest.fixture(scope="module", params=["classifier", "language"])
def results(request: pytest.FixtureRequest) -> dict[str, Any]:
    return classifier() if request.param == "classifier" else language()


def test_the_verdict_comes_first_and_the_table_says_what_was_measured():
    results = classifier()
    page = Page(html(results))
    assert page.all("h1")[0][1] == "Better than its baseline"
    assert page.all("p", class_="sentence")[0][1] == results["verdict"]["sentence"]
    roles = results["roles"]
    shown = [re.split(r"(?<=%)", cell)[0].replace("\u00a0", " ") for cell in row(page, "right")[1:4]]
    assert shown == [f"{100 * roles[r]['accuracy']['mean']:.2f} %" for r in ("teacher", "student", "baseline")]
    assert row(page, "its calibration temperature")[1] == f"{roles['teacher']['scaled']['temperature']['mean']:#.3g}"
    assert row(page, "parameters")[1] == f"{(CLASSES * 160):,}"
    best = [text for _, text in page.all("td", class_="best")]
    assert any(text.startswith(f"{100 * roles['student']['accuracy']['mean']:.2f}") for text in best)


def test_classes_stand_in_the_order_of_their_change():
    results = classifier()
    right = {role: np.array(of["correct_per_class"]) for role, of in results["roles"].items()}
    change = (right["student"] - right["baseline"]) / np.array(results["test"]["per_class"])
    cells = Page(html(results)).all("td", class_="change")
    assert [float(attributes["data-value"] or "nan") for attributes, _ in cells] == pytest.approx(sorted(change))
    assert [text.replace("−", "-") for _, text in cells] == [f"{100 * c:+.1f}" for c in sorted(change)]


def test_dots_of_the_reliability_diagram_lie_where_accuracy_and_confidence_are():
    """The plot is 360 by 230 with margins 56, 14, 18 and 38, both axes from 0 to 1."""
    results = classifier()
    bins = results["roles"]["student"]["scaled"]["calibration"]
    figure = next(text for text in html(results).split("<figure>") if text.strip().startswith("<figcaption>Student"))
    dots = re.findall(r'<circle class="dot student" cx="([\d.]+)" cy="([\d.]+)"', figure)
    expected = [
        (56 + sure * (360 - 14 - 56), 230 - 38 - right * (230 - 38 - 18))
        for count, sure, right in zip(bins["count"], bins["confidence"], bins["accuracy"], strict=True)
        if count
    ]
    np.testing.assert_allclose(np.array(dots, dtype=float), expected, atol=0.051)


def test_the_map_of_dark_knowledge_is_the_mean_target_at_the_chosen_temperature():
    results = classifier()
    known = results["dark_knowledge"]
    targets = known["mean_targets"][known["temperatures"].index(4.0)]
    text = html(results)
    assert "Mean target at T = 4" in text
    for i in range(CLASSES):
        for j in range(CLASSES):
            shown = f"class {i} → class {j}: {targets[i][j]:.3g}"
            assert shown in text or f"{targets[i][j]:.2e}".replace("-", "−") in text


def test_more_classes_than_can_be_drawn_are_a_picture_with_alike_ones_together():
    """Two interleaved groups come apart."""
    shares = (np.arange(50)[:, None] % 2 == np.arange(50)[None] % 2).astype(float) + 0.01
    order = _alike(shares) % 2
    assert (np.diff(order) != 0).sum() == 1
    page = Page(html(results_of(50, {"teacher": 3.0, "student": 2.0, "baseline": 1.0})))
    pictures = page.all("img", class_="picture")
    assert len(pictures) == 2
    assert all("alike classes side by side" in (attributes["alt"] or "") for attributes, _ in pictures)


def test_tokens_and_completions_of_a_language_model():
    results = language()
    page = Page(html(results))
    marks = [text for _, text in page.all("mark")]
    assert marks == [token["token"] for token in results["tokens"]]
    likeliest = results["tokens"][0]["expected"]["teacher"][0]
    values = [text.replace("\u00a0", " ") for _, text in page.all("span", class_="value")]
    assert f"{100 * math.exp(likeliest['log_prob']):.1f} %" in values
    written = [text for _, text in page.all("p", class_="written")]
    one = results["completions"][0]
    assert written[:4] == [one[who].strip() or "(nothing)" for who in ("reference", "teacher", "student", "baseline")]
    assert row(page, "perplexity")[2] == f"{results['roles']['student']['perplexity']['mean']:,.2f}"


def test_training_examples_are_shown_with_what_is_learned():
    results = language()
    page = Page(html(results))
    assert [said for _, said in page.all("strong", class_="learned")] == [
        "marked",
        "sat on the mat . <end>",
        "ran . <end>",
    ]
    read = [said for _, said in page.all("p", class_="prompt")]
    assert read[-2:] == ["the cat sat on the mat . <end>", "the dog ran . <end>"]
    teacher = [{"text": "<b>long</b> ", "learned": False}, {"text": "x", "learned": True}]
    results["training_examples"] = [{"row_id": 7, "student": [{"text": "<i>", "learned": False}], "teacher": teacher}]
    page = Page(html(results))
    assert [said for _, said in page.all("p", class_="prompt")][-2:] == ["<i>", "<b>long</b> x"]
    assert [said for _, said in page.all("strong", class_="learned")][1:] == ["x"]
    assert "What it was trained on" not in html(without(language(), ("training_examples",)))


def test_what_data_says_is_text(results):
    spoilt = hostile(results)
    text = html(spoilt)
    page = Page(text)
    assert len(page.all("script")) == (2 if results["task"] == "classification" else 1)
    assert "<script>alert" not in text
    assert "<img src=x" not in text
    assert all(attributes.get("onerror") is None for _, attributes, _ in page.elements)
    assert any(PAYLOAD in said for _, said in page.all("dd")), "settings are shown as they are"
    assert "hf_secret" not in html(spoilt | {"settings": {"hub_token": "hf_secret", "data": "digits"}})
    if results["task"] == "classification":
        (data,) = (said for attributes, said in page.all("script") if attributes.get("type") == "application/json")
        assert json.loads(data)["names"] == spoilt["test"]["label_names"]


def test_the_page_is_whole_in_itself_and_forbids_the_rest(results):
    page = Page(html(results))
    for tag, attributes, _ in page.elements:
        for name in ("src", "href", "action", "data", "srcset"):
            assert (attributes.get(name) or "data:").startswith("data:"), (tag, attributes)
    policy = next(a["content"] for a, _ in page.all("meta") if a.get("http-equiv") == "Content-Security-Policy")
    assert "default-src 'none'" in (policy or "")
    assert "unsafe-inline" not in (policy or "").split("script-src")[1]
    assert "url(" not in (HERE / "page.css").read_text()


def test_headings_descend_one_by_one_and_pictures_have_words(results):
    page = Page(html(results))
    levels = [int(tag[1]) for tag, _, _ in page.elements if re.fullmatch("h[1-6]", tag)]
    assert levels[0] == 1
    assert levels.count(1) == 1
    assert all(after <= before + 1 for before, after in pairwise(levels))
    assert all(attributes.get("aria-label") for attributes, _ in page.all("svg"))
    hidden_until_used = [a for a, _ in page.all("img") if "hidden" in a]
    assert all(a.get("alt") for a, _ in page.all("img") if a not in hidden_until_used)
    ids = [attributes["id"] for _, attributes, _ in page.elements if "id" in attributes]
    assert len(ids) == len(set(ids))
    assert all(a["aria-labelledby"] in ids for _, a, _ in page.elements if "aria-labelledby" in a)


def contrast(one: str, other: str) -> float:
    """WCAG 2: (L1 + 0.05) / (L2 + 0.05) of relative luminances."""

    def luminance(colour: str) -> float:
        parts = [int(colour[i : i + 2], 16) / 255 for i in (1, 3, 5)]
        linear = [p / 12.92 if p <= 0.04045 else ((p + 0.055) / 1.055) ** 2.4 for p in parts]
        return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]

    high, low = sorted((luminance(one), luminance(other)), reverse=True)
    return (high + 0.05) / (low + 0.05)


def test_text_can_be_read_in_light_and_in_dark():
    assert contrast("#ffffff", "#000000") == pytest.approx(21)
    light, dark = re.findall(r":root \{(.*?)\}", (HERE / "page.css").read_text(), re.S)[:2]
    for theme in (light, dark):
        colour = dict(re.findall(r"--([\w-]+): (#\w{6})", theme))
        assert len(colour) == 15
        for words in ("ink", "quiet", "teacher", "student", "baseline", "good", "bad", "open"):
            for paper in ("paper", "card"):
                assert contrast(colour[words], colour[paper]) >= 4.5, (words, paper)


PARTS = [
    *(("roles", "baseline"), ("roles", "teacher"), ("confusion",), ("curves",), ("examples",), ("settings",)),
    *(("dark_knowledge",), ("dark_knowledge", "mean_targets"), ("dark_knowledge", "gradient"), ("test", "per_class")),
    *(("test", "label_names"), ("roles", "student", "scaled"), ("roles", "student", "calibration"), ("test",)),
    *(("verdict", "difference"), ("verdict", "word"), ("roles", "student", "to_teacher"), ("limbeck",), ("tokens",)),
    *(
        ("training_examples",),
        ("draft",),
        ("completions",),
        ("roles", "student", "by_position"),
        ("roles", "student", "by_frequency"),
    ),
    *(("export",), ("export", "onnx"), ("export", "torch", "latency_ms"), ("tuned",), ("tuned", "measure")),
]


def without(results: dict[str, Any], path: tuple[str, ...], value: Any = None) -> dict[str, Any]:
    at = results
    for name in path[:-1]:
        at = at.get(name) or {}
    at[path[-1]] = value
    return results


@pytest.mark.parametrize("path", PARTS, ids=".".join)
def test_what_is_missing_or_nonsense_is_left_out(results, path):
    for value in (None, "nonsense", [], {}, ["nonsense"], 7, math.inf):
        page = Page(html(without(json.loads(json.dumps(results)), path, value)))
        assert page.all("h1")
        assert not page.open
        assert "nan" not in " ".join(text for _, text in page.all("td"))


def test_an_older_file_without_the_new_fields_has_its_other_sections():
    results = classifier()
    del results["dark_knowledge"], results["task"]
    sections = [text for _, text in Page(html(results)).all("h2")]
    assert "Dark knowledge" not in sections
    assert "Where it gained and lost" in sections


def test_a_results_json_a_folder_and_a_dict_are_the_same_page(tmp_path):
    results = classifier()
    limbeck.write_results(results, tmp_path / "run" / "results.json")
    for given, name in ((results, "a"), (tmp_path / "run", "b"), (str(tmp_path / "run" / "results.json"), "c")):
        write_report(given, tmp_path / "pages" / name)
    assert len({(tmp_path / "pages" / name).read_bytes() for name in "abc"}) == 1
    assert sorted(p.name for p in (tmp_path / "pages").iterdir()) == ["a", "b", "c"]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("{", "is not a JSON file"),
        ("[1]", "but has None"),
        ('{"schema": "other"}', "\"limbeck.tune\", but has 'other'"),
        ('{"schema": "limbeck.tune", "version": 1}', "the candidates of a search"),
        ('{"schema": "limbeck.paper", "version": 1, "rows": []}', "the rows of an experiment"),
        ('{"schema": "limbeck.results", "version": 2}', "reads version 1; update Limbeck"),
        ('{"schema": "limbeck.results", "version": "1"}', "reads version 1"),
        ('{"schema": "limbeck.results", "version": 1}', "the roles and the verdict"),
    ],
)
def test_what_are_no_results_is_refused(tmp_path, text, message):
    (tmp_path / "results.json").write_text(text)
    with pytest.raises(DataError, match=message):
        write_report(tmp_path, tmp_path / "report.html")
    assert [p.name for p in tmp_path.iterdir()] == ["results.json"]


def test_a_search_is_explained_on_its_own_page_and_on_that_of_the_run_that_used_it():
    found = search()
    best, tried = found["best"], found["candidates"]
    alone, run = Page(html(found)), Page(html(classifier()))
    name = f"T = {best['temperature']:g}, hard_weight {best['hard_weight']:g}"
    assert alone.all("h1")[0][1] == name
    assert f"Why {name}" in [text for _, text in run.all("h2")]
    for page in (alone, run):
        said = " ".join(text for _, text in page.all("p"))
        assert found["sentence"] in said
        assert "Tried: T = 1, 4 and 20, each with hard_weight 0 and 0.5." in said
        assert "the best 50\u00a0% of them again with each further seed, up to 3" in said
        assert "at T = 1 of 180 examples held out of training; no test was read" in said
        shown = {tuple(cells[:2]): cells for cells in page.rows() if len(cells) == 7}
        for one in tried:
            cells = shown[f"{one['temperature']:g}", f"{one['hard_weight']:g}"]
            assert cells[2] == str(one["seeds"])
            assert float(cells[3]) == pytest.approx(one["nll"]["mean"], rel=6e-3)
            assert cells[4] == f"{100 * one['accuracy']['mean']:.1f} %"
        assert next(iter(shown.values()))[:2] == ["T", "hard_\u200bweight"]
        assert list(shown.values())[1][6] == "the best"
    assert "This run was trained with T = 4, hard_weight 0.1 instead." in [text for _, text in run.all("p")]
    spans = re.findall(r'class="span \w+" d="M([\d.]+) ([\d.]+)L([\d.]+) ([\d.]+)"', html(found))
    assert len(spans) == 3 * sum(one["seeds"] == 3 for one in tried), "a bar per measure where there are three seeds"
    assert all(x == other and float(low) > float(high) for x, low, other, high in spans)


def test_a_search_that_was_cut_off_or_is_nonsense_is_drawn():
    found = search()
    page = Page(html(found | {"finished": False, "best": None, "sentence": None}))
    assert page.all("h1")[0][1] == "Not chosen yet"
    assert "The search has not finished" in " ".join(text for _, text in page.all("h3"))
    for name in ("settings", "asked", "measure", "best", "sentence", "trials", "candidates"):
        for value in ("nonsense", {"a": 1}, ["nonsense"], 7, math.inf):
            page = Page(html(found | {name: value}))
            assert page.all("h1")
            assert not page.open


def test_an_export_is_shown_with_the_student_that_it_is_of(tmp_path):
    """Beside its results, and not beside those of another student."""
    results = classifier()
    del results["export"]
    limbeck.write_results(results, tmp_path / "results.json")
    limbeck.write_results(exported(), tmp_path / "export.json")
    write_report(tmp_path, tmp_path / "other.html")
    assert "As a file" not in (tmp_path / "other.html").read_text()
    ours = results["roles"]["student"]["fingerprints"][1]
    limbeck.write_results(exported() | {"student": ours}, tmp_path / "export.json")
    write_report(tmp_path, tmp_path / "report.html")
    page = Page((tmp_path / "report.html").read_text())
    assert row(page, "predicts as torch does")[1:] == ["100.00 %", "100.00 %", "99.50 %"]
    assert row(page, "ms per example, batches of 32")[1:] == ["0.195"] * 3
    sizes = [cells[1:] for cells in page.rows() if cells[0] == "size"]
    assert sizes[1] == ["9.64 kB", "12.4 kB", "5.22 kB"], "the first is that of the roles"
    said = " ".join(text for _, text in page.all("p"))
    assert "student.onnx, student.int8.onnx. Measured on 120 examples of the test, on the CPU" in said
    for strange in ("{", '{"mine": 1}', json.dumps(exported() | {"student": ours, "version": 2})):
        (tmp_path / "export.json").write_text(strange)
        write_report(tmp_path, tmp_path / "report.html")
        assert "As a file" not in (tmp_path / "report.html").read_text()


def test_an_experiment_of_the_paper_stands_beside_what_the_paper_found():
    page = Page(html(experiment()))
    assert page.all("h1")[0][1] == "Classes that the student never sees"
    assert "a student that never saw a 3 made 206 errors" in page.all("p", class_="sentence")[0][1]
    shown = [[cell.replace("\u00a0", " ") for cell in cells] for cells in page.rows()]
    assert shown[0][1:] == ["errors", "95 % interval", "threes right", "the paper"]
    assert shown[1] == ["no 3s: as trained", "42.544, 41", "20 to 65", "62.5 %", "206"]
    assert shown[2] == ["soft targets", "17", "20 to 65", "", ""]
    assert shown[3][-1] == "25.0 % right"
    listed = [text for _, text in page.all("dd")]
    assert listed[:3] == ["0.86", "0, 1; 2, 3", "−0.98"]
    drawn = [attributes["aria-label"] or "" for attributes, _ in page.all("svg")]
    assert [label.rpartition("over temperature. ")[2] for label in drawn] == [
        "8 units: 42.5 to 7",
        "Eq. 4 for Eq. 2: 1 to 0.01",
    ]


def test_an_experiment_with_nonsense_is_drawn_and_its_texts_are_text():
    spoilt = hostile(experiment()) | {PAYLOAD: {PAYLOAD: PAYLOAD}}
    text = html(spoilt)
    assert "<script>alert" not in text
    assert "<img src=x" not in text
    assert not Page(text).open
    for name in ("rows", "settings", "verdict", "curve", "test_examples", "experiment", "slope", "clusters"):
        for value in (None, "nonsense", [], {}, ["nonsense"], 7, math.inf):
            page = Page(html(experiment() | {name: value}))
            assert page.all("h1")
            assert not page.open


def test_a_search_is_drawn_by_the_measures_it_has():
    from limbeck import tuning
    from limbeck.report import tuning as drawn

    assert {name: sense for name, (_, _, _, sense) in drawn.MEASURES.items()} == tuning.MEASURES


def test_the_command_writes_beside_the_results_and_imports_no_torch(tmp_path, capsys):
    limbeck.write_results(classifier(), tmp_path / "results.json")
    limbeck.write_results(classifier(), tmp_path / "results_every_label.json")
    code = (
        "import sys; from limbeck.cli import main\n"
        f"assert main(['report', {str(tmp_path)!r}]) == 0\n"
        "print(sorted({'torch', 'transformers', 'datasets', 'matplotlib'} & set(sys.modules)))"
    )
    said = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60, check=True).stdout
    assert said.split("\n")[:2] == [str(tmp_path / "report.html"), "[]"]
    assert main(["report", str(tmp_path / "results_every_label.json")]) == 0
    assert capsys.readouterr().out.strip() == str(tmp_path / "report_every_label.html")
    assert main(["report", str(tmp_path / "nowhere")]) == 1
    assert "There is no" in capsys.readouterr().err


def test_a_thousand_classes_and_a_large_vocabulary_stay_small():
    """Under 5 MB, with sixteen pictures that no compression makes smaller."""
    import base64
    import io

    from PIL import Image

    many = results_of(1000, {"teacher": 9.0, "student": 8.0, "baseline": 7.0}, examples=240)
    rng = np.random.default_rng(0)
    for example in many["examples"]:
        file = io.BytesIO()
        Image.fromarray(rng.integers(0, 256, (512, 512, 3), dtype=np.uint8)).save(file, "PNG")
        example["image"] = base64.b64encode(file.getvalue()).decode()
    wide = language(100_000)
    assert wide["test"]["classes"] == 100_000
    labels = classifier()
    labels["test"] |= {"classes": 100_000, "label_names": [f"class {c}" for c in range(100_000)]}
    for results in (many, wide, labels):
        assert len(html(results).encode()) < 5e6


def test_what_is_no_png_is_not_shown():
    results = classifier()
    for example, image in zip(results["examples"], ("aGVsbG8=", "javascript:alert(1)", 7, "<svg>"), strict=False):
        example["image"] = image
    pictures = [a for a, _ in Page(html(results)).all("img") if str(a.get("alt")).startswith("example")]
    assert len(pictures) == len(results["examples"]) - 4


def test_everything_that_the_page_is_made_of_is_in_the_package():
    globs = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["setuptools"]["package-data"]["limbeck.report"]
    files = [p.name for p in HERE.iterdir() if p.is_file() and p.suffix != ".py"]
    assert len(files) >= 4
    assert [name for name in files if not any(fnmatch(name, glob) for glob in globs)] == []
