"""Section 3: the best temperature depends on the width of the student; one pass of the teacher serves all."""

from functools import partial

import limbeck
from limbeck.paper.lab import Lab, row
from limbeck.paper.plots import plot_errors
from limbeck.results import Json

TEMPERATURES = (1.0, 2.0, 2.5, 4.0, 8.0, 20.0, 50.0)
WIDTHS = {"quick": (30, 300), "full": (30, 100, 300, 800)}
IN_PAPER = {30: "2.5 to 4 clearly better", 300: "above 8 all alike", 800: "above 8 all alike"}


def run(lab: Lab) -> Json:
    """Errors by width and temperature, hard labels and soft targets; results.json and temperature.png."""
    widths = (8, 30) if lab.small_data else WIDTHS[lab.budget_name]
    recorded = limbeck.record(lab.teacher(), lab.train)
    rows = []
    for width in widths:
        for temperature in TEMPERATURES:
            objective = limbeck.Objective(temperature=temperature, hard_weight=0.1)
            make = partial(lab.net, width, width)
            nets = [
                lab.fit(f"{width}-T{temperature:g}-{s}", make, objective, teacher=recorded, seed=s)
                for s in range(lab.seeds)
            ]
            name = f"{width} units, T = {temperature:g}"
            rows.append(row(name, [lab.right(net) for net in nets], width=width, temperature=temperature))
    plot_errors(lab.results_of("temperature") / "temperature.png", rows)
    best = {}
    for width in widths:
        fewest = min((r for r in rows if r["width"] == width), key=lambda r: r["errors"]["mean"])
        best[str(width)] = fewest["temperature"]
    return lab.write(
        "temperature", rows, best_temperature=best, paper={str(w): IN_PAPER[w] for w in widths if w in IN_PAPER}
    )
