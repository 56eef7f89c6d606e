"""The verdict as the first words of a page: a title, the colour that it deserves, and the sentence.

What this file does not know: how the verdict came about, what else is on the page.
"""

from limbeck.report.gain import negligible
from limbeck.report.reading import at
from limbeck.report.shared import was_distilled
from limbeck.results import Json, JsonView

KINDS = {
    "language": "language model",
    "multi_label": "classifier of several labels",
    "segmentation": "network for segmentation",
    "regression": "network for regression",
}
"""task -> what its models are, where they are not classifiers of one class."""

TITLES = {
    "better": ("Better than its baseline", "good"),
    "worse": ("Worse than its baseline", "bad"),
    "no difference shown": ("No gain over its baseline is shown", "open"),
}
"""word of the verdict -> its title and tone."""


def headline(results: JsonView) -> Json:
    """`title`, `tone` ("good", "bad", or "open" for neither), `hardly` (whether a gain is too small to matter),
    `sentence`, and `kind`, of what the results are.
    """
    word, distilled = at(results, "verdict", "word"), was_distilled(results)
    kind = KINDS.get(str(at(results, "task")), "classifier")
    title, tone = TITLES.get(str(word), ("Measured, with no baseline to compare with", "open"))
    gain = negligible(results) if distilled else None
    if not distilled:
        title = "Measured, with nothing to compare with"
    elif gain is not None:
        title, tone = f"Better, but hardly: {gain}", "open"
    return {
        "title": title,
        "tone": tone,
        "hardly": gain is not None,
        "sentence": str(at(results, "verdict", "sentence") or ""),
        "kind": f"A distilled {kind}" if distilled else f"A {kind} that had no teacher",
    }
