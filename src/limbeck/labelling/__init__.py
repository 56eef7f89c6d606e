"""Asking a teacher about every row of a transfer set and keeping what it said; asking again, to verify it."""

from limbeck.labelling.label import label
from limbeck.labelling.verify import verify

__all__ = ["label", "verify"]
