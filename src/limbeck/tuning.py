"""Choosing the temperature and the weight of the labels: many students of one pass of the teacher, and no test set.

    found = limbeck.tune(lambda: limbeck.mlp([784, 30, 30, 10]), teacher, train, validation, config, folder="runs/tune")
    found["best"]                                      # {"temperature": 2.5, "hard_weight": 0.1, ...}

Successive halving (arXiv 1502.07943), with seeds as what is spent: every candidate is trained with a first seed, the
better half with a second one, and so on. Each training is a whole one, so that no temperature is preferred for
learning fast at first, and those that are left are judged over several seeds.

What this file does not know: test sets, words of a command line.
"""

import copy
import hashlib
import json
import math
import re
import time
import weakref
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import numpy as np
import torch
from matplotlib.figure import Figure
from scipy.stats import t as student_t
from torch import nn
from transformers import IntervalStrategy, PrinterCallback, set_seed

from limbeck.errors import ConfigError, DataError, DivergedError
from limbeck.evaluation.intervals import FEWEST_SEEDS, LEVEL, json_ready, word_of
from limbeck.files import in_use
from limbeck.losses.divergences import Divergence, PositionFunction, forward_kl
from limbeck.losses.numbers import NO_LABEL
from limbeck.losses.objective import Objective
from limbeck.networks.asking import Examples
from limbeck.networks.halves import is_language_model
from limbeck.results import TUNE, Json, JsonView, header, read_file, write_results
from limbeck.teachers import BaseTeacher, as_teacher, fingerprint_of, record
from limbeck.teachers.protocol import TeacherLike
from limbeck.training.config import DistillConfig
from limbeck.training.objectives import settled_task
from limbeck.training.trainer import DistillTrainer

RESULTS, PLOT = "tune.json", "tune.png"

MEASURES = {"nll": -1, "accuracy": 1, "forward_kl": -1}
"""What a student may be chosen by -> 1 where more of it is better, -1 where less is. All speak of what the student
predicts at T = 1, so none of them changes its meaning with what is tuned."""

IN_WORDS = {
    "nll": "NLL of held-out labels, nats",
    "accuracy": "share of held-out labels that is right",
    "forward_kl": "KL(teacher‖student) at T = 1, held out, nats",
}

Candidate = tuple[float, float]
"""(temperature, hard_weight)."""

Trials = dict[tuple[float, float, int], Json]
"""(temperature, hard_weight, seed) -> what was measured."""


