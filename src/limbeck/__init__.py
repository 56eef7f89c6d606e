"""Limbeck: knowledge distillation, from Hinton's classifier with a temperature to language models.

    import limbeck

    train, test = limbeck.digits().split(0.2, seed=0)
    teacher = limbeck.load("runs/teacher")     # a network; or a scikit-learn classifier or a function
    student = limbeck.mlp([64, 30, 10])
    config = limbeck.DistillConfig("runs/student", max_steps=500)
    objective = limbeck.Objective(limbeck.forward_kl, temperature=2.0, hard_weight=0.1)
    limbeck.DistillTrainer(student, teacher, objective, config, train_dataset=train).train()
    results = limbeck.evaluate(student, test, teacher=teacher)

The public names, by theme; `help(limbeck.table)` and so on describe each. The command is `limbeck --help`.

data        table arrays digits idx TransferSet: examples as tensors, from files, DataFrames, arrays or images
            jitter augmentation: the same change for teacher and student
text        tokenise pack Pad: records of text, prompts and conversations as rows of token ids
teachers    Teacher ModelTeacher FunctionTeacher Ensemble Specialist Specialists WithoutAdapter record
students    mlp take_layers TableEncoder load save
            Task with_task logits_of: what outputs mean, and the logits or numbers of a batch
objective   Objective Loss linear_divergence: divergence from the teacher plus cross-entropy with labels
            Divergence forward_kl reverse_kl cross_entropy jensen_shannon skewed_kl skewed_reverse_kl total_variation
            logit_matching: how two distributions are compared
            squared_error gaussian_kl gaussian_cross_entropy: how two numbers are compared
targets     SoftTargets DenseTargets HiddenTargets Head MixedTargets SampledTargets SparseTargets GaussianTargets: what
            teachers return
training    DistillTrainer DistillConfig MaxNorm: transformers' Trainer, with an objective
            tune: chooses the temperature and the weight of the labels on held-out examples
storing     label open_stored Labelled StoredTeacher verify: a teacher's targets on disk, for any number of students
measuring   evaluate evaluate_language predict compare write_results read_results write_report
            match_prior shift_bias: the class prior of a classifier, changed without labels
export      export_onnx
errors      LimbeckError and what derives from it: CheckpointError ConfigError DataError DivergedError ModelError
            ObjectiveError ShapeError TargetError

The modules behind the names are imported when a name is first used, so that `import limbeck` costs nothing.
`limbeck.open` is another name of `open_stored`; `from limbeck import *` leaves it out, because it would replace the
builtin.
"""

import sys
from importlib import import_module
from typing import TYPE_CHECKING, Any

from limbeck._version import __version__

if TYPE_CHECKING:
    from limbeck.errors import (
        CheckpointError,
        ConfigError,
        DataError,
        DivergedError,
        LimbeckError,
        ModelError,
        ObjectiveError,
        ShapeError,
        TargetError,
    )
    from limbeck.evaluation.calibration import match_prior, shift_bias
    from limbeck.evaluation.classes import compare, evaluate, predict
    from limbeck.evaluation.tokens import evaluate_language
    from limbeck.export import export_onnx
    from limbeck.losses.divergences import (
        Divergence,
        cross_entropy,
        forward_kl,
        jensen_shannon,
        logit_matching,
        reverse_kl,
        skewed_kl,
        skewed_reverse_kl,
        total_variation,
    )
    from limbeck.losses.linear import linear_divergence
    from limbeck.losses.objective import Loss, Objective
    from limbeck.losses.targets import (
        DenseTargets,
        GaussianTargets,
        Head,
        HiddenTargets,
        MixedTargets,
        SampledTargets,
        SoftTargets,
        SparseTargets,
    )
    from limbeck.losses.values import gaussian_cross_entropy, gaussian_kl, squared_error
    from limbeck.networks.asking import logits_of
    from limbeck.networks.folder import load, save
    from limbeck.networks.layers import take_layers
    from limbeck.networks.mlp import mlp
    from limbeck.networks.outputs import Task, with_task
    from limbeck.networks.table import TableEncoder
    from limbeck.report import write_report
    from limbeck.results import read_results, write_results
    from limbeck.store.label import label
    from limbeck.store.opened import Labelled, open_stored
    from limbeck.store.opened import open as open
    from limbeck.store.teacher import StoredTeacher
    from limbeck.store.verify import verify
    from limbeck.teachers import (
        Ensemble,
        FunctionTeacher,
        ModelTeacher,
        Specialist,
        Specialists,
        Teacher,
        WithoutAdapter,
        record,
    )
    from limbeck.training.callbacks import MaxNorm
    from limbeck.training.config import DistillConfig
    from limbeck.training.trainer import DistillTrainer
    from limbeck.transfer import TransferSet, arrays, augmentation, digits, idx, jitter, table
    from limbeck.transfer.text.collate import Pad
    from limbeck.transfer.text.examples import tokenise
    from limbeck.transfer.text.pack import pack
    from limbeck.tuning import tune

