"""DistillTrainer: transformers' Trainer, with a teacher and an Objective in the place of the model's loss.

Trainer and Accelerate do the loops, devices, mixed precision, accumulation, logging and resuming. This file adds the
loss of a batch and its counts, and the evaluation's statistics; checkpointed.py adds checkpoints that are whole. All
that they override is listed here.

Public methods of Trainer that are overridden:
    train                       checks the settings, the sets and the first batch before the first step
    get_batch_samples           the source makes the batches of a step final before their positions are counted
    compute_loss                the objective in the place of the model's loss
    log                         adds the mean of each term
    prediction_step             returns statistics of each position in the place of logits
    save_model                  gathers the shards of a student where Trainer would write nothing
Private methods of Trainer that are overridden, on which the upper bound of transformers in pyproject.toml depends:
    _get_num_items_in_batch     Trainer counts labels; each term of the objective has its count, also in batches
                                without labels
    _run_epoch                  a resumed run that had ended takes no further step, and early stopping takes its
                                patience from the settings of this run, not from the checkpoint
    _load_from_checkpoint       weights of another model raise CheckpointError
    _issue_warnings_after_load  Trainer only warns where weights are missing or left over
    _load_best_model            a best checkpoint that was damaged is not loaded
    _save_checkpoint            the seal is written last, and older checkpoints are deleted only after it
    _save                       a student's folder as `limbeck.load` opens it, without pickled arguments
    _prepare_inputs             adds decoder_input_ids to the batches of an encoder-decoder; called before the source
                                and the counts read the batches of a step, too
Private methods of Trainer that are called as they are:
    _get_output_dir             the folder that the checkpoint to be sealed is written to

What this file does not know: how the loss is computed, what teachers and transfer sets are made of.
"""

import logging
import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from functools import partial
from itertools import islice
from pathlib import Path
from typing import Any, TypeVar

import torch
from torch import Tensor, nn
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LRScheduler
from transformers import (
    BaseImageProcessor,
    PreTrainedTokenizerBase,
    TrainerCallback,
    TrainingArguments,
    default_data_collator,
)
from transformers.trainer_utils import EvalPrediction, SaveStrategy, TrainOutput

from limbeck.errors import ConfigError, DataError, ModelError, TargetError
from limbeck.files import in_use
from limbeck.losses.linear import linear_divergence
from limbeck.losses.objective import Counts, Loss, Objective
from limbeck.losses.targets import Head, SoftTargets
from limbeck.networks.asking import Batch, logits_of, networks_of
from limbeck.networks.decoding import is_encoder_decoder, with_decoder_inputs
from limbeck.networks.halves import (
    head_of,
    is_language_model,
    require_positions,
    within_forward,
    within_whole_forward,
)
from limbeck.networks.mlp import MLP
from limbeck.networks.outputs import CLASSES
from limbeck.networks.positions import Positions, next_token_positions, next_tokens, positions_of
from limbeck.networks.processors import find_processor
from limbeck.networks.router import router_loss, router_losses
from limbeck.networks.table import require_table
from limbeck.networks.trained import note_objective
from limbeck.teachers import as_teacher
from limbeck.teachers.protocol import TeacherLike
from limbeck.training.callbacks import MaxNorm
from limbeck.training.checkpointed import CheckpointedTrainer
from limbeck.training.checkpoints import require_same_batches, require_whole
from limbeck.training.collating import AsGathered
from limbeck.training.config import DistillConfig, refuse_arguments
from limbeck.training.monitor import means_of, measured, measured_in_chunks, measured_numbers, require_metric
from limbeck.training.numbers import units_of
from limbeck.training.objectives import default_objective, require_objective_of, settled_task
from limbeck.training.plan import Plan, named_sets, plan_of_evaluation, preflight
from limbeck.training.sources import Augmented, InOrder, Source
from limbeck.transfer.text.collate import Pad
from limbeck.transfer.text.pairs import PadPairs
from limbeck.transfer.text.vocabulary import classes_to_cut_to

log = logging.getLogger("limbeck")

T = TypeVar("T")


