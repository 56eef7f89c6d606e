"""Numbers as people read them.

What this file does not know: which numbers there are.
"""

from collections.abc import Sequence

SPACE = "\u00a0"


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


def listed(names: Sequence[str]) -> str:
    """1, 2 and 4."""
    return " and ".join([", ".join(names[:-1]), names[-1]] if len(names) > 1 else names)