_MODULE_OF = {
    "errors": "CheckpointError ConfigError DataError DivergedError LimbeckError ModelError ObjectiveError"
    " ShapeError TargetError",
    "evaluation.calibration": "match_prior shift_bias",
    "evaluation.classes": "compare evaluate predict",
    "evaluation.tokens": "evaluate_language",
    "export": "export_onnx",
    "losses.divergences": "Divergence cross_entropy forward_kl jensen_shannon logit_matching reverse_kl skewed_kl "
    "skewed_reverse_kl total_variation",
    "losses.linear": "linear_divergence",
    "losses.objective": "Loss Objective",
    "losses.targets": "DenseTargets GaussianTargets Head HiddenTargets MixedTargets SampledTargets SoftTargets "
    "SparseTargets",
    "losses.values": "gaussian_cross_entropy gaussian_kl squared_error",
    "networks.asking": "logits_of",
    "networks.folder": "load save",
    "networks.layers": "take_layers",
    "networks.mlp": "mlp",
    "networks.outputs": "Task with_task",
    "networks.table": "TableEncoder",
    "report": "write_report",
    "results": "read_results write_results",
    "store.label": "label",
    "store.opened": "Labelled open open_stored",
    "store.teacher": "StoredTeacher",
    "store.verify": "verify",
    "teachers": "Ensemble FunctionTeacher ModelTeacher Specialist Specialists Teacher WithoutAdapter record",
    "training.callbacks": "MaxNorm",
    "training.config": "DistillConfig",
    "training.trainer": "DistillTrainer",
    "transfer": "TransferSet arrays augmentation digits idx jitter table",
    "transfer.text.collate": "Pad",
    "transfer.text.examples": "tokenise",
    "transfer.text.pack": "pack",
    "tuning": "tune",
}
_HOME = {name: f"limbeck.{module}" for module, names in _MODULE_OF.items() for name in names.split()}

__all__ = [
    "CheckpointError",
    "ConfigError",
    "DataError",
    "DenseTargets",
    "DistillConfig",
    "DistillTrainer",
    "DivergedError",
    "Divergence",
    "Ensemble",
    "FunctionTeacher",
    "GaussianTargets",
    "Head",
    "HiddenTargets",
    "Labelled",
    "LimbeckError",
    "Loss",
    "MaxNorm",
    "MixedTargets",
    "ModelError",
    "ModelTeacher",
    "Objective",
    "ObjectiveError",
    "Pad",
    "SampledTargets",
    "ShapeError",
    "SoftTargets",
    "SparseTargets",
    "Specialist",
    "Specialists",
    "StoredTeacher",
    "TableEncoder",
    "TargetError",
    "Task",
    "Teacher",
    "TransferSet",
    "WithoutAdapter",
    "__version__",
    "arrays",
    "augmentation",
    "compare",
    "cross_entropy",
    "digits",
    "evaluate",
    "evaluate_language",
    "export_onnx",
    "forward_kl",
    "gaussian_cross_entropy",
    "gaussian_kl",
    "idx",
    "jensen_shannon",
    "jitter",
    "label",
    "linear_divergence",
    "load",
    "logit_matching",
    "logits_of",
    "match_prior",
    "mlp",
    "open_stored",
    "pack",
    "predict",
    "read_results",
    "record",
    "reverse_kl",
    "save",
    "shift_bias",
    "skewed_kl",
    "skewed_reverse_kl",
    "squared_error",
    "table",
    "take_layers",
    "tokenise",
    "total_variation",
    "tune",
    "verify",
    "with_task",
    "write_report",
    "write_results",
]


def __getattr__(name: str) -> Any:
    if name not in _HOME:
        raise AttributeError(f"module 'limbeck' has no attribute {name!r}")
    return getattr(import_module(_HOME[name]), name)


def __dir__() -> list[str]:
    return [] if _asked_by_help() else sorted(__all__)


def _asked_by_help() -> bool:
    """Whether `help(limbeck)` lists the names: their pages, 5,000 lines, would follow the text above."""
    frame, callers = sys._getframe(2), 4  # pydoc asks through two functions of inspect
    while frame is not None and callers:
        if frame.f_globals.get("__name__") == "pydoc":
            return True
        frame, callers = frame.f_back, callers - 1  # type: ignore[assignment]
    return False
