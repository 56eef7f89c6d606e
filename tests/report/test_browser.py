"""The page in a browser: headless Chromium, driven by selenium; skipped where there is none.

What the script computes is held against NumPy and SciPy on the same log-probabilities.
"""

import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from scipy.special import softmax

from limbeck.report import write_report

from .samples import UNBROKEN, classifier, experiment, hostile, language, results_of, scored, search

WIDTHS = (320, 360, 390, 1440)
SCORED = ["multi_label", "segmentation", "regression"]
DRAWN = ["classifier", "language", "experiment", "search", *SCORED]
NAMES = [
    *DRAWN,
    *(f"{how} {name}" for how in ("hostile", "unbroken") for name in DRAWN),
    "many",
    "thousand",
    "wide",
    "long names",
    "named",
]

CLASS_NAMES = [
    "Neuroendocrine carcinoma",
    "Credit card or prepaid card",
    "Checking or savings account",
    "sci.space.discussion",
    "Donaudampfschifffahrtsgesellschaft",
    "LABEL_0",
]


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    webdriver = pytest.importorskip("selenium.webdriver", reason="selenium, which drives the browser, is not installed")
    program, driver = shutil.which("chromium"), shutil.which("chromedriver")
    if program is None or driver is None:
        pytest.skip("chromium and chromedriver are not installed (Debian: apt-get install chromium chromium-driver)")
    options = webdriver.ChromeOptions()
    options.binary_location = program
    for flag in ("--headless", "--no-sandbox", "--disable-gpu", "--disable-background-networking"):
        options.add_argument(flag)
    options.add_argument("--disable-dev-shm-usage")
    options.set_capability("goog:loggingPrefs", {"browser": "ALL", "performance": "ALL"})
    opened = webdriver.Chrome(options=options, service=webdriver.ChromeService(driver))
    yield opened
    opened.quit()


