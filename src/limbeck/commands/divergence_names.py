"""The divergences that an option can name: those of limbeck.losses.divergences and values, found there.

What this file does not know: how the text of an option is read.
"""

from inspect import isfunction, signature

from limbeck.losses import divergences
from limbeck.losses.divergences import Divergence
from limbeck.losses.values import VALUE_DIVERGENCES

PLAIN = tuple(name for name, value in vars(divergences).items() if isinstance(value, Divergence))
"""Divergences without a parameter."""

OF_NUMBERS = tuple(VALUE_DIVERGENCES)
"""Divergences of numbers, for regression."""

WITH_PARAMETER = {
    name: next(iter(signature(value).parameters.values())).default
    for name, value in vars(divergences).items()
    if isfunction(value) and not name.startswith("_") and signature(value).return_annotation is Divergence
}
"""name -> the default of its parameter."""

LISTED = "; ".join([", ".join(PLAIN), ", ".join(f"{name}:{default:g}" for name, default in WITH_PARAMETER.items())])
"""Those of classes, as the help lists them."""
