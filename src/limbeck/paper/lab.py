"""The bench on which every experiment of the paper stands: data, nets, one training at a time, kept.

    lab = Lab(splits, "runs/paper/mnist-quick", budget="quick", seeds=3)
    net = lab.fit("baseline-0", lambda: lab.small(), ON_LABELS, seed=0)     # trained once, then read from the folder
    lab.right(net)                                                           # [n] bool on the test set

What this file does not know: any experiment.
"""

import json
import shutil
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from scipy import stats
from torch import Tensor, nn
from transformers import PrinterCallback

import limbeck
from limbeck import ConfigError, DataError
from limbeck.results import PAPER, header

ON_LABELS = limbeck.Objective(soft_weight=0.0, hard_weight=1.0)

SETTINGS = "settings.json"


@dataclass(frozen=True)
class Budget:
    """How long is trained: epochs of a regularised teacher and of a student, over the whole training set."""

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

    splits: "train" and "test" TransferSets of labelled images.
    folder: where nets are kept, for all experiments that are run there, and the results of each in a folder of its
        own. Settings other than the ones it was begun with are refused.
    budget: "quick" or "full"; sets of fewer than 5,000 images, as the digits, are small enough for one of their own.
    seeds: how many times each student is trained.
    say: called with a line of text at each step.
    """

    def __init__(
        self,
        splits: Mapping[str, Any],
        folder: str | Path,
        *,
        budget: str = "quick",
        seeds: int = 3,
        say: Callable[[str], None] = print,
    ):
        if missing := {"train", "test"} - set(splits):
            raise DataError(f"The paper's experiments need splits train and test, but {sorted(missing)} is missing.")
        if seeds < 1:
            raise ConfigError(f"--seeds must be 1 or more, but is {seeds}.")
        self.train, self.test = splits["train"], splits["test"]
        for name in ("train", "test"):
            if splits[name].labels is None:
                raise DataError(f"The paper's experiments count errors, but the {name} split has no labels.")
        self.small_data = len(self.train) < 5000
        self.budget_name, self.budget = budget, BUDGETS["digits" if self.small_data else budget]
        self.seeds, self.say, self.folder = seeds, say, Path(folder)
        self.bf16 = self._begun_in_bf16()
        self.inputs = self.train[0]["inputs"].numel()
        self.classes = int(self.train.num_classes)
        self._claim()

    def net(self, *hidden: int, **regularisation: Any) -> nn.Module:
        """An MLP from pixels to classes."""
        return limbeck.mlp([self.inputs, *hidden, self.classes], **regularisation)

    def big(self) -> nn.Module:
        """The paper's teacher: 1200-1200, dropout and weight constraints (on small data 300-300).

        The paper does not say how much dropout; over so few epochs a quarter of the hidden units served best.
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
        recipe: dict[str, Any] = {
            "epochs": self.budget.teacher_epochs,
            "learning_rate": self.budget.teacher_rate,
            "weight_decay": 0.1,
        }
        return self.fit("teacher", self.big, ON_LABELS, augment=jitter, **recipe)

    def fit(
        self,
        name: str,
        make: Callable[[], nn.Module],
        objective: limbeck.Objective,
        *,
        teacher: Any = None,
        transfer_set: Any = None,
        epochs: float | None = None,
        seed: int = 0,
        augment: Any = None,
        eval_dataset: Any = None,
        callbacks: Sequence[Any] = (),
        **config: Any,
    ) -> nn.Module:
        """The net of this name: read from the folder if it was trained before, else trained and kept there.

        make: the untrained net, called after the seed is set. epochs: over `transfer_set`, by default the
            student's budget of the whole training set in steps, so that a smaller set is not trained for less.
        config: further fields of DistillConfig.
        """
        kept = self.folder / "nets" / name
        if kept.is_dir():
            return limbeck.load(kept)
        self.say(f"training {name}")
        examples = self.train if transfer_set is None else transfer_set
        torch.manual_seed(seed)
        net = make()
        steps_per_epoch = -(-len(self.train) // BATCH)
        checkpoints = self.folder / "checkpoints" / name
        settings: dict[str, Any] = {
            "max_steps": round((epochs or self.budget.student_epochs) * steps_per_epoch),
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
            limbeck.DistillConfig(str(checkpoints), **(settings | config)),
            train_dataset=examples,
            eval_dataset=eval_dataset,
            augment=augment,
            callbacks=list(callbacks),
        )
        trainer.remove_callback(PrinterCallback)
        trainer.train(resume_from_checkpoint=any(checkpoints.glob("checkpoint-*")) or None)
        limbeck.save(net, kept)
        shutil.rmtree(checkpoints, ignore_errors=True)
        return net.eval()

    def logits(self, net: Any, examples: Any = None) -> Tensor:
        """What a net says about every example, `[n, C]`; the test set by default."""
        examples = self.test if examples is None else examples
        said = limbeck.record(net, examples).targets
        logits: Tensor = said.logits if hasattr(said, "logits") else said.all_log_probs(1.0)
        return logits

    def right(self, net: Any, examples: Any = None) -> np.ndarray:
        """Whether a net, or a teacher, is right about each example, `[n]` bool; the test set by default."""
        examples = self.test if examples is None else examples
        return right(self.logits(net, examples), examples.labels)

    def write(self, experiment: str, rows: list[dict[str, Any]], **more: Any) -> dict[str, Any]:
        """The results: a row per line of the table; written to the experiment's results.json and returned."""
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

    def _settings(self) -> dict[str, Any]:
        return {
            "budget": self.budget_name,
            "seeds": self.seeds,
            "precision": "bf16" if self.bf16 else "fp32",
            "train_examples": len(self.train),
            "inputs": self.inputs,
            "classes": self.classes,
            "first_labels": self.train.labels[:32].tolist(),  # tells one data set of a size from another
        }

    def _begun_in_bf16(self) -> bool:
        """As the folder was begun, on whatever machine; else as is faster here."""
        path = self.folder / SETTINGS
        begun = json.loads(path.read_text(encoding="utf-8")).get("precision") if path.exists() else None
        return begun == "bf16" if begun else not self.small_data and bf16_is_faster()

    def _claim(self) -> None:
        """More seeds may be asked of the same folder; anything else that differs would mix two experiments."""
        self.folder.mkdir(parents=True, exist_ok=True)
        path, settings = self.folder / SETTINGS, self._settings()
        if path.exists():
            before = json.loads(path.read_text(encoding="utf-8"))
            for name in settings:
                if name != "seeds" and before.get(name) != settings[name]:
                    raise ConfigError(
                        f"{self.folder} was begun with {name} {before.get(name)}, and this is {settings[name]}; give "
                        "another --output_dir, or delete that folder."
                    )
        limbeck.write_results(settings, path)  # whole: several processes may train nets in one folder


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


def row(name: str, right: Sequence[np.ndarray], paper: Any = None, **more: Any) -> dict[str, Any]:
    """A line of the table: errors of the seeds, their mean, and its 95 % interval over examples and seeds.

    right: `[n]` bool per seed. The variance of the mean is that of examples plus that of seeds; with one seed the
    interval speaks of this net only.
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
