"""Advice on what to change: problems that the results show, with the numbers behind them and a remedy for each.

What this file does not know: the layout of the page.
"""

from limbeck.report.gain import negligible
from limbeck.report.held_out import seen
from limbeck.report.obvious import Advice, obvious, values_of
from limbeck.report.reading import at, class_name, items, number, numbers, temperature_of, weights_of
from limbeck.report.shared import OF_EQ2, chosen_temperature, divergence_of, judged_score, score_of, was_distilled
from limbeck.report.words import percent, plain, points, short, times
from limbeck.results import JsonView

SATURATED, TELLING = 0.02, 0.1
"""Mass off the top class: below the first the targets say little more than labels; at the second they say something."""

EVEN, SMOOTHED, UNSURE = 0.9, 0.01, 0.3
"""At T = 1: the other classes are alike, and have a mass that is not there by chance, nor for want of training."""

MISCALIBRATED = 0.05
"""Expected calibration error from which confidence misleads."""

CHANGED = 0.99
"""Share of equal predictions below which eight bits are warned of."""

STILL_MISCALIBRATED = 0.8
"""Temperature scaling is advised where it leaves less than this share of the calibration error."""

HALF = 0.5
"""The share of the gap to the teacher below which the page advises to try for more."""

NEVER, KNOWN, FEWEST = 0.1, 0.6, 5
"""A class that the student gets right less often than the first, the teacher more often than the second, of so many."""


def advise(results: JsonView) -> list[Advice]:
    """Advice: the obvious first, then the worst problem first; a single good line where nothing is found."""
    language = at(results, "task") == "language"
    first = obvious(results)
    found = [
        *_about_the_verdict(results, bool(first)),
        *_about_missing_classes(results),
        *_about_the_targets(results),
        *_about_calibration(results),
        *_about_the_gradient(results),
        *_about_the_curves(results),
        *(_about_the_draft(results) if language else ()),
        *_about_the_cost(results),
        *_about_the_files(results),
        *_about_the_seeds(results),
    ]
    found.sort(key=lambda advice: advice.kind != "bad")
    if not first and not found:
        text = "No measurement argues against shipping this student."
        found = [Advice("good", "No objection", text)]
    return first + found


def _about_the_verdict(results: JsonView, obvious_first: bool) -> list[Advice]:
    """obvious_first: whether something simpler was found, which is to be mended before anything else is tried."""
    word = at(results, "verdict", "word")
    if not was_distilled(results):
        return []
    if word is None:
        text = (
            "Train the same student on the labels alone (limbeck distill --baseline) and pass it to the evaluation: "
            "without it the gain from the teacher is unknown."
        )
        return [Advice("warning", "There is no baseline", text)]
    writes = at(results, "task") == "language"
    if writes:
        teacher, baseline = (number(results, "roles", role, "nll") for role in ("teacher", "baseline"))
        weaker = teacher is not None and baseline is not None and teacher >= baseline
    else:
        judged = judged_score(results)
        teacher, baseline = (score_of(results, role, judged["name"]) for role in ("teacher", "baseline"))
        weaker = teacher is not None and baseline is not None and judged["better"] * (teacher - baseline) <= 0
    if weaker and word != "better":
        text = "It has nothing to teach on this test. Distil from a better teacher, or an ensemble (several --teacher)."
        return [Advice("bad", "The teacher is no better than the baseline", text)]
    gap = number(results, "verdict", "gap_recovered")
    hardly = negligible(results)
    if word == "better" and hardly is None and (gap is None or gap >= HALF):
        return []
    more = (
        "Train on more examples: a transfer set needs no labels, so unlabelled data of the same kind helps most. "
        "Then train for more steps."
    )
    if at(results, "tuned") is None:
        more += " Let limbeck tune choose temperature and hard_weight: small students do best between 2 and 5."
    if writes:
        more = "Train on more text, for more steps; if there is little text, on what the teacher writes."
    if obvious_first:
        more = "Start with the first advice on this page; it may explain this."
    if word == "better" and gap is not None:
        text = f"It recovers {percent(gap, 0)} of the gap to the teacher. {more}"
        text += "" if obvious_first else " A larger student may recover more."
        return [Advice("warning", "Most of the gap to the teacher is left", text)]
    if hardly is not None:
        text = f"The difference ({hardly}) is not due to chance, but too small to matter. {more}"
        return [Advice("warning", "The student is hardly better than its baseline", text)]
    if word == "worse":
        return [Advice("bad", "Distillation made the student worse", f"The teacher or the data misleads it. {more}")]
    return [Advice("bad", "The student is no better than its baseline", more)]


