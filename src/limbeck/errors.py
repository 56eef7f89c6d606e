"""Every error that Limbeck raises on purpose.

    LimbeckError
    ├── ObjectiveError (ValueError)   a temperature, weight or divergence that cannot be used
    ├── TargetError (ValueError)      a teacher gave something that is not a probability distribution
    ├── ShapeError (ValueError)       shapes or numbers of classes that do not fit together
    ├── DataError (ValueError)        a transfer set, file or label that cannot be used
    ├── ModelError (ValueError)       a folder, name or object that is not the model it should be
    ├── CheckpointError (ValueError)  no checkpoint that a run can resume from
    ├── DivergedError (ArithmeticError)  training that ended in weights of nan or infinity
    └── ConfigError (ValueError)      settings that contradict each other

A message says what was expected, what was got and what to do. Each class is also the builtin it
resembles, so code that knows nothing of Limbeck can catch it.
"""


class LimbeckError(Exception):
    """The root of the tree: `except LimbeckError` catches what Limbeck refuses, and nothing else."""


class ObjectiveError(LimbeckError, ValueError):
    """A temperature, weight or divergence that cannot be used."""


class TargetError(LimbeckError, ValueError):
    """A teacher gave something that is not a probability distribution over the classes."""


class ShapeError(LimbeckError, ValueError):
    """Shapes or numbers of classes that do not fit together."""


class DataError(LimbeckError, ValueError):
    """A transfer set, file or label that cannot be used."""


class ModelError(LimbeckError, ValueError):
    """A folder, name or object that is not the model it should be."""


class CheckpointError(LimbeckError, ValueError):
    """A run's folder holds no checkpoint that it can resume from."""


class DivergedError(LimbeckError, ArithmeticError):
    """Training that ended in weights of nan or infinity."""


class ConfigError(LimbeckError, ValueError):
    """Settings that contradict each other."""
