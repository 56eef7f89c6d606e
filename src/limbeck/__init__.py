"""Limbeck: knowledge distillation."""

from limbeck._version import __version__

__all__ = ["__version__"]
