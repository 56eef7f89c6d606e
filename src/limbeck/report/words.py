"""Numbers as people read them.

What this file does not know: which numbers there are.
"""

import re
from collections.abc import Sequence

SPACE = "\u00a0"

LONGEST_WORD = 14
"""A word of more characters may be broken: "Neuroendocrine" fits into a column of a telephone's screen."""


def percent(share: float, decimals: int = 1) -> str:
    """0.954 is 95.4 %."""
    return f"{100 * share:.{decimals}f}{SPACE}%"


def points(difference: float, decimals: int = 1) -> str:
    """0.054 is +5.4."""
    return f"{100 * difference:+.{decimals}f}".replace("-", "\u2212")


def plain(value: float) -> str:
    """Three significant digits, thousands apart."""
    if value == 0:
        return "0"
    if abs(value) >= 1000:
        return f"{value:,.0f}"
    text = f"{value:.3g}"
    return (text if "e" not in text else f"{value:.2e}").replace("-", "\u2212")


def digits(value: float) -> str:
    """Three significant digits, zeros among them: 0.310."""
    return plain(value) if value == 0 or not 1e-4 <= abs(value) < 1000 else f"{value:#.3g}".rstrip(".")


def whole(value: float) -> str:
    """2,410, or 25.4 where it is the mean of several."""
    return f"{value:,.0f}" if value == int(value) or value >= 10_000 else f"{value:,.1f}"


def size(value: float) -> str:
    """Bytes."""
    for unit in ("B", "kB", "MB", "GB"):
        if value < 1000:
            return f"{value:.3g}{SPACE}{unit}"
        value /= 1000
    return f"{value:,.3g}{SPACE}TB"


def times(ratio: float) -> str:
    """34.2 is 34×."""
    return f"{ratio:,.0f}×" if ratio >= 9.95 else f"{ratio:.1f}×" if ratio >= 0.95 else f"{ratio:.2f}×"


def short(text: str, most: int) -> str:
    """A text of at most so many characters."""
    return text if len(text) <= most else text[: most - 1] + "…"


def pieces(text: str) -> list[str]:
    """The text in pieces between which a line may break, although there is no space: only in words that are too long.

    They break after signs (sci.space, B_PER), before capitals (NeuroTumour), and where that leaves too long a piece
    anywhere.
    """
    found = [""]
    for word in re.findall(r"\s*\S+\s*", text) or [text]:
        parts = [word]
        if len(word.strip()) > LONGEST_WORD:
            parts = re.split(r"(?<=[._/:-])(?=\w)|(?<=[a-z])(?=[A-Z])", word)
            parts = [piece for part in parts for piece in re.findall(rf"\s*\S{{1,{LONGEST_WORD}}}\s*", part)]
        found[-1] += parts[0]
        found += parts[1:]
    return found


def lines_of(name: str, most: int, lines: int) -> list[str]:
    """A name in up to so many lines of up to `most` characters, broken between words; what is left over is cut off."""
    found: list[str] = []
    words = name.split() or [name]
    while words and len(found) < lines:
        line = words.pop(0)
        while words and len(line) + 1 + len(words[0]) <= most:
            line += f" {words.pop(0)}"
        found.append(short(line, most))
    if words and not found[-1].endswith("…"):
        last = found[-1]
        if len(last) == most:  # no room for the sign that something is missing
            last = last.rpartition(" ")[0] or last[:-1]
        found[-1] = f"{last}…"
    return found


def listed(names: Sequence[str]) -> str:
    """1, 2 and 4."""
    return " and ".join([", ".join(names[:-1]), names[-1]] if len(names) > 1 else names)