def tune(
    make_student: Callable[[], nn.Module],
    teacher: TeacherLike,
    train: Examples,
    validation: Examples,
    config: DistillConfig | None = None,
    *,
    temperatures: Sequence[float] = (1.0, 1.5, 2.5, 4.0, 6.0, 10.0, 20.0),
    hard_weights: Sequence[float] = (0.0, 0.1, 0.5),
    divergence: Divergence | PositionFunction = forward_kl,
    seeds: int = 3,
    keep: float = 0.5,
    measure: str | None = None,
    folder: str | Path | None = None,
    say: Callable[[str], None] = print,
    **with_trainer: Any,
) -> Json:
    """Finds the temperature and hard weight whose students do best on validation data (docs/tuning.md).

    Parameters
    ----------
    make_student : function `() -> nn.Module`
        Returns an untrained student; called for each training, after its seed is set.
    teacher : network or teacher
        As DistillTrainer takes it. It runs once on every example; again during training only for augmented views and
        for language models.
    train, validation : TransferSet or datasets.Dataset
        What students are trained on, and what they are compared on; no example may be in both.
    config : DistillConfig, optional
        How each student is trained; its `seed` is the first one. No file of a training is saved.
    temperatures, hard_weights : sequence of float
        Each pair of the two is a candidate.
    divergence : Divergence
        The divergence of the soft term, the same for all candidates.
    seeds : int
        How many times each finalist is trained.
    keep : float
        The share of the candidates that remains from one seed to the next, at least two of them; 1 trains all of them
        with every seed.
    measure : str, optional
        "nll" or "accuracy" on the labels of `validation`, or "forward_kl" to the teacher, all at T = 1; by default nll
        where there are labels. The others are measured too, where they can be.
    folder : str or Path, optional
        Where tune.json and tune.png are written. A repeated call resumes there and trains nothing twice. A folder of
        another teacher, student, data or training is refused.
    say : function
        Called with a line of text after each training.
    **with_trainer
        Further arguments of DistillTrainer, such as augment or processing_class.

    Returns
    -------
    dict
        The content of tune.json.

    Raises
    ------
    LimbeckError
        For arguments that cannot be used here or by DistillTrainer.

    Examples
    --------
    >>> import torch
    >>> from limbeck import DistillConfig, arrays, tune
    >>> inputs = torch.randn(12, 2, generator=torch.Generator().manual_seed(0))
    >>> train, validation = arrays(inputs, labels=(inputs[:, 0] > 0).long()).split(0.3)
    >>> found = tune(
    ...     make_student=lambda: torch.nn.Linear(2, 2),
    ...     teacher=lambda batch: 3 * batch["inputs"] @ torch.tensor([[-1.0, 1.0], [0.0, 0.0]]),
    ...     train=train,
    ...     validation=validation,
    ...     config=DistillConfig(max_steps=3, learning_rate=0.1, use_cpu=True, disable_tqdm=True),
    ...     temperatures=[1.0, 4.0],
    ...     hard_weights=[0.1],
    ...     seeds=1,
    ...     say=lambda line: None,
    ... )
    >>> found["measure"], sorted(found["best"])
    ('nll', ['accuracy', 'forward_kl', 'hard_weight', 'nll', 'seeds', 'temperature'])
    """
    config = _without_files(config or DistillConfig())
    objectives = {(t, w): Objective(divergence, t, 1.0, w) for w in hard_weights for t in temperatures}
    measure = measure or ("nll" if _has_labels(validation) else "forward_kl")
    _check(objectives, seeds, keep, measure, train, validation)
    set_seed(config.seed)
    student = make_student()
    if not isinstance(student, nn.Module):
        raise ConfigError(
            f"make_student must return a network that can be trained, but returned {type(student).__name__}."
        )
    teacher = as_teacher(teacher)
    if not is_language_model(student) and settled_task(student, teacher, train).is_regression:
        raise ConfigError(
            "A search chooses a temperature, and numbers (regression) are not softened: there is none to choose. "
            "Compare runs of limbeck distill with several --hard_weight instead."
        )
    settings = settings_of_search(student, teacher, divergence, train, validation, config, with_trainer)
    path = None if folder is None else Path(folder) / RESULTS
    first = weakref.ref(student)

    def train_one(candidate: Candidate, seed: int) -> Json:
        started = time.perf_counter()
        set_seed(seed)
        student, seeded = make_student(), copy.copy(config)
        if student is first():
            raise ConfigError("make_student must return a new student at each call, but returned the same one again.")
        seeded.seed = seed
        sets: dict[str, Any] = {"train_dataset": train, "eval_dataset": validation}
        trainer = DistillTrainer(student, teacher, objectives[candidate], seeded, **sets, **with_trainer)
        trainer.remove_callback(PrinterCallback)
        try:
            trainer.train()
            metrics = trainer.evaluate()
            measured = {name: metrics[f"eval_{name}"] for name in MEASURES if f"eval_{name}" in metrics}
        except DivergedError:
            measured = {measure: math.nan}  # ranked last
        if measure not in measured:
            needs = "a teacher with targets over every class" if measure == "forward_kl" else "labels"
            raise DataError(f"{measure} needs validation data with {needs}; pass it, or choose by another measure.")
        seconds = round(time.perf_counter() - started, 3)
        named = {"temperature": candidate[0], "hard_weight": candidate[1], "seed": seed}
        trial: Json = json_ready(named | measured | {"seconds": seconds})
        return trial

    def results(left: Sequence[Candidate]) -> Json:
        grid = {"temperatures": [*temperatures], "hard_weights": [*hard_weights], "seeds": seeds, "keep": keep}
        return _results(trials, settings, grid | {"first_seed": config.seed}, measure, objectives, left)

    writes = path is not None and config.process_index == 0
    with in_use(path.parent) if path is not None and writes else nullcontext():
        trials: Trials = {} if path is None else _read(path, settings)
        teacher = _recorded_once(teacher, student, [train, validation], config, with_trainer)
        del student
        left, sizes = list(objectives), _sizes(len(objectives), seeds, keep)
        for rung, size in enumerate(sizes):
            if rung:
                left = _ranked(left, trials, range(config.seed, config.seed + rung), measure)[:size]
            for place, candidate in enumerate(left, start=sum(sizes[:rung]) + 1):
                key = (*candidate, config.seed + rung)
                if key in trials:
                    continue
                trials[key] = train_one(candidate, key[2])
                if path is not None and writes:
                    write_results(results([]), path)
                say(f"{place} of {sum(sizes)}: {_in_words(trials[key])}")
            _require_a_measured_one(left, trials, range(config.seed, config.seed + rung + 1), measure)
        left = _ranked(left, trials, range(config.seed, config.seed + seeds), measure)
        found = results(left)
        if path is not None and writes:
            write_results(found, path)
            plot(found, path.with_name(PLOT))
        return found


