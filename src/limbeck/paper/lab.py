"""What the experiments of the paper share: the data, and networks that are trained once and saved.

    lab = Lab(splits, "runs/paper/mnist-quick", budget="quick", seeds=3)
    net = lab.fit("baseline-0", lambda: lab.small(), ON_LABELS, seed=0)     # trained once, then read from the folder
    lab.right(net)                                                           # [n] bool on the test set

What this file does not know: any experiment.
"""

import json
import shutil
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from scipy import stats
from torch import Tensor, nn
from transformers import PrinterCallback, TrainerCallback

import limbeck
from limbeck import ConfigError, DataError, TransferSet
from limbeck.results import PAPER, Json, JsonView, header

ON_LABELS = limbeck.Objective(soft_weight=0.0, hard_weight=1.0)

SETTINGS = "settings.json"


@dataclass(frozen=True)
class Recipe:
    """How a network is trained, where that differs from the other students of the lab.

    epochs: over the transfer set; by default the student's budget. augment, eval_dataset, callbacks: as DistillTrainer
    takes them. config: further fields of DistillConfig.
    """

    epochs: float | None = None
    augment: Any = None
    eval_dataset: TransferSet | None = None
    callbacks: Sequence[TrainerCallback] = ()
    config: JsonView = field(default_factory=dict)


@dataclass(frozen=True)
class Budget:
    """Epochs over the whole training set, and learning rates, of a regularised teacher and of a student."""

    teacher_epochs: int
    student_epochs: int
    teacher_rate: float
    student_rate: float


BUDGETS = {
    "digits": Budget(teacher_epochs=40, student_epochs=30, teacher_rate=5e-3, student_rate=5e-3),
    "quick": Budget(teacher_epochs=20, student_epochs=15, teacher_rate=1e-3, student_rate=2e-3),
    "full": Budget(teacher_epochs=100, student_epochs=40, teacher_rate=1e-3, student_rate=2e-3),
}
BATCH = 128


