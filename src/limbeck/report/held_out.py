"""Whether the held-out examples were part of the teacher's training data, from what they make of its calibration.

What this file does not know: how a calibration temperature is fitted, what a page looks like.
"""

from limbeck.report.reading import at, number
from limbeck.report.words import percent, plain, whole
from limbeck.results import JsonView

WORSE, CLEARLY = 1.5, 0.02
"""Temperature scaling made calibration on the test worse where the ECE grew by this factor and by this much, and so did
the NLL, which has no bins: fitted on examples like the test it lowers both, but for noise. (An ECE of 0.044 became
0.158 with a random forest that had seen the held-out rows.)"""

LOWEST = 0.051
"""A fitted temperature up to this is at the lower end of the interval that is searched, 0.05: every label was right."""

BY_CHANCE = 0.01
"""A teacher with its accuracy on the test has all held-out labels right by chance with less than this probability."""


def seen(results: JsonView) -> str | None:
    """A sentence with the sign that the teacher was trained on the held-out examples; None where there is no sign."""
    teacher = at(results, "roles", "teacher")
    right, temperature = number(teacher, "accuracy"), number(teacher, "scaled", "temperature")
    if at(results, "task") == "language" or right is None or temperature is None:
        return None
    examples = number(results, "held_out", "examples")
    if temperature <= LOWEST and examples and 0 <= right < 1 and right**examples < BY_CHANCE:
        return (
            f"The teacher is right on all of the {whole(examples)} held-out examples, but on {percent(right)} of the "
            "test: they were probably part of its training data."
        )
    before, after = number(teacher, "ece"), number(teacher, "scaled", "ece")
    if before is None or after is None or temperature >= 1:  # it would be surer of what it has seen
        return None
    nll, scaled_nll = number(teacher, "nll"), number(teacher, "scaled", "nll")
    lowered = nll is not None and scaled_nll is not None and scaled_nll <= nll
    if lowered or after <= WORSE * before or after - before <= CLEARLY:
        return None
    return (
        f"The temperature that suits the teacher on the held-out examples (T = {plain(temperature)}) harms it on the "
        f"test: its calibration error grows from {plain(before)} to {plain(after)}. They were probably part of its "
        "training data."
    )