def differences(found: JsonView, settings: JsonView) -> list[str]:
    """The differences between a training and those of a search, in words; seeds are ignored.

    found: the contents of tune.json. settings: those of the other training (settings_of_search).
    """
    names = {
        "teacher": "another teacher",
        "student": "another student",
        "divergence": "another divergence",
        "train": "other training examples",
        "validation": "other held-out examples",
        "training": "other training arguments",
        "augment": "another augmentation",
    }
    if settings["teacher"] is None:
        names["teacher"] = "a teacher"
    searched, ours = (
        dict(each) | {"student": _without_weights(each.get("student"))} for each in (found["settings"], settings)
    )
    return [text for name, text in names.items() if searched.get(name) != ours.get(name)]


def read_tune(path: str | Path) -> Json:
    """The contents of a tune.json; DataError for any other file, and for one of a newer Limbeck."""
    return read_file(path, TUNE, advice=f"pass the {RESULTS} of a search")


def plot(results: JsonView, path: str | Path) -> None:
    """A PNG of the measure over the temperature, a line per weight of the labels, with intervals over seeds."""
    measure = results["measure"]
    figure = Figure(figsize=(7, 4.2), layout="constrained")
    axes = figure.subplots()
    for weight in results["asked"]["hard_weights"]:
        points = [of for of in results["candidates"] if of["hard_weight"] == weight and of["seeds"]]
        points = sorted((of for of in points if of[measure]["mean"] is not None), key=lambda of: of["temperature"])
        means = [of[measure]["mean"] for of in points]
        drawn = axes.plot([of["temperature"] for of in points], means, marker="o", label=f"hard_weight {weight:g}")
        for of in points:
            at, values, low = of["temperature"], of[measure]["seeds"], of[measure]["low"]
            axes.plot([at] * len(values), values, ".", markersize=3, color=drawn[0].get_color(), alpha=0.6)
            if low is not None:
                axes.vlines(at, low, of[measure]["high"], color=drawn[0].get_color(), alpha=0.6)
    temperatures = sorted(results["asked"]["temperatures"])
    axes.set_xscale("log")
    axes.set_xticks(temperatures, [f"{t:g}" for t in temperatures])
    axes.minorticks_off()
    axes.set_xlabel("temperature of the soft targets")
    axes.set_ylabel(IN_WORDS[measure])
    axes.legend(frameon=False)
    axes.spines[["top", "right"]].set_visible(False)
    figure.savefig(path, dpi=150)


def _sizes(candidates: int, seeds: int, keep: float) -> list[int]:
    """How many candidates are trained with each seed."""
    sizes = [candidates]
    while len(sizes) < seeds:
        sizes.append(max(min(2, candidates), math.ceil(keep * sizes[-1])))
    return sizes


def _ranked(candidates: Sequence[Candidate], trials: Trials, seeds: range, measure: str) -> list[Candidate]:
    """The best first, by the mean over these seeds; one that could not be measured last."""

    def cost(candidate: Candidate) -> float:
        values = [trials[*candidate, seed][measure] for seed in seeds]
        return math.inf if None in values else -MEASURES[measure] * float(np.mean(values))

    return sorted(candidates, key=cost)


def _require_a_measured_one(candidates: Sequence[Candidate], trials: Trials, seeds: range, measure: str) -> None:
    """DivergedError where each candidate ended with weights of nan or infinity with one of these seeds."""
    if all(any(trials[*candidate, seed][measure] is None for seed in seeds) for candidate in candidates):
        raise DivergedError(
            f"Each of the {len(candidates)} candidates diverged: with one of the seeds {[*seeds]} its weights became "
            "nan or infinity, so there is no best one. Lower the learning rate, or set max_grad_norm."
        )


