"""Students: small networks to start from, students cut from their teachers, and folders to keep any student in."""

from limbeck.students.folder import load, save
from limbeck.students.layers import take_layers
from limbeck.students.mlp import MLP, mlp

__all__ = ["MLP", "load", "mlp", "save", "take_layers"]
