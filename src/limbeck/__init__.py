"""Limbeck: knowledge distillation, from Hinton's classifier with a temperature to language models.

Everything public is here, flat; the modules behind the names are imported when a name is first used, so that
`import limbeck` costs nothing.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

from limbeck._version import __version__

if TYPE_CHECKING:
    from limbeck.calibration import match_prior, shift_bias
    from limbeck.divergences import (
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
    from limbeck.errors import (
        CheckpointError,
        ConfigError,
        DataError,
        LimbeckError,
        ModelError,
        ObjectiveError,
        ShapeError,
        TargetError,
    )
    from limbeck.evaluation import compare, evaluate, predict, read_results, write_results
    from limbeck.export import export_onnx
    from limbeck.labelled import Labelled, open
    from limbeck.labelling import label, verify
    from limbeck.language.collate import Pad
    from limbeck.language.examples import tokenise
    from limbeck.language.pack import pack
    from limbeck.language_evaluation import evaluate_language
    from limbeck.linear import linear_divergence
    from limbeck.objective import Loss, Objective
    from limbeck.report import write_report
    from limbeck.students import load, mlp, save, take_layers
    from limbeck.targets import (
        DenseTargets,
        Head,
        HiddenTargets,
        MixedTargets,
        SampledTargets,
        SoftTargets,
        SparseTargets,
    )
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
    from limbeck.teachers.stored import StoredTeacher
    from limbeck.trainer import DistillConfig, DistillTrainer, MaxNorm
    from limbeck.transfer import TransferSet, arrays, augmentation, digits, idx, jitter, table
    from limbeck.tuning import tune

_MODULE_OF = {
    "calibration": "match_prior shift_bias",
    "divergences": "Divergence cross_entropy forward_kl jensen_shannon logit_matching reverse_kl skewed_kl "
    "skewed_reverse_kl total_variation",
    "errors": "CheckpointError ConfigError DataError LimbeckError ModelError ObjectiveError ShapeError TargetError",
    "evaluation": "compare evaluate predict read_results write_results",
    "export": "export_onnx",
    "labelled": "Labelled open",
    "labelling": "label verify",
    "language.collate": "Pad",
    "language.examples": "tokenise",
    "language.pack": "pack",
    "language_evaluation": "evaluate_language",
    "linear": "linear_divergence",
    "objective": "Loss Objective",
    "report": "write_report",
    "students": "load mlp save take_layers",
    "targets": "DenseTargets Head HiddenTargets MixedTargets SampledTargets SoftTargets SparseTargets",
    "teachers": "Ensemble FunctionTeacher ModelTeacher Specialist Specialists Teacher WithoutAdapter record",
    "teachers.stored": "StoredTeacher",
    "trainer": "DistillConfig DistillTrainer MaxNorm",
    "transfer": "TransferSet arrays augmentation digits idx jitter table",
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
    "Divergence",
    "Ensemble",
    "FunctionTeacher",
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
    "TargetError",
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
    "idx",
    "jensen_shannon",
    "jitter",
    "label",
    "linear_divergence",
    "load",
    "logit_matching",
    "match_prior",
    "mlp",
    "open",
    "pack",
    "predict",
    "read_results",
    "record",
    "reverse_kl",
    "save",
    "shift_bias",
    "skewed_kl",
    "skewed_reverse_kl",
    "table",
    "take_layers",
    "tokenise",
    "total_variation",
    "tune",
    "verify",
    "write_report",
    "write_results",
]


def __getattr__(name: str) -> Any:
    if name not in _HOME:
        raise AttributeError(f"module 'limbeck' has no attribute {name!r}")
    return getattr(import_module(_HOME[name]), name)


def __dir__() -> list[str]:
    return sorted(__all__)