def _results(
    trials: Trials,
    settings: JsonView,
    grid: JsonView,
    measure: str,
    candidates: Iterable[Candidate],
    left: Sequence[Candidate],
) -> Json:
    """The contents of tune.json. left: the candidates trained with every seed, the best first."""
    seeds = range(grid["first_seed"], grid["first_seed"] + grid["seeds"])
    rows = []
    for temperature, weight in candidates:
        trials_of_row = {
            seed: trials[temperature, weight, seed] for seed in seeds if (temperature, weight, seed) in trials
        }
        row: Json = {"temperature": temperature, "hard_weight": weight, "seeds": len(trials_of_row)}
        for name in MEASURES:
            if trials_of_row and all(name in trial for trial in trials_of_row.values()):
                row[name] = _over_seeds([trial[name] for trial in trials_of_row.values()])
        if left and trials_of_row and (temperature, weight) != left[0]:
            pairs = [(trial[measure], trials[*left[0], seed][measure]) for seed, trial in trials_of_row.items()]
            gained = [None if None in pair else MEASURES[measure] * (pair[0] - pair[1]) for pair in pairs]
            against = _over_seeds(gained)
            known = against["low"] is not None
            row["against_best"] = against | {"word": word_of(against) if known else None}
        rows.append(row)
    best = next((row for row in rows if left and (row["temperature"], row["hard_weight"]) == left[0]), None)
    sentence = None if best is None else _sentence(best, rows, measure)
    return {
        **header(TUNE),
        "settings": dict(settings),
        "asked": dict(grid),
        "measure": measure,
        "finished": bool(left),
        "sentence": sentence,
        "best": best,
        "candidates": rows,
        "trials": list(trials.values()),
    }


def _sentence(best: JsonView, rows: Sequence[JsonView], measure: str) -> str:
    """The best candidate, and those that are not shown to be worse."""
    best_pair = f"Best by {measure}: T = {best['temperature']:g}, hard_weight {best['hard_weight']:g}."
    compared = [row for row in rows if row.get("against_best", {}).get("word")]
    alike = [row for row in compared if row["against_best"]["word"] != "worse"]
    if len(rows) == 1:
        return f"{best_pair} Nothing else was tried."
    if not compared:
        return f"{best_pair} With fewer than three seeds there is no confidence interval."
    if not alike:
        return f"{best_pair} Every other candidate that was trained as often is shown to be worse."
    named = "; ".join(f"T = {row['temperature']:g}, hard_weight {row['hard_weight']:g}" for row in alike)
    return f"{best_pair} Not shown to be worse: {named}."


def _over_seeds(values: Sequence[float | None]) -> Json:
    """The mean, each value, and Student's interval of the mean where there are seeds enough; None for what is unknown.

    The interval is over seeds, on the same validation examples.
    """
    known = [value for value in values if value is not None]
    mean = float(np.mean(known)) if known and len(known) == len(values) else None
    low = high = None
    if mean is not None and len(known) >= FEWEST_SEEDS:
        half = student_t.ppf((1 + LEVEL) / 2, len(known) - 1) * np.std(known, ddof=1) / math.sqrt(len(known))
        low, high = mean - float(half), mean + float(half)
    return {"mean": mean, "low": low, "high": high, "seeds": list(values)}


def _recorded_once(
    teacher: BaseTeacher, student: nn.Module, sets: list[Any], config: DistillConfig, with_trainer: JsonView
) -> BaseTeacher:
    """The teacher with its targets recorded, where one pass can serve all trainings; otherwise the teacher itself."""
    if teacher.shares_student:
        raise ConfigError("A teacher that is its student's own model serves one student; pass a copy of the model.")
    views = any(with_trainer.get(name) is not None for name in ("augment", "source"))
    live = teacher.one_view or views
    if live or is_language_model(student):
        return teacher
    teacher.to(config.device)
    return record(teacher, sets, config.eval_batch_size)


def _without_files(config: DistillConfig) -> DistillConfig:
    """The same training without checkpoints, logs and evaluations."""
    config = copy.copy(config)
    for what in ("save", "eval", "logging"):
        setattr(config, f"{what}_strategy", IntervalStrategy.NO)
    config.load_best_model_at_end = False
    config.disable_tqdm = True
    return config


