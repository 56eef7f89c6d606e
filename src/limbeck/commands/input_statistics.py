"""The numbers that a student is about to read: how much each column varies, to find unscaled and constant inputs.

What this file does not know: training, what is advised.
"""

from typing import Any

import torch
from torch import Tensor, nn

from limbeck.networks.asking import inputs_of
from limbeck.networks.table import INPUTS, TableEncoder, table_columns, table_encoder_of
from limbeck.results import Json

MOST_ROWS, MOST_ROWS_OF_IMAGES = 5000, 256
"""How many training examples are looked at, evenly spaced; fewer images, which have to be decoded."""

MOST_NUMBERS = 20_000_000
"""Fewer examples where they are larger than this allows: 80 MB in float32."""

MOST_NAMED = 5


def input_statistics(train: Any, student: nn.Module) -> Json | None:
    """The `inputs` of results.json: how much the columns vary that the student reads, over the training examples.

    train: the training part. A table's numbers and dates are measured as the student's encoder gives them, without its
    categories. None where the student does not read numbers (texts), or there are no examples.
    """
    if len(train) == 0:
        return None
    first = inputs_of(train.__getitems__([0]))
    name = next(iter(first), None)
    if name is None or not isinstance(first[name], Tensor) or not first[name].is_floating_point():
        return None
    features, encoder = table_columns(train), table_encoder_of(student)
    example = first[name][0]
    kind = "table" if features else "numbers" if example.dim() <= 1 else "images"
    most = min(MOST_ROWS_OF_IMAGES if kind == "images" else MOST_ROWS, MOST_NUMBERS // max(1, example.numel()))
    rows = torch.linspace(0, len(train) - 1, max(1, min(len(train), most))).long().tolist()
    values = inputs_of(train.__getitems__(rows))[name].reshape(len(rows), -1).double()
    names = [str(place) for place in range(values.shape[1])]
    if features and encoder is not None and name == INPUTS:
        numbers = [i for i, column in enumerate(encoder.columns) if column.feature.kind != "category"]
        values, names = _encoded(values, encoder, numbers), [encoder.columns[i].feature.name for i in numbers]
    return _described(values, names) | {"kind": kind, "scaled": _is_scaled(encoder) if features else None}


def _encoded(values: Tensor, encoder: TableEncoder, numbers: list[int]) -> Tensor:
    """The columns of numbers and dates `[n, len(numbers)]`, as the encoder's first units give them."""
    return encoder(values)[:, : len(numbers)].double()


def _is_scaled(encoder: TableEncoder | None) -> bool:
    return encoder is not None and any(column.scale != 1.0 or column.mean != 0.0 for column in encoder.columns)


def _described(values: Tensor, names: list[str]) -> Json:
    """Of `values [n, F]`: standard deviations of the columns, and those that vary least and most by their range."""
    spread = values.amax(0) - values.amin(0)
    constant = (spread == 0).nonzero().squeeze(1).tolist()
    varying = ((spread > 0) & spread.isfinite()).nonzero().squeeze(1).tolist()
    found: Json = {
        "examples": len(values),
        "columns": len(names),
        "constant": len(constant),
        "constant_names": [names[i] for i in constant[:MOST_NAMED]],
        "all_alike": values.shape[1] > 1 and bool((values == values[:, :1]).all()),
    }
    if not varying:
        return found | {"std_min": None, "std_max": None, "narrowest": None, "widest": None}
    std = values.std(0, correction=0)
    least, most = (choose(varying, key=lambda i: float(spread[i])) for choose in (min, max))
    return found | {
        "std_min": float(std[varying].min()),
        "std_max": float(std[varying].max()),
        "narrowest": {"name": names[least], "range": float(spread[least]), "std": float(std[least])},
        "widest": {"name": names[most], "range": float(spread[most]), "std": float(std[most])},
    }
