"""Teachers: anything that gives the distributions of a batch's positions, as SoftTargets.

    targets = teacher(batch)     # a batch is a dict of tensors
    teacher.fingerprint()        # a hash of its contents, never of its path

`as_teacher` makes one from a network, a scikit-learn classifier or a function of the batch. A class needs
`Teacher`'s two methods; everything else has a default in `BaseTeacher`.
"""

from limbeck.teachers.adapter import WithoutAdapter
from limbeck.teachers.classifier import ClassifierTeacher
from limbeck.teachers.conversion import as_teacher, fingerprint_of
from limbeck.teachers.ensemble import Ensemble
from limbeck.teachers.function import FunctionTeacher
from limbeck.teachers.model import ModelTeacher
from limbeck.teachers.protocol import BaseTeacher, Teacher
from limbeck.teachers.recorded import RecordedTeacher, record
from limbeck.teachers.regressor import RegressorTeacher
from limbeck.teachers.specialists import Specialist, Specialists

__all__ = [
    "BaseTeacher",
    "ClassifierTeacher",
    "Ensemble",
    "FunctionTeacher",
    "ModelTeacher",
    "RecordedTeacher",
    "RegressorTeacher",
    "Specialist",
    "Specialists",
    "Teacher",
    "WithoutAdapter",
    "as_teacher",
    "fingerprint_of",
    "record",
]