class Lab:
    """Data, nets and results of one experiment.

    splits: "train" and "test", TransferSets of labelled images.
    folder: holds the nets, shared by all experiments that run there, and a subfolder of results for each experiment.
        Settings other than those that the folder was created with raise ConfigError.
    budget: "quick" or "full"; sets of fewer than 5,000 images, such as the digits, have a budget of their own.
    seeds: number of seeds each student is trained with.
    say: called with a line of text at each step.
    """

    def __init__(
        self,
        splits: JsonView,
        folder: str | Path,
        *,
        budget: str = "quick",
        seeds: int = 3,
        say: Callable[[str], None] = print,
    ):
        if missing := {"train", "test"} - set(splits):
            raise DataError(
                f"The paper's experiments need the splits train and test, but the data lacks {sorted(missing)}."
            )
        if seeds < 1:
            raise ConfigError(f"--seeds must be 1 or more, but is {seeds}.")
        self.train, self.test = splits["train"], splits["test"]
        for name in ("train", "test"):
            if splits[name].labels is None:
                raise DataError(f"The paper's experiments count errors, but the {name} split has no labels.")
        self.small_data = len(self.train) < 5000
        self.budget_name, self.budget = budget, BUDGETS["digits" if self.small_data else budget]
        self.seeds, self.say, self.folder = seeds, say, Path(folder)
        self.bf16 = self._uses_bf16()
        self.inputs = self.train[0]["inputs"].numel()
        self.classes = int(self.train.num_classes)
        self._claim()

    def net(self, *hidden: int, **regularisation: Any) -> nn.Module:
        """An MLP from pixels to classes."""
        return limbeck.mlp([self.inputs, *hidden, self.classes], **regularisation)

    def big(self) -> nn.Module:
        """The paper's teacher: 1200-1200, dropout and weight constraints (on small data 300-300).

        The paper does not say how much dropout; over so few epochs a quarter of the hidden units worked best.
        """
        units = 300 if self.small_data else 1200
        return self.net(units, units, dropout=0.25, max_norm=3.5)

    def small(self) -> nn.Module:
        """The paper's small net: 800-800 without regularisation (on small data 30-30)."""
        units = 30 if self.small_data else 800
        return self.net(units, units)

    def teacher(self) -> nn.Module:
        """The paper's teacher, trained on jittered images."""
        jitter = limbeck.jitter(1 if self.small_data else 2)
        config = {"learning_rate": self.budget.teacher_rate, "weight_decay": 0.1}
        recipe = Recipe(epochs=self.budget.teacher_epochs, augment=jitter, config=config)
        return self.fit("teacher", self.big, ON_LABELS, recipe=recipe)

    def fit(
        self,
        name: str,
        make: Callable[[], nn.Module],
        objective: limbeck.Objective,
        *,
        teacher: nn.Module | limbeck.Teacher | None = None,
        transfer_set: TransferSet | None = None,
        seed: int = 0,
        recipe: Recipe | None = None,
    ) -> nn.Module:
        """The net of this name, loaded from the folder where it has been trained before, else trained and saved there.

        make: returns the untrained net; called after the seed is set.
        objective: the training objective. teacher: as DistillTrainer takes it.
        transfer_set: by default the whole training set; a smaller one is used for as many steps.
        seed: seeds the initial weights and the order of the batches.
        recipe: how the network is trained; by default as every student.
        """
        recipe = recipe or Recipe()
        saved = self.folder / "nets" / name
        if saved.is_dir():
            return limbeck.load(saved)
        self.say(f"training {name}")
        examples = self.train if transfer_set is None else transfer_set
        torch.manual_seed(seed)
        net = make()
        steps_per_epoch = -(-len(self.train) // BATCH)
        checkpoints = self.folder / "checkpoints" / name
        settings: Json = {
            "max_steps": round((recipe.epochs or self.budget.student_epochs) * steps_per_epoch),
            "per_device_train_batch_size": BATCH,
            "per_device_eval_batch_size": 512,
            "learning_rate": self.budget.student_rate,
            "bf16": self.bf16,
            "lr_scheduler_type": "cosine",
            "seed": seed,
            "save_strategy": "no" if self.small_data else "steps",
            "save_steps": 10 * steps_per_epoch,
            "save_total_limit": 1,
            "logging_strategy": "no",
            "disable_tqdm": True,
        }
        trainer = limbeck.DistillTrainer(
            net,
            teacher,
            objective,
            limbeck.DistillConfig(str(checkpoints), **(settings | dict(recipe.config))),
            train_dataset=examples,
            eval_dataset=recipe.eval_dataset,
            augment=recipe.augment,
            callbacks=list(recipe.callbacks),
        )
        trainer.remove_callback(PrinterCallback)
        trainer.train(resume_from_checkpoint=any(checkpoints.glob("checkpoint-*")) or None)
        limbeck.save(net, saved)
        shutil.rmtree(checkpoints, ignore_errors=True)
        return net.eval()

    def logits(self, net: nn.Module | limbeck.Teacher, examples: TransferSet | None = None) -> Tensor:
        """The logits of a net or a teacher for each example, `[n, C]`, which may be shifted by a constant per row.

        examples: the test set by default.
        """
        examples = self.test if examples is None else examples
        targets = limbeck.record(net, examples).targets
        logits: Tensor = targets.logits if hasattr(targets, "logits") else targets.all_log_probs(1.0)
        return logits

    def right(self, net: nn.Module | limbeck.Teacher, examples: TransferSet | None = None) -> np.ndarray:
        """Whether a net, or a teacher, is right about each example, `[n]` bool; the test set by default."""
        examples = self.test if examples is None else examples
        assert examples.labels is not None  # the lab's splits have labels
        return right(self.logits(net, examples), examples.labels)

    def write(self, experiment: str, rows: list[Json], **more: Any) -> Json:
        """Returns the results, with a row per line of the table; also written to the experiment's results.json."""
        results = {
            **header(PAPER),
            "experiment": experiment,
            "settings": self._settings() | {"epochs": asdict(self.budget)},
            "test_examples": len(self.test),
            "rows": rows,
            **more,
        }
        limbeck.write_results(results, self.results_of(experiment) / "results.json")
        return results

    def results_of(self, experiment: str) -> Path:
        """The folder of an experiment's results and plots."""
        folder = self.folder / experiment
        folder.mkdir(exist_ok=True)
        return folder

    def _settings(self) -> Json:
        return {
            "budget": self.budget_name,
            "seeds": self.seeds,
            "precision": "bf16" if self.bf16 else "fp32",
            "train_examples": len(self.train),
            "inputs": self.inputs,
            "classes": self.classes,
            "first_labels": self.train.labels[:32].tolist(),  # distinguishes data sets of the same size
        }

    def _uses_bf16(self) -> bool:
        """Whether to train in bf16: as the folder was created, on any machine, else if it is faster on this one."""
        path = self.folder / SETTINGS
        recorded = json.loads(path.read_text(encoding="utf-8")).get("precision") if path.exists() else None
        return recorded == "bf16" if recorded else not self.small_data and bf16_is_faster()

    def _claim(self) -> None:
        """ConfigError where the folder was created with other settings; only the number of seeds may grow."""
        self.folder.mkdir(parents=True, exist_ok=True)
        path, settings = self.folder / SETTINGS, self._settings()
        if path.exists():
            before = json.loads(path.read_text(encoding="utf-8"))
            for name in settings:
                if name != "seeds" and before.get(name) != settings[name]:
                    raise ConfigError(
                        f"{self.folder} was started with {name} {before.get(name)}, but this run has {settings[name]}; "
                        "pass another --output_dir, or delete that folder."
                    )
        limbeck.write_results(settings, path)  # atomically: several processes may train nets in one folder


def bf16_is_faster() -> bool:
    """Whether this machine multiplies matrices faster in bf16 than in float32: some do four times as fast, some CPUs
    emulate it forty times as slowly."""
    device = torch.accelerator.current_accelerator() or torch.device("cpu")
    seconds = {}
    for dtype in (torch.float32, torch.bfloat16):
        a, b = (torch.ones(rows, 800, dtype=dtype, device=device) for rows in (128, 800))
        for _ in range(2):  # the first call sets things up
            started = time.perf_counter()
            float((a @ b.T).sum())
            seconds[dtype] = time.perf_counter() - started
    return seconds[torch.bfloat16] < seconds[torch.float32]


def right(logits: Tensor, labels: Tensor) -> np.ndarray:
    """Whether the most probable class is the label, `[n]` bool."""
    return (logits.argmax(-1) == labels).numpy()


def row(name: str, right: Sequence[np.ndarray], paper: Any = None, **more: Any) -> Json:
    """Returns a row of the table: errors of the seeds, their mean, and its 95 % interval over examples and seeds.

    right: `[n]` bool per seed. The variance of the mean is that of examples plus that of seeds; with one seed the
    interval holds for this net only.
    """
    hits = np.stack(right)  # [seeds, n]
    errors = (~hits).sum(1)
    n, seeds = hits.shape[1], len(hits)
    spread = stats.norm.ppf(0.975) ** 2 * n * hits.mean(0).var()
    if seeds > 1:
        spread += stats.t.ppf(0.975, seeds - 1) ** 2 * errors.var(ddof=1) / seeds
    mean, half = float(errors.mean()), float(np.sqrt(spread))
    shown = {"mean": mean, "low": max(0.0, mean - half), "high": mean + half, "seeds": errors.tolist(), "of": n}
    return {"name": name, "errors": shown, "paper": paper, **more}