def _about_missing_classes(results: JsonView) -> list[Advice]:
    counts, shown = numbers(results, "test", "per_class"), numbers(results, "transfer_set", "per_class")
    ours, theirs = (numbers(results, "roles", role, "correct_per_class") for role in ("student", "teacher"))
    cure = "Add some, even without labels, or correct it with limbeck.match_prior(logits, prior, classes={})."
    found = []
    missing = [c for c, (n, seen) in enumerate(zip(counts, shown, strict=False)) if n and seen == 0]
    if missing:
        text = f"It has no example of {_names(results, missing)}, but the test has. {cure.format(missing[:8])}"
        found.append(Advice("bad", "Classes are missing from the transfer set", text))
    lost = [
        c
        for c, (n, s, t) in enumerate(zip(counts, ours, theirs, strict=False))
        if n is not None and s is not None and t is not None and n >= FEWEST and s < NEVER * n and t > KNOWN * n
    ]
    if lost := [c for c in lost if c not in missing]:
        text = f"It gets hardly any of {_names(results, lost)} right, but the teacher most."
        if len(shown) != len(counts):  # it is not known
            text += f" Are there such examples in the transfer set? {cure.format(lost[:8])}"
        found.append(Advice("bad", "Classes that the student has not learned", text))
    return found


def _names(results: JsonView, classes: list[int]) -> str:
    named = [short(class_name(results, c), 30) for c in classes[:8]] + (["…"] if len(classes) > 8 else [])
    return ", ".join(named)


def _about_the_targets(results: JsonView) -> list[Advice]:
    known = at(results, "dark_knowledge")
    temperatures = [t for t in numbers(known, "temperatures") if t is not None and t > 0]
    off, even = numbers(known, "off_top"), numbers(known, "evenness")
    if not temperatures or len(off) != len(temperatures):
        return []
    chosen = chosen_temperature(results, temperatures)
    now = off[temperatures.index(chosen)]
    other, alike = off[0], even[0] if even else None
    if temperatures[0] == 1 and other is not None and alike is not None and SMOOTHED < other < UNSURE and alike > EVEN:
        text = (
            f"At T = 1 it gives {percent(other)} to the classes that it does not choose, almost evenly (evenness "
            f"{alike:.2f} of 1), like a teacher trained with label smoothing: little can be learned from "
            "them. Train the teacher without label smoothing."
        )
        return [Advice("warning", "The teacher treats all other classes alike", text)]
    if now is None or now >= SATURATED or temperature_of(results) is None or divergence_of(results) == "logit_matching":
        return []
    telling = next((t for t, mass in zip(temperatures, off, strict=True) if mass is not None and mass >= TELLING), None)
    where = f"at T = {plain(temperatures[-1])} it would be {percent(off[-1] or 0.0)}"
    if telling is not None:
        where = f"at T = {plain(telling)} it would be more than a tenth"
    text = (
        f"At T = {plain(chosen)} its targets give {percent(now)} to all classes but the likeliest, hardly more "
        f"information than labels; {where}. Raise the temperature, or match its logits: --divergence logit_matching."
    )
    return [Advice("warning", "The teacher is saturated", text)]


def _about_calibration(results: JsonView) -> list[Advice]:
    found, sign = [], seen(results)
    if sign is not None:
        text = (
            f"{sign} So this temperature means nothing, and measures on these examples flatter it. Hold out what it "
            "has not seen: --data as a folder of train, validation and test files. Or hold out nothing: --validation 0."
        )
        found.append(Advice("warning", "The teacher has seen the held-out examples", text))
    for role, cure in (
        (
            "teacher",
            "Its targets pass it on. Divide its logits by {} before distilling, or multiply the temperature by it",
        ),
        ("student", "Divide its logits by {} where its confidence is used"),
    ):
        ece, sure, right = (number(results, "roles", role, name) for name in ("ece", "confidence", "accuracy"))
        if ece is None or ece <= MISCALIBRATED or sure is None or right is None:
            continue
        after, temperature = (number(results, "roles", role, "scaled", name) for name in ("ece", "temperature"))
        if role == "teacher" and sign is not None:
            after = temperature = None
        manner = "overconfident" if sure > right else "underconfident"
        text = f"It is {manner}: sure of {percent(sure)}, right in {percent(right)} (calibration error {plain(ece)}). "
        if after is None or temperature is None:
            text += cure.format("a fitted calibration temperature") + "."
        elif after < STILL_MISCALIBRATED * ece and (temperature > 1) == (sure > right):
            text += cure.format(f"T = {plain(temperature)}") + "."
        else:
            text += f"No temperature corrects it: fitted on held-out labels, the calibration error is {plain(after)}."
        found.append(Advice("warning", f"The {role}'s confidence misleads", text))
    return found