class DistillTrainer(CheckpointedTrainer):
    """Trains a student on an Objective: towards a teacher, towards labels, or both.

    Everything else is transformers' Trainer: `train`, `evaluate`, `save_model` and its callbacks.

    Parameters
    ----------
    student
        Any nn.Module or transformers model: a classifier of images, texts, tables, tokens or pixels, with one class or
        several labels, a model for regression (`limbeck.with_task`), or a language model.
    teacher
        A network, a teacher, a classifier with predict_proba, or a function `batch -> logits [n, C]`; None for labels
        alone.
    objective
        By default soft targets at T = 2 where there is a teacher, labels where there is none; for numbers (regression)
        the squared error, or gaussian_kl or gaussian_cross_entropy where the student gives a variance.
    args
        DistillConfig, or TrainingArguments with remove_unused_columns and logging_nan_inf_filter off.
    train_dataset
        A TransferSet, or any data set of known length whose examples are dicts of tensors; labels are optional.
    eval_dataset
        The same, or a dict of several such sets by name.
    augment
        `(batch, epoch) -> batch`, one view for teacher and student; in training only.
    source
        `(batches, student, epoch) -> batches`, the batches that are trained on (limbeck.training.sources); augment is
        applied to what it returns.
    data_collator
        `examples -> batch`; by default tensors are stacked, and the rows of language models padded.
    processing_class
        The student's tokenizer or image processor, saved with it.
    callbacks
        transformers' TrainerCallbacks.
    teacher_tokenizer
        The tokenizer of a language model's teacher, which must be the student's. Output layers that are padded to more
        classes than it has tokens are cut to these. Not needed where both layers have as many classes.
    impl
        The implementation of linear_divergence that language models are trained with; "reference" makes all logits.
    optimizers
        An optimizer and a learning rate scheduler in the place of those of args.

    Raises
    ------
    LimbeckError
        In `train`, before the first step, where student, teacher, objective and data do not fit together.

    Examples
    --------
    A linear student learns the distributions of a teacher, without labels:

    >>> import tempfile, torch
    >>> from limbeck import DistillConfig, DistillTrainer, Objective, arrays
    >>> _ = torch.manual_seed(0)
    >>> inputs = torch.randn(64, 4)
    >>> teacher, student = torch.nn.Linear(4, 3), torch.nn.Linear(4, 3)
    >>> folder = tempfile.TemporaryDirectory()
    >>> args = DistillConfig(folder.name, max_steps=160, learning_rate=0.05, disable_tqdm=True)
    >>> data = arrays(inputs)
    >>> trainer = DistillTrainer(
    ...     student, teacher, Objective(temperature=2.0), args, train_dataset=data, eval_dataset=data
    ... )
    >>> _ = trainer.train()  # doctest: +ELLIPSIS
    {'train_runtime': ...}
    >>> means = trainer.evaluate()  # doctest: +ELLIPSIS
    {'eval_...}
    >>> means["eval_forward_kl"] < 1e-4, means["eval_agreement"]
    (True, 1.0)
    >>> folder.cleanup()
    """

    def __init__(
        self,
        student: nn.Module,
        teacher: TeacherLike | None = None,
        objective: Objective | None = None,
        args: TrainingArguments | None = None,
        *,
        train_dataset: Any = None,
        eval_dataset: Any = None,
        augment: Callable[[Batch, int], Batch] | None = None,
        source: Source | None = None,
        data_collator: Callable[[Any], Batch] | None = None,
        processing_class: PreTrainedTokenizerBase | BaseImageProcessor | None = None,
        callbacks: Sequence[TrainerCallback] = (),
        teacher_tokenizer: PreTrainedTokenizerBase | None = None,
        impl: str = "auto",
        optimizers: tuple[Optimizer | None, LRScheduler | None] = (None, None),
    ):
        refuse_arguments(args := args or DistillConfig())
        self.teacher = None if teacher is None else as_teacher(teacher)
        classes = classes_to_cut_to(processing_class, teacher_tokenizer, option="processing_class")
        if classes is not None:
            self.teacher = None if self.teacher is None else self.teacher.cut(classes)
        task = None
        if not is_language_model(student):
            task = settled_task(student, self.teacher, train_dataset if train_dataset is not None else eval_dataset)
        self.objective = objective or default_objective(task, self.teacher)
        require_objective_of(self.objective, task, self.teacher)
        self.impl = impl
        self.teacher_passes = self.teacher is not None and self.objective.soft_weight > 0
        if self.objective.soft_weight and self.teacher is None:
            raise ConfigError("The objective has a soft_weight but there is no teacher; pass one, or soft_weight=0.")
        answering = self.teacher if self.teacher_passes else None
        if augment is not None and answering is not None and answering.one_view:
            raise ConfigError(
                "The targets of a recorded or stored teacher are those of the examples as they are, and wrong for an "
                "augmented view; remove augment (--jitter), label augmented views (limbeck.label, or limbeck label "
                "--jitter), or train with the live teacher."
            )
        if source is not None and answering is not None and (answering.one_view or answering.in_batch):
            raise ConfigError(
                "The targets of a recorded or stored teacher hold for the examples that it was given, and a "
                "source may change those; remove source, or train with the live teacher."
            )
        if answering is not None:
            sets = named_sets(train_dataset, eval_dataset)
            stored_classes, augment = answering.prepare(sets, processing_class, augment)
            classes = stored_classes or classes
        examples = train_dataset if train_dataset is not None else eval_dataset
        find_processor(student, examples, "student")
        require_table(student, examples, "student")
        for network in networks_of(answering) or []:
            find_processor(network, examples, "teacher")
            require_table(network, examples, "teacher")
        augmented = None if augment is None else Augmented(augment)
        self.source = InOrder(tuple(stage for stage in (source, augmented) if stage is not None))
        constraint = student.max_norm if isinstance(student, MLP) else None
        extra = [MaxNorm(constraint)] if constraint else []
        self.plan = Plan(next_tokens=task is None, classes=classes, task=task or CLASSES)
        self.units = units_of(task, train_dataset) if task is not None and task.is_regression else None
        if data_collator is None and self.plan.next_tokens:
            data_collator = (
                PadPairs(0) if is_encoder_decoder(student) else Pad(0)
            )  # any token will do: padding is masked
        super().__init__(
            model=student,
            args=args,
            data_collator=AsGathered(data_collator or default_data_collator),
            train_dataset=train_dataset,
            eval_dataset=eval_dataset,
            processing_class=processing_class,
            compute_metrics=self._summarise,
            callbacks=[*callbacks, *extra],
            optimizers=optimizers,
        )
        self.model_accepts_loss_kwargs = True  # compute_loss divides by the global counts itself
        if not self.is_deepspeed_enabled:  # transformers 5.2 also has accelerate divide each loss by the accumulation
            self.accelerator.gradient_accumulation_steps = 1
        if self.teacher is not None:
            self.teacher.to(self.args.device)
        self._resumed_with: list[int] = []  # patience of each EarlyStoppingCallback, which a checkpoint brings too
        if self.plan.next_tokens and args.n_gpu > 1:
            raise ConfigError(
                f"One process has {args.n_gpu} GPUs, and language models are trained with one process per GPU; start "
                "with torchrun or accelerate launch, or show it one GPU."
            )
        self._forget()

    def train(self, resume_from_checkpoint: str | bool | None = None, **kwargs: Any) -> TrainOutput:
        """Trains, after all settings and labels and the first batch have been checked.

        resume_from_checkpoint: a checkpoint's folder, or True for the newest whole one in output_dir. ConfigError where
        it was written with another number of examples per step, whatever the parts that it is made of, and where
        another process writes to output_dir. DivergedError where training ends, or is about to write a checkpoint, with
        weights of nan or infinity.
        """
        writes = self.args.should_save and self.args.save_strategy != SaveStrategy.NO
        with in_use(str(self.args.output_dir)) if writes else nullcontext():
            return self._train(resume_from_checkpoint, **kwargs)

    def _train(self, resume_from_checkpoint: str | bool | None, **kwargs: Any) -> TrainOutput:
        if resume_from_checkpoint is True:
            resume_from_checkpoint = str(self.last_checkpoint())
        elif resume_from_checkpoint:
            resume_from_checkpoint = str(require_whole(resume_from_checkpoint))
        elif any(Path(str(self.args.output_dir)).glob("checkpoint-*")):
            log.warning("%s holds checkpoints of an earlier run; resuming may find those.", self.args.output_dir)
        self._forget()
        self.check()
        if resume_from_checkpoint:
            require_same_batches(Path(resume_from_checkpoint), self._batches())
            self._resumed_with = [callback.early_stopping_patience for callback in self._early_stopping()]
        note_objective(self.model, self.objective)  # for the results of an evaluation
        done = super().train(resume_from_checkpoint=resume_from_checkpoint, **kwargs)
        self._raise_bad_targets()
        self._require_finite_weights()
        return done

    def check(self) -> None:
        """Checks that student, teacher, objective and sets fit together, and makes the plan; `train` calls it.

        Raises a LimbeckError before any step is taken.
        """
        if not hasattr(self.train_dataset, "__len__"):
            raise DataError(
                "Training needs a train_dataset whose length is known, such as a TransferSet, but got "
                f"{type(self.train_dataset).__name__}."
            )
        several = self.eval_dataset if isinstance(self.eval_dataset, Mapping) else {}
        require_metric(self.args, self.objective, several)
        self.plan = preflight(
            self.model,
            self.teacher if self.teacher_passes else None,
            self.objective,
            named_sets(self.train_dataset, self.eval_dataset),
            self._first_batch,
            self.plan,
        )

    def _first_batch(self, name: str) -> Batch:
        """The first batch of a set with anything to learn, as training (through the source) or an evaluation has it.

        name: of the set, as `named_sets` returns it.
        """
        examples = named_sets(self.train_dataset, self.eval_dataset)[name]
        size = self.args.train_batch_size if name == "transfer" else self.args.eval_batch_size
        gather = getattr(examples, "__getitems__", lambda rows: [examples[i] for i in rows])
        batch: Batch = {}
        for start in range(0, len(examples), size):
            rows = list(range(start, min(start + size, len(examples))))
            batch = self._prepare_inputs(self.data_collator(gather(rows)))
            if not self.plan.next_tokens or "labels" not in batch or len(next_tokens(batch).rows):
                break  # a batch without a token to predict, as of texts that were cut, tells nothing
        if name == "transfer":
            with torch.random.fork_rng():
                (batch,) = self.source([batch], self.model, 0)
        return batch

    def _forget(self) -> None:
        """Clears what is collected between logs, so that a second training begins as the first did."""
        self._logged: dict[str, Tensor] = {}  # part -> (sum, count) since the last log, on the device
        self._first_bad_row = torch.tensor(-1, device=self.args.device)
        self._counted: list[tuple[Batch, Positions]] = []  # the batches of this step and their positions

    def compute_loss(
        self,
        model: nn.Module,
        inputs: Batch,
        return_outputs: bool = False,
        num_items_in_batch: Tensor | None = None,
    ) -> Tensor | tuple[Tensor, dict[str, Tensor | None]]:
        """This batch's share of the loss of the global batch."""
        counts = None if num_items_in_batch is None else self._named(num_items_in_batch)
        logits = None
        if self.plan.in_halves:
            loss = self._without_logits(
                model, inputs, partial(self._loss_of_states, counts), self.plan.router_weight > 0
            )
        else:
            with self._router_losses(model) as found:
                logits, positions = self._ask_student(model, inputs)
            targets = self._ask_teacher(inputs, positions)
            outputs, targets, labels = self._in_units(logits, targets, positions.labels)
            loss = self.objective(
                outputs, targets, labels, mask=positions.mask, weights=positions.weights, counts=counts
            )
            if found:
                loss = self._with_router(loss, found[-1], positions, counts)
        for name, part in loss.parts.items():
            self._logged[name] = self._logged.get(name, 0) + torch.stack([part.sum, part.count])
        share = loss.mean
        if num_items_in_batch is not None and self.args.average_tokens_across_devices:
            share = share * self.accelerator.num_processes  # DDP takes the mean over processes of what is a sum
        return (share, {"logits": logits}) if return_outputs else share

    def _ask_student(self, model: nn.Module, inputs: Batch) -> tuple[Tensor, Positions]:
        """The logits at the positions, `[*shape, C]`."""
        logits = logits_of(model, inputs)
        if torch.is_grad_enabled() and not logits.requires_grad:
            raise ModelError(
                f"The student's logits (of {type(model).__name__}) have no gradient, so nothing could be learned; its "
                "forward must compute them from its weights, in floating point and without detach or no_grad."
            )
        if not self.plan.next_tokens:
            return logits, self._positions(inputs, logits.ndim - 1)
        positions = self._positions(inputs, 1)
        return require_positions(logits, inputs, "student")[positions.rows, : self.plan.classes], positions

    def _in_units(
        self, logits: Tensor, targets: SoftTargets | None, labels: Tensor | None
    ) -> tuple[Tensor, SoftTargets | None, Tensor | None]:
        """Student, teacher and labels in the standard units of regression; of classes, as they are."""
        if self.units is None:
            return logits, targets, labels
        return self.units.of_values(logits), self.units.of_targets(targets), self.units.of_labels(labels)

    def _router_losses(self, model: nn.Module) -> AbstractContextManager[list[Tensor]]:
        """The auxiliary losses of the student's passes within a block; none where they are not added."""
        if not self.plan.router_weight:
            return nullcontext([])
        return router_losses(self.accelerator.unwrap_model(model, keep_torch_compile=False))

    def _with_router(self, loss: Loss, value: Tensor, positions: Positions, counts: Counts | None) -> Loss:
        """The loss with the auxiliary loss of the student's routers, a scalar `value` of this batch."""
        here = positions.counts()["soft"]  # every position
        total = here if counts is None else counts["soft"]
        return loss.with_batch_term("router", self.plan.router_weight, value, here, total)

    def _without_logits(self, model: nn.Module, inputs: Batch, then: Callable[..., T], router: bool = False) -> T:
        """Returns `then(hidden, head, targets, positions)` for a language model, without the logits of a whole batch.

        hidden: the last states at the positions, `[n, H]`.
        router: whether `then` has `router=` too, the auxiliary loss of the student's routers.
        """
        positions = self._positions(inputs, 1)
        targets = self._ask_teacher(inputs, positions)
        student = self.accelerator.unwrap_model(model, keep_torch_compile=False)

        def read(hidden: Tensor, **more: Tensor | None) -> T:
            head = head_of(student)
            assert head is not None  # as logits_are_heads has checked
            head = head if self.plan.classes is None else head.first(self.plan.classes)
            return then(require_positions(hidden, inputs, "student")[positions.rows], head, targets, positions, **more)

        with self.accelerator.autocast():
            if router:
                return within_whole_forward(
                    model, student, inputs, lambda hidden, output: read(hidden, router=router_loss(output))
                )
            return within_forward(model, student, inputs, read)

    def _loss_of_states(
        self,
        counts: Counts | None,
        hidden: Tensor,
        head: Head,
        targets: SoftTargets | None,
        positions: Positions,
        router: Tensor | None = None,
    ) -> Loss:
        loss = linear_divergence(
            hidden,
            head,
            targets,
            self.objective,
            positions.labels,
            weights=positions.weights,
            counts=counts,
            impl=self.impl,
        )
        return loss if router is None else self._with_router(loss, router, positions, counts)

    def _measured_of_states(
        self, hidden: Tensor, head: Head, targets: SoftTargets | None, positions: Positions
    ) -> tuple[Positions, dict[str, Tensor]]:
        assert positions.labels is not None  # each is of a next token
        return positions, measured_in_chunks(self.objective, hidden, head, targets, positions.labels)

    def _ask_teacher(self, inputs: Batch, positions: Positions) -> SoftTargets | None:
        """The teacher's targets at the positions; None where the objective uses no teacher."""
        if self.teacher is None or not self.teacher_passes:
            return None
        with self.accelerator.autocast():
            targets = self.teacher(inputs, positions)
        bad = positions.compared(targets.bad_rows(self.objective.divergence))
        found = torch.where(bad.any(), positions.row_ids(inputs)[bad.int().argmax()], -1) if len(bad) else -1
        self._first_bad_row = torch.where(self._first_bad_row < 0, found, self._first_bad_row)
        return targets

    def _raise_bad_targets(self) -> None:
        row = int(self._first_bad_row)
        if row >= 0:
            raise TargetError(
                f"The teacher gave nan, infinity or an impossible distribution for the example with row_id {row}; "
                "look at that example, or at the teacher's dtype. The last checkpoint was written before."
            )

    def _prepare_inputs(self, inputs: Batch) -> Batch:
        """The batch on the device; for an encoder-decoder with `decoder_input_ids`, made of its labels."""
        batch: Batch = super()._prepare_inputs(inputs)
        return with_decoder_inputs(self.accelerator.unwrap_model(self.model), batch) if self.plan.next_tokens else batch

    def get_batch_samples(
        self, epoch_iterator: Iterator[Batch], num_batches: int, device: torch.device
    ) -> tuple[list[Batch], Tensor | None]:
        """The batches of one optimizer step as the source returns them, and their counts."""
        batches = [self._prepare_inputs(batch) for batch in islice(epoch_iterator, num_batches)]
        with self.compute_loss_context_manager():
            batches = self.source(batches, self.model, int(self.state.epoch or 0))
        self._counted = [(batch, self._new_positions(batch, self.plan.position_axes)) for batch in batches]
        return batches, self._get_num_items_in_batch(batches, device)

    def _get_num_items_in_batch(self, batch_samples: list[Batch], device: torch.device) -> Tensor | None:
        """The count of each of the objective's terms over the global batch, also where there are no labels."""
        if not batch_samples:
            return None
        terms = self.objective.all_terms
        each = [self._positions(batch, self.plan.position_axes).counts(terms) for batch in batch_samples]
        counts = torch.stack([torch.stack(list(c.values())) for c in each]).sum(0).to(device)
        if self.args.average_tokens_across_devices and self.args.world_size > 1:
            counts = self.accelerator.gather(counts).view(-1, len(terms)).sum(0)
        return counts

    def _named(self, counts: Tensor) -> Counts:
        """The counts that `_get_num_items_in_batch` stacked, by the terms' names."""
        names = [term.name for term in self.objective.all_terms]
        return Counts(**dict(zip(names, counts, strict=True)))

    def _positions(self, batch: Batch, axes: int) -> Positions:
        """The positions that were counted, for a batch of the current step; for any other batch, new ones.

        Trainer passes on copies of a step's batches. They hold the same tensors, but for floating-point ones, which
        DeepSpeed casts.
        """
        for counted, positions in self._counted:
            columns = [n for n, v in counted.items() if isinstance(v, Tensor) and not v.is_floating_point()]
            same = columns and all(batch.get(name) is counted[name] for name in columns)
            if same and len(positions.shape) == axes:
                return positions
        return self._new_positions(batch, axes)

    def _new_positions(self, batch: Batch, axes: int) -> Positions:
        return next_token_positions(batch) if self.plan.next_tokens else positions_of(batch, axes, self.plan.task)

    def log(self, logs: dict[str, float], start_time: float | None = None) -> None:
        """Adds each term, averaged over the positions that have it since the last log, to the training loss."""
        self._raise_bad_targets()
        if "loss" in logs:
            for name, part in self._logged.items():
                total, count = self.accelerator.reduce(part, "sum").tolist()
                logs[f"{name}_loss"] = total / count if count else math.nan
            self._logged = {}
        super().log(logs, start_time)

    def prediction_step(
        self, model: nn.Module, inputs: Batch, prediction_loss_only: bool, ignore_keys: list[str] | None = None
    ) -> tuple[None, Tensor, Tensor]:
        """m statistics of each position in the place of logits, `[n, L, m]`, L = 1 for whole examples."""
        inputs = self._prepare_inputs(inputs)
        with torch.no_grad(), self.compute_loss_context_manager():
            if self.plan.next_tokens and not self.plan.checked:  # an evaluation before training
                student = self.accelerator.unwrap_model(model)
                self.plan = plan_of_evaluation(
                    student, self.teacher if self.teacher_passes else None, inputs, self.plan
                )
            if self.plan.in_halves:
                positions, columns = self._without_logits(model, inputs, self._measured_of_states)
            else:
                logits, positions = self._ask_student(model, inputs)
                targets = self._ask_teacher(inputs, positions)
                logits, targets, labels = self._in_units(logits, targets, positions.labels)
                labels = None if labels is None else labels.reshape(-1)
                statistics = measured if self.units is None else measured_numbers
                columns = statistics(self.objective, logits.reshape(-1, logits.shape[-1]), targets, labels)
        columns["weight"] = positions.weight()
        self._columns = list(columns)
        stacked = positions.in_batch(
            torch.stack([values.float().reshape(-1) for values in columns.values()], -1), inputs
        )
        return None, stacked, stacked[..., :0]

    def _summarise(self, prediction: EvalPrediction) -> dict[str, float]:
        """The mean of each statistic over the positions that have it, and the objective's value."""
        rows = torch.as_tensor(prediction.predictions).flatten(0, 1).double()
        return means_of(self.objective, dict(zip(self._columns, rows.unbind(-1), strict=True)))

    def _save_checkpoint(self, model: nn.Module, trial: Any) -> None:
        """A sealed checkpoint, unless the teacher has given rows that are no distributions since the last log."""
        self._raise_bad_targets()
        super()._save_checkpoint(model, trial)
