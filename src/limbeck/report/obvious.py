"""Advice on the obvious, before temperature, priors and size: inputs, teacher, training, baseline, in this order.

What this file does not know: the layout of the page.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from limbeck.report.reading import at, items, number
from limbeck.report.shared import judged_score, score_of, was_distilled
from limbeck.report.words import listed, percent, plain, short, whole
from limbeck.results import JsonView

APART = 100
"""The ratio of the ranges of two columns from which a network that starts to learn hardly sees the narrower one."""

UNITS = 10
"""Columns of arrays with ranges up to this are taken for fractions or pixels, where a narrow column is a rare one."""

IMPROVING, OF_THE_FALL = 0.8, 0.1
"""Still improving: the last fifth of the steps has less than the first of these times the loss of the fifth before it,
or the fall between them is at least the second of these of the whole fall. The first is for losses that tend to 0 (KL),
the second for those that do not (cross-entropy)."""

FEWEST_LOGS = 10
"""Fewer logged steps are no curve."""

FALLEN, NO_BETTER = 0.98, 0.95
"""Nothing was learned where the training loss ended above the first of these times its start, and above the second of
these times the NLL of guessing: a loss far below that was learned before."""

BY_CHANCE = ("accuracy", "balanced_accuracy", "roc_auc")
"""Scores that a model which guesses at random has no more of than the best constant answer, unlike F1."""


@dataclass(frozen=True)
class Advice:
    """kind: "bad" (do not ship), "warning" (look at this first) or "good"."""

    kind: str
    title: str
    text: str


def obvious(results: JsonView) -> list[Advice]:
    """Advice on what explains most disappointing runs, in the order in which to look at it."""
    return [
        *_about_the_inputs(results),
        *_about_a_teacher_that_guesses(results),
        *_about_unfinished_training(results),
        *_about_what_has_not_learned(results),
    ]


def values_of(history: Sequence[Any], name: str) -> list[float]:
    """The values that were logged under this name, in order."""
    return [value for line in history if (value := number(line, name)) is not None]


def _about_the_inputs(results: JsonView) -> list[Advice]:
    inputs = at(results, "inputs")
    columns, constant = number(inputs, "columns"), number(inputs, "constant")
    if not columns or constant is None:
        return []
    table = at(inputs, "kind") == "table"
    see = "limbeck inspect shows what was read; choose others with --feature_columns." if table else "Check the data."
    if constant >= columns:
        text = f"All examples that were looked at have the same values in all {whole(columns)} columns. {see}"
        return [Advice("bad", "The inputs do not vary", text)]
    if at(inputs, "all_alike") is True:
        text = f"In each example all {whole(columns)} columns hold the same value. {see}"
        return [Advice("bad", "The columns are all alike", text)]
    found = []
    low, high = (number(inputs, end, "range") for end in ("narrowest", "widest"))
    if low and high and high >= APART * low and (table or high > UNITS) and at(inputs, "kind") != "images":
        ends = [(_name(inputs, end), number(inputs, end, "std") or 0.0) for end in ("narrowest", "widest")]
        apart = listed([f"{plain(std)} ({name})" for name, std in ends])
        cure = "Standardise them (subtract the mean, divide by the standard deviation), or use limbeck.TableEncoder."
        if table:
            cure = "Train with --scale standard, the default, which standardises them and keeps that with the student."
        text = f"Their standard deviations differ from {apart}: the largest drown the others. {cure}"
        found.append(Advice("warning", "The inputs are not scaled", text.replace(" and ", " to ", 1)))
    if 2 * constant >= columns and at(inputs, "kind") != "images":
        named = [short(str(name), 30) for name in items(inputs, "constant_names")[:5]]
        text = f"{whole(constant)} of {whole(columns)} have one value in all examples: {', '.join(named)}"
        text += f"{', …' if constant > len(named) else ''}. {see}"
        found.append(Advice("warning", "Most columns do not vary", text))
    return found


def _name(inputs: JsonView, end: str) -> str:
    name = at(inputs, end, "name")
    return short(str(name), 30) if at(inputs, "kind") == "table" else f"column {short(str(name), 30)}"


def _about_a_teacher_that_guesses(results: JsonView) -> list[Advice]:
    guess = _guess_that_it_does_not_beat(results, "teacher")
    if guess is None:
        return []
    cure = (
        "Measure it alone (limbeck evaluate --student with the teacher). Are its classes in the order of the data's "
        "(--label_names), does it read the inputs as it was trained to, is it the trained one (--teacher)?"
    )
    if at(results, "task") == "language":
        cure = "Does it read the same token ids as the student (--tokenizer), and is it the trained one (--teacher)?"
    return [
        Advice("bad", "The teacher is no better than guessing", f"{guess} A student can learn nothing from it. {cure}")
    ]


def _about_unfinished_training(results: JsonView) -> list[Advice]:
    history = items(results, "curves", "student")
    train = values_of(history, "soft_loss") or values_of(history, "loss")
    if len(train) < FEWEST_LOGS:
        return []
    part = len(train) // 5
    first = sum(train[:part]) / part
    earlier, before, last = (sum(train[-n * part : len(train) - (n - 1) * part]) / part for n in (3, 2, 1))
    falls = last < before < earlier  # a single fall may be noise
    if not falls or (last >= IMPROVING * before and before - last < OF_THE_FALL * (first - last)):
        return []
    longer = "--max_steps" if (number(results, "settings", "max_steps") or 0) > 0 else "--num_train_epochs"
    text = (
        f"Over the last fifth of the steps its loss fell from {plain(before)} to {plain(last)}: it was still "
        f"learning. Train longer ({longer}), or faster (--learning_rate); students gain from long schedules."
    )
    return [Advice("warning", "The student had not finished", text)]


def _about_what_has_not_learned(results: JsonView) -> list[Advice]:
    """A baseline that learned nothing makes every student look good."""
    if at(results, "roles", "baseline") is None or not was_distilled(results):
        return []
    guess = _guess_that_it_does_not_beat(results, "baseline")
    losses = values_of(items(results, "curves", "baseline"), "hard_loss")
    losses = losses or values_of(items(results, "curves", "baseline"), "loss")
    learned = None
    if len(losses) >= FEWEST_LOGS:
        part = len(losses) // 5
        start, end = sum(losses[:part]) / part, sum(losses[-part:]) / part
        chance = _nll_of_guessing(results)
        learned = end < FALLEN * start or (chance is not None and end < NO_BETTER * chance)
        went = f"Its training loss went from {plain(start)} to {plain(end)}."
    if guess is None and learned is not False:
        return []
    parts = [guess or "", "" if learned is None else went]
    parts.append("So the verdict compares with a model that has learned nothing.")
    if learned:
        parts.append("It learned its examples, but nothing that helps on the test: it has too few labels (--labelled).")
    else:
        parts.append("Try another --learning_rate (ten times as high or low), and more --num_train_epochs.")
    return [Advice("warning", "The baseline has not learned", " ".join(part for part in parts if part))]


def _nll_of_guessing(results: JsonView) -> float | None:
    """Nats: of the class frequencies, or of a text's tokens all alike."""
    classes = number(results, "test", "classes")
    if at(results, "task") == "language":
        return math.log(classes) if classes and classes > 1 else None
    return number(results, "guessing", "nll")


