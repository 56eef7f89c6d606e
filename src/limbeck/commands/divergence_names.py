"""The divergences that an option can name: those of limbeck.losses.divergences, found there.

What this file does not know: how the text of an option is read.
"""

from inspect import isfunction, signature

from limbeck.losses import divergences
from limbeck.losses.divergences import Divergence

PLAIN = tuple(name for name, value in vars(divergences).items() if isinstance(value, Divergence))
"""Divergences without a parameter."""

WITH_PARAMETER = {
    name: next(iter(signature(value).parameters.values())).default
    for name, value in vars(divergences).items()
    if isfunction(value) and not name.startswith("_") and signature(value).return_annotation is Divergence
}
"""name -> the default of its parameter."""

LISTED = "; ".join([", ".join(PLAIN), ", ".join(f"{name}:{default:g}" for name, default in WITH_PARAMETER.items())])
"""As the help lists them."""
