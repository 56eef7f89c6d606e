"""DistillConfig: transformers' TrainingArguments with the defaults of distillation, and the settings it refuses."""

import json
from dataclasses import dataclass, field, fields

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
        try:
            super().__post_init__()
        except (ValueError, ImportError, OSError) as error:  # an option of Trainer that cannot be used here
            where = ""
            if isinstance(error, json.JSONDecodeError):
                texts = [f.name for f in fields(self) if str(getattr(self, f.name)).lstrip().startswith("{")]
                where = f" ({', '.join(texts)} must be JSON)"
            message = " ".join(str(error).split())
            raise ConfigError(
                f"transformers' Trainer cannot use these settings{where}: {message.rstrip('.')}. Change or remove them."
            ) from error
        refuse_arguments(self)
        if self.label_names is None:
            self.label_names = ["labels"]


def refuse_arguments(args: TrainingArguments) -> None:
    """Raises ConfigError for arguments of Trainer that would be ignored, or would hide what the objective is."""
    for name in ("per_device_train_batch_size", "per_device_eval_batch_size", "gradient_accumulation_steps"):
        if getattr(args, name) < 1:
            raise ConfigError(f"{name} must be 1 or more, but is {getattr(args, name)}.")
    _refuse_lengths(args)
    _refuse_rates(args)
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


def _refuse_lengths(args: TrainingArguments) -> None:
    """Raises ConfigError for lengths and intervals that Trainer would take as others, or as none."""
    if args.max_steps < -1 or args.max_steps == 0:
        raise ConfigError(
            f"max_steps must be 1 or more, or -1 for as many as num_train_epochs takes, but is {args.max_steps}."
        )
    if args.max_steps == -1 and not args.num_train_epochs > 0:
        raise ConfigError(f"num_train_epochs must be above 0, but is {args.num_train_epochs}.")
    for what in ("logging", "eval", "save"):
        steps = getattr(args, f"{what}_steps")
        if getattr(args, f"{what}_strategy") == "steps" and steps is not None and not steps > 0:
            raise ConfigError(
                f"{what}_steps must be above 0 where {what}_strategy is steps, but is {steps}: 1 or more counts steps, "
                f"a fraction below 1 is a share of the training. For none, set {what}_strategy to no."
            )
    if args.warmup_steps > 1 and args.warmup_steps != int(args.warmup_steps):
        raise ConfigError(
            f"warmup_steps must be a whole number of steps, or a fraction below 1 of the training, but is "
            f"{args.warmup_steps}."
        )
    if args.save_total_limit is not None and args.save_total_limit < 1:
        raise ConfigError(
            f"save_total_limit must be 1 or more, but is {args.save_total_limit}: omit it to keep all "
            "checkpoints, and for none set save_strategy to no."
        )
    _refuse_loading(args)
    for name in ("seed", "data_seed"):
        seed = getattr(args, name)
        if seed is not None and not 0 <= seed < 2**32:
            raise ConfigError(f"{name} must be from 0 to 2**32 - 1, but is {seed}.")


def _refuse_loading(args: TrainingArguments) -> None:
    """Raises ConfigError for settings of data loading that torch refuses later, or in a thread of its own."""
    if args.dataloader_num_workers < 0:
        raise ConfigError(f"dataloader_num_workers must be 0 or more, but is {args.dataloader_num_workers}.")
    if args.dataloader_prefetch_factor is not None and args.dataloader_prefetch_factor < 1:
        raise ConfigError(f"dataloader_prefetch_factor must be 1 or more, but is {args.dataloader_prefetch_factor}.")
    if args.dataloader_persistent_workers and not args.dataloader_num_workers:
        raise ConfigError("dataloader_persistent_workers needs dataloader_num_workers of 1 or more; remove it.")


def _refuse_rates(args: TrainingArguments) -> None:
    """Raises ConfigError for numbers of the optimizer that are negative or nan."""
    for name in ("learning_rate", "weight_decay", "max_grad_norm", "adam_epsilon"):
        value = getattr(args, name)
        if value is not None and not value >= 0:  # also nan
            raise ConfigError(f"{name} must be 0 or more, but is {value}.")
    for name in ("adam_beta1", "adam_beta2"):
        if not 0 <= getattr(args, name) < 1:
            raise ConfigError(f"{name} must be at least 0 and below 1, but is {getattr(args, name)}.")
