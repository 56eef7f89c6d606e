"""Training: DistillTrainer, its settings, the checks before a run and the statistics during one."""
