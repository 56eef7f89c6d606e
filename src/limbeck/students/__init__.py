"""Students: small networks to start from, and folders to keep any student in."""

from limbeck.students.folder import load, save
from limbeck.students.mlp import MLP, mlp

__all__ = ["MLP", "load", "mlp", "save"]