def _check(
    objectives: Mapping[Candidate, Any], seeds: int, keep: float, measure: str, train: Any, validation: Any
) -> None:
    if not objectives:
        raise ConfigError("There is nothing to choose from; pass at least one temperature and one hard_weight.")
    if seeds < 1:
        raise ConfigError(f"seeds must be 1 or more, but is {seeds}.")
    if not 0 < keep <= 1:
        raise ConfigError(f"keep is the share of candidates that continue, above 0 and at most 1, but is {keep:g}.")
    if measure not in MEASURES:
        raise ConfigError(f"There is no measure {measure!r}; there are {', '.join(MEASURES)}.")
    if validation is None or len(validation) == 0 or len(train) == 0:
        raise DataError(
            "Students are compared on examples that none was trained on; pass train and validation examples."
        )
    ids = [set(torch.as_tensor(rows.row_ids).tolist()) for rows in (train, validation) if hasattr(rows, "row_ids")]
    if len(ids) == 2 and ids[0] & ids[1]:
        raise DataError(
            f"The row_id {min(ids[0] & ids[1])} is both in train and in validation; a student must be chosen by "
            "examples that it was not trained on. Take both from one set, by split."
        )


def _has_labels(rows: Any) -> bool:
    labels = getattr(rows, "labels", None) if hasattr(rows, "labels") else rows[0].get("labels")
    return labels is not None and bool((torch.as_tensor(labels) != NO_LABEL).any())


_WITHOUT_EFFECT = (
    *("output_dir", "logging", "save", "eval", "report_to", "dataloader", "disable_tqdm", "run_name"),
    *("load_best_model_at_end", "metric_for_best_model", "greater_is_better", "do_eval"),
)
"""What the names of a config's fields begin with that do not change a student; seeds belong to trials."""


_SHAPE = re.compile(r".* of [\d,]+ parameters")
"""How the settings of a search begin to describe a student; its fingerprint follows."""


def settings_of_search(
    student: nn.Module,
    teacher: BaseTeacher,
    divergence: Divergence | PositionFunction,
    train: object,
    validation: object,
    config: DistillConfig,
    with_trainer: JsonView,
) -> Json:
    """What all the trials of one folder have in common: the `settings` of its tune.json."""
    given, usual = _without_files(config).to_dict(), DistillConfig().to_dict()
    training = {k: v for k, v in given.items() if v != usual.get(k) and not k.startswith((*_WITHOUT_EFFECT, "seed"))}
    parameters = sum(p.numel() for p in student.parameters())
    return {
        "teacher": fingerprint_of(teacher),
        "student": f"{type(student).__name__} of {parameters:,} parameters, {fingerprint_of(student)}",
        "divergence": getattr(divergence, "name", getattr(divergence, "__qualname__", str(divergence))),
        "train": _described(train),
        "validation": None if validation is None else _described(validation),
        "training": json.loads(json.dumps(training, default=str)),
        "augment": repr(with_trainer["augment"]) if with_trainer.get("augment") is not None else None,
    }


def _without_weights(student: object) -> str:
    """A student's description in the settings of a search, up to the fingerprint, which depends on the seed."""
    shape = _SHAPE.match(str(student))
    return str(student) if shape is None else shape[0]


def _described(rows: Any) -> str:
    """A description that distinguishes a set from others: the number of examples, and a hash of some of them."""
    digest = hashlib.sha256()
    for place in range(0, len(rows), max(1, len(rows) // 64)):
        for name, value in sorted(rows[place].items()):
            digest.update(f"{name} {value.tolist() if hasattr(value, 'tolist') else value}".encode())
    return f"{len(rows):,} examples, {digest.hexdigest()}"


def _read(path: Path, settings: JsonView) -> Trials:
    """The trials in this folder, which must have these settings."""
    if not path.exists():
        return {}
    before = read_tune(path)
    for name, value in settings.items():
        if before["settings"].get(name) != value:
            both = (before["settings"].get(name), value)
            was, now = (re.sub(r"([0-9a-f]{8})[0-9a-f]{56}", r"\1…", str(of)) for of in both)
            raise ConfigError(
                f"{path.parent} was started with {name} {was}, but this search has {now}; pass another folder, or "
                "delete that one."
            )
    return {(trial["temperature"], trial["hard_weight"], trial["seed"]): trial for trial in before["trials"]}


def _in_words(trial: JsonView) -> str:
    measured = ", ".join(f"{name} {trial[name]:.4f}" for name in MEASURES if trial.get(name) is not None)
    measured = measured or "diverged, weights of nan or infinity"
    return f"T = {trial['temperature']:g}, hard_weight {trial['hard_weight']:g}, seed {trial['seed']}: {measured}"