@pytest.fixture(scope="module")
def pages(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    folder = tmp_path_factory.mktemp("pages")
    made = {"classifier": classifier(), "language": language(), "experiment": experiment(), "search": search()}
    made |= {kind: scored(kind) for kind in SCORED}
    plain = dict(made)
    made |= {f"hostile {name}": hostile(results) for name, results in plain.items()}
    made |= {f"unbroken {name}": hostile(results, UNBROKEN) for name, results in plain.items()}
    made["thousand"] = results_of(1000, {"teacher": 9.0, "student": 8.0, "baseline": 7.0})
    made["wide"] = language(100_000)
    made["long names"] = classifier()
    made["long names"]["test"]["label_names"] = [f"{c}" * 300 for c in "abcdef"]
    made["named"] = classifier()
    made["named"]["test"]["label_names"] = CLASS_NAMES
    made["many"] = results_of(50, {"teacher": 4.0, "student": 3.0, "baseline": 2.0})
    for name, results in made.items():
        write_report(results, folder / f"{name}.html")
    return {name: folder / f"{name}.html" for name in made}


def opened(browser: Any, page: Path, width: int = 1440) -> None:
    size = {"width": width, "height": 900, "deviceScaleFactor": 1, "mobile": False}
    browser.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", size)
    browser.get_log("browser"), browser.get_log("performance")
    browser.get(page.as_uri())


def js(browser: Any, script: str, *given: Any) -> Any:
    return browser.execute_script(script, *given)


@pytest.mark.parametrize("name", NAMES)
def test_it_opens_without_a_word_and_asks_nothing_of_the_network(browser, pages, name):
    import json

    opened(browser, pages[name])
    assert browser.get_log("browser") == []
    sent = [json.loads(line["message"])["message"] for line in browser.get_log("performance")]
    asked = [m["params"]["request"]["url"] for m in sent if m["method"] == "Network.requestWillBeSent"]
    assert [url for url in asked if not url.startswith("data:")] == [pages[name].as_uri()]
    assert browser.title.startswith(js(browser, "return document.querySelector('h1').textContent"))


@pytest.mark.parametrize("width", WIDTHS)
@pytest.mark.parametrize("name", NAMES)
def test_it_fits(browser, pages, name, width):
    """Nothing scrolls sideways but what is made to; the text of the plots is no smaller than 8 px."""
    opened(browser, pages[name], width)
    assert js(browser, "return document.documentElement.scrollWidth") <= width
    tables = "[...document.querySelectorAll('.measures, .candidates')]"
    assert js(browser, f"return {tables}.filter(t => t.offsetWidth > t.parentNode.clientWidth).length") == 0
    smallest = js(
        browser,
        "return Math.min(...[...document.querySelectorAll('svg text')].map("
        "t => parseFloat(getComputedStyle(t).fontSize) * t.ownerSVGElement.getScreenCTM().a))",
    )
    assert smallest >= 8


@pytest.mark.parametrize("width", [390, 1200])
def test_names_of_classes_are_broken_between_words(browser, pages, width):
    """On which lines each word lies, as the browser laid them out: on one, unless it has more than 14 characters."""
    opened(browser, pages["named"], width)
    words = js(
        browser,
        "const found = [];"
        "for (const cell of document.querySelectorAll('.sortable tbody th, td.text, .bars.long .what')) {"
        "  const nodes = document.createTreeWalker(cell, NodeFilter.SHOW_TEXT), places = [];"
        "  for (let node = nodes.nextNode(); node; node = nodes.nextNode())"
        "    for (let i = 0; i < node.length; i++) {"
        "      const range = document.createRange(); range.setStart(node, i); range.setEnd(node, i + 1);"
        "      places.push([node.data[i], Math.round(range.getBoundingClientRect().top)]);"
        "    }"
        "  let word = '', tops = new Set();"
        "  for (const [letter, top] of [...places, [' ', 0]])"
        "    if (letter === ' ') { found.push([word, tops.size]); word = ''; tops = new Set(); }"
        "    else { word += letter; tops.add(top); }"
        "}"
        "return found;",
    )
    assert {word for word, _ in words} == {word for name in CLASS_NAMES for word in name.split()}
    assert {word: lines for word, lines in words if len(word) <= 14 and lines > 1} == {}


def explored(browser: Any) -> tuple[float, np.ndarray, np.ndarray, float]:
    """What the explorer shows: T, the values `[C, 4]`, the widths of the bars `[C, 4]` in percent, and the distance."""
    values, widths, temperature, apart = js(
        browser,
        "const cells = [...document.querySelectorAll('#explorer tbody tr')].map(r => [...r.querySelectorAll('td')]);"
        "return [cells.map(r => r.map(c => Number(c.dataset.value))),"
        " cells.map(r => r.map(c => parseFloat(c.querySelector('.fill').style.width))),"
        " document.querySelector('#explorer output').textContent,"
        " Number(document.querySelector('#apart').dataset.value)]",
    )
    return float(temperature.removeprefix("T = ")), np.array(values), np.array(widths), apart


def expected(example: dict[str, Any], temperature: float) -> tuple[np.ndarray, float]:
    """p, q, Eq. 2 and Eq. 4 (arXiv 1503.02531), `[C, 4]`, and how far the last two are apart, in norm."""
    v, z = (np.array(example["log_probs"][role]) for role in ("teacher", "student"))
    p, q = softmax(v / temperature), softmax(z / temperature)
    eq2 = (q - p) / temperature
    eq4 = ((z - z.mean()) - (v - v.mean())) / (len(v) * temperature**2)
    return np.stack([p, q, eq2, eq4], 1), float(np.linalg.norm(eq4 - eq2) / np.linalg.norm(eq2))


def move(browser: Any, place: int, example: int = 0) -> None:
    js(
        browser,
        "const [s, r] = ['select', 'input'].map(n => document.querySelector(`#explorer ${n}`));"
        "s.value = arguments[0]; r.value = arguments[1];"
        "s.dispatchEvent(new Event('change')); r.dispatchEvent(new Event('input'));",
        example,
        place,
    )


def test_the_slider_moves_the_bars_to_what_python_computes(browser, pages):
    results = classifier()
    opened(browser, pages["classifier"])
    temperature, *_ = explored(browser)
    assert temperature == results["settings"]["temperature"], "it starts at the run's temperature"
    seen = []
    for place, example in ((0, 0), (200, 3), (700, 3), (1000, 1)):
        move(browser, place, example)
        temperature, values, widths, apart = explored(browser)
        assert temperature == pytest.approx(50 ** (place / 1000), abs=0.051)
        oracle, distance = expected(results["examples"][example], temperature)
        np.testing.assert_allclose(values, oracle, rtol=1e-6, atol=1e-12)
        np.testing.assert_allclose(widths[:, :2], 100 * oracle[:, :2], atol=1e-3)
        np.testing.assert_allclose(widths[:, 2:], 50 * np.abs(oracle[:, 2:]) / np.abs(oracle[:, 2:]).max(), atol=1e-3)
        assert apart == pytest.approx(distance, rel=1e-6)
        seen.append(apart)
    assert seen[3] < 0.1 < seen[0], "Eq. 4 is the limit of Eq. 2"


@pytest.mark.parametrize(("temperature", "at_the_left"), [(100.0, 1.0), (0.5, 0.5), (4.03, 1.0)])
def test_the_slider_begins_at_the_runs_temperature_whatever_it_is(browser, tmp_path, temperature, at_the_left):
    results = classifier()
    results["settings"]["temperature"] = temperature
    write_report(results, tmp_path / "page.html")
    opened(browser, tmp_path / "page.html")
    _, values, _, _ = explored(browser)
    np.testing.assert_allclose(values, expected(results["examples"][0], temperature)[0], rtol=1e-6, atol=1e-12)
    for place, there in ((0, at_the_left), (1000, max(50.0, temperature))):
        move(browser, place)
        assert explored(browser)[0] == pytest.approx(there)


def test_a_student_that_says_what_the_teacher_says(browser, tmp_path):
    results = classifier()
    results["examples"][0]["log_probs"]["student"] = results["examples"][0]["log_probs"]["teacher"]
    write_report(results, tmp_path / "page.html")
    opened(browser, tmp_path / "page.html")
    assert "no gradient is left" in js(browser, "return document.querySelector('#apart').textContent")


def test_paper_has_what_is_folded_away_and_says_what_it_leaves_out(browser, pages):
    opened(browser, pages["many"])
    note = "return getComputedStyle(document.querySelector('.on-paper')).display"
    assert js(browser, note) == "none"
    browser.execute_cdp_cmd("Emulation.setEmulatedMedia", {"media": "print"})
    assert js(browser, note) == "block"
    assert "first 40 of " in js(browser, "return document.querySelector('.on-paper').textContent")
    rows = "return [...document.querySelector('.tall tbody').rows].filter(r => getComputedStyle(r).display != 'none')"
    assert len(js(browser, rows)) == 40
    browser.execute_cdp_cmd("Emulation.setEmulatedMedia", {"media": ""})
    folded = "return document.querySelectorAll('details:not([open])').length"
    assert js(browser, folded) > 0
    browser.execute_cdp_cmd("Page.printToPDF", {})
    assert js(browser, folded) == 0


def test_candidates_sort_by_how_far_they_are_from_the_best(browser, pages):
    opened(browser, pages["search"])
    known = [value for value in column(browser, 0, 6) if value]
    js(browser, "document.querySelector('table.sortable').tHead.rows[0].cells[6].querySelector('button').click()")
    assert [value for value in column(browser, 0, 6) if value] == sorted(known, key=float, reverse=True)
    assert known[0] == "0.0"


def test_a_class_that_the_teacher_rules_out_has_no_gradient_of_logits(browser, tmp_path):
    results = classifier()
    results["examples"][0]["log_probs"]["teacher"] = [None, 0.0, None, None, None, None]
    write_report(results, tmp_path / "page.html")
    opened(browser, tmp_path / "page.html")
    assert browser.get_log("browser") == []
    _, values, _, _ = explored(browser)
    assert values[:, 0].tolist() == [0, 1, 0, 0, 0, 0]
    assert "no value" in js(browser, "return document.querySelector('#apart').textContent")


def test_of_many_classes_the_likeliest_are_shown(browser, pages):
    results = results_of(50, {"teacher": 4.0, "student": 3.0, "baseline": 2.0})
    opened(browser, pages["many"])
    _, values, _, apart = explored(browser)
    oracle, distance = expected(results["examples"][0], 1.0)  # the run does not say its temperature
    shown = np.sort(np.argsort(-oracle[:, :2].max(1))[:20])
    np.testing.assert_allclose(values, oracle[shown], rtol=1e-6, atol=1e-12)
    assert apart == pytest.approx(distance, rel=1e-6)


def column(browser: Any, table: int, place: int) -> list[str]:
    found: list[str] = js(
        browser,
        "return [...document.querySelectorAll('table.sortable')[arguments[0]].tBodies[0].rows].map("
        "r => r.cells[arguments[1]].dataset.value ?? r.cells[arguments[1]].textContent.trim())",
        table,
        place,
    )
    return found


def test_tables_sort_by_their_headings(browser, pages):
    opened(browser, pages["many"], 1440)
    heading = "document.querySelector('table.sortable').tHead.rows[0].cells[arguments[0]]"
    click, state = f"{heading}.querySelector('button').click()", f"return {heading}.getAttribute('aria-sort')"
    assert (js(browser, state, 1), js(browser, state, 0)) == ("ascending", None)
    before = [float(value) for value in column(browser, 0, 1)]
    assert before == sorted(before)
    js(browser, click, 1)
    assert [float(value) for value in column(browser, 0, 1)] == sorted(before, reverse=True)
    js(browser, click, 0)
    names = column(browser, 0, 0)
    assert names == sorted(names)
    assert js(browser, state, 0) == "ascending"
    assert js(browser, state, 1) is None
    js(browser, click, 3)  # the student's share, where numbers sort as numbers: 100 before 50
    shares = [float(value.rstrip("%").replace("\u00a0", "")) for value in column(browser, 0, 3)]
    assert shares == sorted(shares, reverse=True)
    assert len(set(shares)) > 3


def test_dark_and_light_have_other_colours_and_a_print_has_all_of_the_table(browser, pages):
    colours = {}
    for scheme in ("light", "dark"):
        features = [{"name": "prefers-color-scheme", "value": scheme}]
        browser.execute_cdp_cmd("Emulation.setEmulatedMedia", {"features": features})
        opened(browser, pages["classifier"])
        colours[scheme] = js(browser, "return getComputedStyle(document.body).backgroundColor")
    browser.execute_cdp_cmd("Emulation.setEmulatedMedia", {"media": "print"})
    assert js(browser, "return getComputedStyle(document.body).backgroundColor") == "rgb(255, 255, 255)"
    assert js(browser, "const s = document.querySelector('.tall'); return s.scrollHeight - s.clientHeight") <= 1
    browser.execute_cdp_cmd("Emulation.setEmulatedMedia", {"media": "", "features": []})
    assert colours == {"light": "rgb(253, 252, 250)", "dark": "rgb(20, 22, 26)"}
