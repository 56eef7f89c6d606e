"""Teachers: anything that says what it believes about a batch, as SoftTargets.

    targets = teacher(batch)     # a batch is a dict of tensors
    teacher.fingerprint()        # a hash of what it is made of, never of where it lies

`as_teacher` makes one of a network, of a scikit-learn classifier or of a function of the batch.
"""

from limbeck.teachers.adapter import WithoutAdapter
from limbeck.teachers.classifier import ClassifierTeacher
from limbeck.teachers.conversion import as_teacher, fingerprint_of
from limbeck.teachers.ensemble import Ensemble
from limbeck.teachers.function import FunctionTeacher
from limbeck.teachers.model import ModelTeacher
from limbeck.teachers.protocol import Teacher
from limbeck.teachers.recorded import RecordedTeacher, record
from limbeck.teachers.specialists import Specialist, Specialists

__all__ = [
    "ClassifierTeacher",
    "Ensemble",
    "FunctionTeacher",
    "ModelTeacher",
    "RecordedTeacher",
    "Specialist",
    "Specialists",
    "Teacher",
    "WithoutAdapter",
    "as_teacher",
    "fingerprint_of",
    "record",
]
