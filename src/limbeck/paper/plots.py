"""The plots of the experiments, as PNG files."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from matplotlib.figure import Figure

from limbeck.results import Json


def plot_errors(path: Path, rows: Sequence[Json]) -> None:
    """Test errors over temperature, a line per width, with the intervals of the means."""
    figure = Figure(figsize=(7, 4.2), layout="constrained")
    axes = figure.subplots()
    for width in dict.fromkeys(row["width"] for row in rows):
        points = [row for row in rows if row["width"] == width]
        temperatures = [row["temperature"] for row in points]
        errors = np.array([[row["errors"][k] for k in ("mean", "low", "high")] for row in points])
        spread = np.stack([errors[:, 0] - errors[:, 1], errors[:, 2] - errors[:, 0]])
        axes.errorbar(temperatures, errors[:, 0], yerr=spread, marker="o", capsize=3, label=f"{width} units per layer")
    axes.set_xscale("log")
    axes.set_xticks(temperatures, [f"{t:g}" for t in temperatures])
    axes.minorticks_off()
    axes.set_xlabel("temperature of the soft targets")
    axes.set_ylabel("test errors")
    axes.set_ylim(bottom=0)
    axes.legend(frameon=False)
    axes.spines[["top", "right"]].set_visible(False)
    figure.savefig(path, dpi=150)


def plot_limit(path: Path, temperatures: np.ndarray, errors: Sequence[float], slope: float) -> None:
    """The relative error of Eq. 4 over temperature, both on logarithmic scales."""
    figure = Figure(figsize=(7, 4.2), layout="constrained")
    axes = figure.subplots()
    axes.loglog(temperatures, errors, marker=".", label="|Eq. 2 - Eq. 4| / |Eq. 2|")
    last = temperatures >= 30
    guide = errors[-1] * (temperatures[last] / temperatures[-1]) ** -1.0
    axes.loglog(temperatures[last], 1.3 * guide, linestyle="--", color="0.5", label=f"1/T (fitted slope {slope:.2f})")
    axes.set_xlabel("temperature")
    axes.set_ylabel("relative error of the gradient")
    axes.legend(frameon=False)
    axes.spines[["top", "right"]].set_visible(False)
    figure.savefig(path, dpi=150)
