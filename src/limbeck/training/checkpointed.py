"""transformers' Trainer with checkpoints that are whole or absent, and know the batches that they were trained on.

The docstring of trainer.py lists the methods of Trainer that are overridden here, with the reasons.

What this file does not know: teachers, objectives, losses.
"""

import logging
import shutil
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from torch import nn
from transformers import EarlyStoppingCallback, Trainer

from limbeck.errors import CheckpointError, DivergedError
from limbeck.networks.folder import write_model
from limbeck.training.checkpoints import fault, newest_whole, rotate, seal
from limbeck.training.outcome import broken_tensors, in_words

log = logging.getLogger("limbeck")


class CheckpointedTrainer(Trainer):
    """A Trainer that seals its checkpoints, skips damaged ones, and writes students as `limbeck.load` opens them."""

    _resumed_with: list[int]
    """The patience of early stopping in this run, where it resumes a checkpoint that may have another one."""

    def last_checkpoint(self) -> Path:
        """The newest whole checkpoint in output_dir; newer ones that are not whole are skipped with a warning."""
        newest, skipped = newest_whole(str(self.args.output_dir))
        for checkpoint, wrong in skipped.items():
            log.warning("%s is skipped: %s.", checkpoint, wrong)
        if newest is None:
            raise CheckpointError(f"{self.args.output_dir} holds no complete checkpoint; train without resuming.")
        if skipped:
            log.warning("Resuming from %s.", newest)
        return newest

    def _require_finite_weights(self) -> None:
        """DivergedError, in every process, where the weights of one of them are not finite."""
        broken = broken_tensors(self.accelerator.unwrap_model(self.model, keep_torch_compile=False))
        count = torch.tensor(float(len(broken)), device=self.args.device)
        if self.accelerator.reduce(count, "sum") > 0:
            step, rate = self.state.global_step, self.args.learning_rate
            raise DivergedError(in_words(broken, self.state.log_history, step, rate))

    def _batches(self) -> dict[str, Any]:
        """What decides which examples a step takes, by the names that a seal has for it."""
        seed = self.args.seed if self.args.data_seed is None else self.args.data_seed
        return {
            "examples_per_step": self.get_total_train_batch_size(self.args),
            "examples": len(self.train_dataset),
            "order_seed": seed,
            "sampling": str(getattr(self.args, "train_sampling_strategy", "random")),
            "drop_last": self.args.dataloader_drop_last,
        }

    def _run_epoch(self, *given: Any, **named: Any) -> None:
        """Takes no further step of a run that has ended; Trainer would take at least one when it resumes it."""
        resumed, self._resumed_with = self._resumed_with, []
        for callback, patience in zip(self._early_stopping(), resumed, strict=False):
            callback.early_stopping_patience = patience  # of this run: the checkpoint's may differ
            self.control.should_training_stop |= callback.early_stopping_patience_counter >= patience
        if self.state.global_step > self.state.max_steps:
            log.warning(
                "The checkpoint has taken %d steps and %d are wanted: there is nothing left to train.",
                self.state.global_step,
                self.state.max_steps,
            )
        if self.state.global_step >= self.state.max_steps:
            self.control.should_training_stop = True
        if not self.control.should_training_stop:
            super()._run_epoch(*given, **named)

    def _early_stopping(self) -> list[EarlyStoppingCallback]:
        return [callback for callback in self.callback_handler.callbacks if isinstance(callback, EarlyStoppingCallback)]

    def _load_from_checkpoint(self, resume_from_checkpoint: str, model: nn.Module | None = None) -> None:
        """Loads the weights of a checkpoint; CheckpointError unless they are those of this student."""
        try:
            super()._load_from_checkpoint(resume_from_checkpoint, model)
        except (RuntimeError, SafetensorError) as error:
            raise CheckpointError(
                f"{resume_from_checkpoint} does not hold this student: {error}. Resume with the student that the run "
                "began with, or train without resuming."
            ) from error

    def _load_best_model(self) -> None:
        """The weights of the best checkpoint; those of the last step, with a warning, where that was damaged."""
        best = str(self.state.best_model_checkpoint)
        wrong = fault(best)
        if wrong is None:
            super()._load_best_model()
        else:
            log.warning("The best checkpoint, %s, is damaged: %s. The student is that of the last step.", best, wrong)

    def _issue_warnings_after_load(self, load_result: Any) -> None:
        """RuntimeError for weights that were missing or left over, except those tied to a weight that was loaded."""
        weights = self.model.state_dict()
        missing = set(load_result.missing_keys)
        loaded = {weights[name].data_ptr() for name in weights.keys() - missing}
        wrong = [name for name in missing if weights[name].data_ptr() not in loaded] + load_result.unexpected_keys
        if wrong:
            raise RuntimeError(f"{', '.join(sorted(wrong)[:3])} are not the same weights ({len(wrong)} in all)")

    def _save_checkpoint(self, model: nn.Module, trial: Any) -> None:
        """Trainer's checkpoint, sealed once it is whole; older ones are deleted only after that."""
        self._require_finite_weights()  # or it would push out those that are
        run = self._get_output_dir(trial=trial)
        checkpoint = Path(run) / f"checkpoint-{self.state.global_step}"
        if self.args.should_save:
            shutil.rmtree(checkpoint, ignore_errors=True)  # may hold files of an earlier run
        self.accelerator.wait_for_everyone()
        limit, self.args.save_total_limit = self.args.save_total_limit, None
        try:
            super()._save_checkpoint(model, trial)
        finally:
            self.args.save_total_limit = limit
        self.accelerator.wait_for_everyone()
        if self.args.should_save:
            seal(checkpoint, self._batches())
            best = self.state.best_model_checkpoint
            rotate(run, limit, [checkpoint, best] if best else [checkpoint])

    def save_model(self, output_dir: str | None = None, _internal_call: bool = False) -> None:
        """Writes the student as a whole; every process calls it, and the first one writes."""
        in_shards = self.is_fsdp_enabled and "FULL" not in str(self.accelerator.state.fsdp_plugin.state_dict_type)
        if in_shards and not _internal_call:  # as checkpoints are, and where Trainer writes nothing
            self._save(output_dir, state_dict=self.accelerator.get_state_dict(self.model))
        super().save_model(output_dir, _internal_call)

    def _save(self, output_dir: str | None = None, state_dict: dict[str, Any] | None = None) -> None:
        """Writes the student's folder as `limbeck.load` opens it, without pickled arguments.

        state_dict: the whole weights, where this process holds only shards of them (FSDP, DeepSpeed's ZeRO-3).
        """
        if self.args.should_save:
            folder = Path(output_dir or str(self.args.output_dir))
            folder.mkdir(parents=True, exist_ok=True)
            names = getattr(self.train_dataset, "label_names", None)
            student = self.accelerator.unwrap_model(self.model)
            write_model(student, folder, label_names=names, tokenizer=self.processing_class, weights=state_dict or None)
