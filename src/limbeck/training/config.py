"""DistillConfig: transformers' TrainingArguments with the defaults of distillation, and the settings it refuses."""

from dataclasses import dataclass, field

import torch
from transformers import TrainingArguments

from limbeck.errors import ConfigError


@dataclass
class DistillConfig(TrainingArguments):
    """transformers.TrainingArguments with the defaults that distillation needs.

    A loss of nan is logged as nan, no column of a batch is thrown away, early stopping goes on counting where a
    checkpoint left off, and nothing is reported elsewhere unless `report_to` asks for it.
    """

    output_dir: str | None = "runs/student"
    logging_nan_inf_filter: bool = False
    remove_unused_columns: bool | None = False
    report_to: str | list[str] | None = "none"
    restore_callback_states_from_checkpoint: bool = True
    dataloader_pin_memory: bool = field(default_factory=torch.accelerator.is_available)
    label_names: list[str] | None = None

    def __post_init__(self) -> None:
        if not torch.accelerator.is_available():
            self.use_cpu = True  # Trainer accepts bf16 on a CPU only with use_cpu
        super().__post_init__()
        refuse_arguments(self)
        if self.label_names is None:
            self.label_names = ["labels"]


def refuse_arguments(args: TrainingArguments) -> None:
    """Raises ConfigError for arguments of Trainer that would be ignored, or would hide what the objective is."""
    for name in ("per_device_train_batch_size", "per_device_eval_batch_size", "gradient_accumulation_steps"):
        if getattr(args, name) < 1:
            raise ConfigError(f"{name} must be 1 or more, but is {getattr(args, name)}.")
    if args.logging_nan_inf_filter:
        raise ConfigError("logging_nan_inf_filter hides a loss of nan behind an average; set it to False.")
    if args.remove_unused_columns:
        raise ConfigError("remove_unused_columns throws away what teachers read; set it to False.")
    if args.label_smoothing_factor:
        raise ConfigError(
            "label_smoothing_factor is not part of an Objective and would be ignored; leave it at 0. A soft_weight "
            "and a teacher say more than smoothed labels."
        )
    if args.batch_eval_metrics or not args.eval_do_concat_batches:
        raise ConfigError(
            "batch_eval_metrics and eval_do_concat_batches=False are for user-defined metrics, which need the logits; "
            "an evaluation collects only statistics of each position. Remove them."
        )