def _about_the_gradient(results: JsonView) -> list[Advice]:
    known, (soft_weight, weight) = at(results, "dark_knowledge"), weights_of(results)
    temperatures = [t for t in numbers(known, "temperatures") if t is not None and t > 0]
    if not temperatures or not weight or temperature_of(results) is None or divergence_of(results) not in OF_EQ2:
        return []
    place = temperatures.index(chosen_temperature(results, temperatures))
    softs, hard = numbers(known, "gradient", "untrained", "soft"), number(known, "gradient", "untrained", "hard")
    soft = softs[place] if place < len(softs) else None
    if soft is None or hard is None:
        return []
    soft, hard = (1.0 if soft_weight is None else soft_weight) * soft, weight * hard
    if soft >= hard:
        return []
    text = (
        f"At the start {percent(hard / (soft + hard), 0)} of the gradient comes from the labels. The soft targets "
        "carry more: a considerably lower hard_weight is best in most cases (arXiv 1503.02531)."
    )
    return [Advice("warning", "The labels outweigh the teacher", text)]


def _about_the_curves(results: JsonView) -> list[Advice]:
    history = items(results, "curves", "student")
    held = values_of(history, "eval_soft_loss") or values_of(history, "eval_loss")
    stopped = number(results, "settings", "early_stopping")  # and the best was kept
    if len(held) >= 5 and held[-1] > 1.1 * min(held) and not stopped:
        text = (
            f"Its validation loss was {plain(min(held))} at best and ended at {plain(held[-1])}. Stop earlier "
            "(--early_stopping 3), or train on more examples."
        )
        return [Advice("warning", "The student was trained too long", text)]
    return []


def _about_the_draft(results: JsonView) -> list[Advice]:
    speed, same = number(results, "draft", "speed_up"), number(results, "draft", "same")
    found = []
    if speed is not None and speed < 1:
        acceptance = number(results, "roles", "student", "to_teacher", "acceptance")
        accepted = "" if acceptance is None else f": {percent(acceptance, 0)} of its proposals would be accepted"
        text = (
            f"With it the teacher writes at {times(speed)} its own speed{accepted}. A draft needs high acceptance and "
            "a small share of the teacher's time: a smaller student, or total_variation as the divergence."
        )
        found.append(Advice("warning", "As a draft the student slows the teacher down", text))
    if same is not None and same < 1:
        text = f"After {percent(same, 0)} of the prompts both wrote the same text; near-ties may differ."
        found.append(Advice("warning", "With the draft the teacher wrote different text", text))
    return found


def _about_the_cost(results: JsonView) -> list[Advice]:
    found = []
    for name, what in (("parameters", "parameters"), ("bytes", "bytes")):
        ours, theirs = (number(results, "roles", role, name) for role in ("student", "teacher"))
        if ours and theirs and ours >= theirs:
            text = f"It has {ours:,.0f} {what}, the teacher {theirs:,.0f}. Distilling saves nothing here."
            found.append(Advice("warning", "The student is no smaller than the teacher", text))
            break
    ours, theirs = (number(results, "roles", role, "latency_ms", "batch_1") for role in ("student", "teacher"))
    if ours and theirs and ours > theirs:
        text = f"It takes {plain(ours)} ms per example, the teacher {plain(theirs)} ms."
        found.append(Advice("warning", "The student is slower than the teacher", text))
    return found


def _about_the_files(results: JsonView) -> list[Advice]:
    same = number(results, "export", "int8", "same_prediction")
    if same is None or same >= CHANGED:
        return []
    right = [number(results, "export", form, "accuracy") for form in ("torch", "int8")]
    text = f"The file predicts another class than the student for {percent(1 - same)} of the examples"
    if right[0] is not None and right[1] is not None:
        text += f", and it is right in {percent(right[1])} instead of {percent(right[0])}"
    return [Advice("warning", "Eight bits change what it predicts", f"{text}. The file in full precision does not.")]


def _about_the_seeds(results: JsonView) -> list[Advice]:
    if at(results, "verdict", "seeds_resampled") is not False or at(results, "verdict", "word") is None:
        return []
    low, high = (number(results, "verdict", "difference", end) for end in ("low", "high"))
    decimals = 2 if (number(results, "verdict", "examples") or 0) >= 5000 else 1  # as the verdict has them
    interval = "" if low is None or high is None else f" ({points(low, decimals)} to {points(high, decimals)} points)"
    if not judged_score(results)["share"]:
        interval = "" if low is None or high is None else f" ({plain(low)} to {plain(high)})"
    if at(results, "task") == "language":
        interval = "" if low is None or high is None else f" ({plain(low)} to {plain(high)} nats)"
    text = (
        f"The interval{interval} holds for these trained models only. For a statement about the method, train three "
        "or more seeds, limbeck distill --seeds 3."
    )
    return [Advice("warning", "Few seeds", text)]