def _guess_that_it_does_not_beat(results: JsonView, role: str) -> str | None:
    """A sentence, where a role is not shown to be better than guessing in any score; None where it is, or not known."""
    if at(results, "task") == "language":
        nll, guess = number(results, "roles", role, "nll"), _nll_of_guessing(results)
        if nll is None or guess is None or nll < guess:
            return None
        return f"It has {plain(nll)} nats per token; to think all tokens equally likely has {plain(guess)}."
    if number(results, "guessing", "accuracy") is None:
        return _constant_that_it_does_not_beat(results, role)
    compared = []
    for name in BY_CHANCE:
        guess = number(results, "guessing", "scores", name)
        low = number(results, "roles", role, "scores", name, "low")
        if guess is not None and low is not None:
            compared.append(low <= guess)
    accuracy, guess = number(results, "roles", role, "accuracy"), number(results, "guessing", "accuracy")
    if accuracy is None or guess is None or not compared or not all(compared):
        return None
    return f"It gets {percent(accuracy)} right; always to answer the most frequent class gets {percent(guess)}."


def _constant_that_it_does_not_beat(results: JsonView, role: str) -> str | None:
    """The same for other tasks, in the score that the verdict is about."""
    judged = judged_score(results)
    guess = number(results, "guessing", "scores", judged["name"])
    worst = number(results, "roles", role, "scores", judged["name"], "low" if judged["better"] > 0 else "high")
    found = score_of(results, role, judged["name"])
    if guess is None or worst is None or found is None or judged["better"] * (worst - guess) > 0:
        return None
    answer = short(str(at(results, "guessing", "answer") or "the best constant answer"), 60)
    return f"Its {short(str(judged['title']), 40)} is {plain(found)}; always to answer {answer} has {plain(guess)}."
