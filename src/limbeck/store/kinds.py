"""Encodings of SoftTargets as columns of numbers, and their decoding.

    kind = kind_from("top_k", k=64)
    columns = kind.encode(targets)                                # {"ids": [n, 64], "codes": [n, 64], ...}, NumPy
    kind.decode({name: torch.from_numpy(c) for name, c in columns.items()}, classes)   # SparseTargets

Bytes per position over 151,936 classes (docs/store.md has the measurements):

    dense     every class at every temperature           190,000 bytes
    hidden    the same, from the H last hidden states    0.9 H to 1.7 H, and the output layer once
    top_k     k classes, and the tail as one event       2 k, or 3 k in 16 bits
    sampled   an unbiased gradient at one temperature    k / 2

What this file does not know: files, rows of text, teachers.
"""

import math
from collections.abc import Callable, Iterator, Mapping
from dataclasses import asdict, dataclass, fields
from typing import Any, ClassVar, NamedTuple, Protocol

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from limbeck.errors import ConfigError, DataError, ShapeError, TargetError
from limbeck.files import Json, JsonView
from limbeck.losses.divergences import forward_kl
from limbeck.losses.linear.memory import keep_freed_memory
from limbeck.losses.numbers import LEAST_TEMPERATURE, MOST_TEMPERATURE
from limbeck.losses.targets import (
    DenseTargets,
    Head,
    HiddenTargets,
    SampledTargets,
    SoftTargets,
    SparseTargets,
    completion_hint,
    hidden_states,
    is_complete,
    softened_logits,
)

_LOGITS = 7 * 2**20  # logits computed at a time: many rows of a matmul, in memory that the allocator reuses
_CHUNK = 2**20  # logits that a CPU encodes at a time: few enough that the copies stay in its cache


class Column(NamedTuple):
    """The part of a column for one position: `width` numbers of a NumPy dtype."""

    dtype: np.dtype[Any]
    width: int


class Kind(Protocol):
    """An encoding of SoftTargets. Columns are `[n, width]`, one row per position."""

    name: ClassVar[str]

    def columns(self, classes: int, hidden_size: int | None = None) -> dict[str, Column]:
        """The columns for targets over `classes` classes, from a teacher whose last states have `hidden_size`."""
        ...

    def encode(self, targets: SoftTargets, generator: torch.Generator | None = None) -> dict[str, np.ndarray]:
        """The columns of `targets`; TargetError where they cannot be encoded, or a row is not a distribution.

        generator: of the draws, on the targets' device.
        """
        ...

    def decode(self, columns: Mapping[str, Tensor], classes: int, head: Head | None = None) -> SoftTargets:
        """The targets in these columns, on their device. head: the teacher's output layer, for `hidden`."""
        ...

    def parquet(self) -> dict[str, str]:
        """The Parquet encoding of each column for which a dictionary is not the smallest."""
        ...

    def settings(self) -> Json:
        """The kind and its options, ready for JSON: `kind_of` reads them."""
        ...


def kind_from(name: str, /, **options: Any) -> Kind:
    """A kind by its name: "dense", "top_k", "sampled" or "hidden"; ConfigError for another name or option."""
    if name not in _KINDS:
        raise ConfigError(f"kind must be {' or '.join(_KINDS)}, but got {name!r}.")
    kind = _KINDS[name]
    takes = [field.name for field in fields(kind)]
    unknown = sorted(set(options) - set(takes))
    if unknown:
        raise ConfigError(f"{name} takes {', '.join(takes)}, but got {', '.join(unknown)}.")
    built: Kind = kind(**options)
    return built


def kind_of(settings: JsonView) -> Kind:
    """The kind with these `settings()`; DataError for settings of no known kind."""
    options = dict(settings)
    try:
        return kind_from(options.pop("kind", None), **options)
    except (ConfigError, TypeError) as error:
        raise DataError(f"The settings of this stored set name an unknown kind: {error}") from None


@dataclass(frozen=True)
class Dense:
    """Every class: `logits` less the row's largest, `[n, C]`. Exact at every temperature, but for the dtype.

    In float16, values more than 65,504 nats below the largest are stored as 65,504 below. A mixture is stored as its
    log-probabilities at T = 1, which at other temperatures are not those of its softened members.
    """

    dtype: str = "float16"
    name: ClassVar[str] = "dense"

    def __post_init__(self) -> None:
        _require(self.dtype in ("float16", "float32"), "dtype of dense is float16 or float32", self.dtype)

    def columns(self, classes: int, hidden_size: int | None = None) -> dict[str, Column]:
        return {"logits": Column(np.dtype(self.dtype), classes)}

    def encode(self, targets: SoftTargets, generator: torch.Generator | None = None) -> dict[str, np.ndarray]:
        return _by_rows(targets, 1.0, self._encode_logits)

    def _encode_logits(self, logits: Tensor) -> dict[str, Tensor]:
        below = logits - logits.amax(-1, keepdim=True)  # a shift changes nothing, and float16 is finest near 0
        dtype: torch.dtype = getattr(torch, self.dtype)
        finite = below.clamp(min=torch.finfo(dtype).min)
        return {"logits": torch.where(below == -torch.inf, below, finite).to(dtype)}

    def decode(self, columns: Mapping[str, Tensor], classes: int, head: Head | None = None) -> DenseTargets:
        return DenseTargets(columns["logits"])

    def parquet(self) -> dict[str, str]:
        return {"logits": "BYTE_STREAM_SPLIT"}

    def settings(self) -> Json:
        return _settings(self)


@dataclass(frozen=True)
class TopK:
    """The `k` most probable classes at `temperature` and the tail of all others; decoded to SparseTargets.

    At a higher temperature than the one it is stored at, the tail is an estimate; store it at the training temperature.

    ids `[n, k]`: the classes in ascending order, the first and then the gaps: a cumulative sum gives them back.
    codes `[n, k]`: how far each log-probability is below the row's largest, finer near the top:
        `4 * expm1(code / levels * log1p(range / 4))` nats, with 254 levels of 8 bits and 32,766 of 16. One code more
        is a probability of zero.
    range `[n, 1]`: how far the last level is below the largest, in nats.
    tail_odds `[n, 1]`: log(tail / (1 - tail)) of the tail's mass. The stored classes share the rest, so that all
        sum to 1 and the largest need not be stored.
    tail_mean, tail_classes `[n, 1]`: as in SparseTargets, for higher temperatures.

    With k = C, tail_odds are -inf and these are 0.
    """

    k: int = 64
    bits: int = 8
    temperature: float = 1.0
    name: ClassVar[str] = "top_k"

    def __post_init__(self) -> None:
        _require(_is_count(self.k), "k of top_k is a whole number above 0", self.k)
        _require(_is_count(self.bits) and self.bits in (8, 16), "bits of top_k are 8 or 16", self.bits)
        _require_temperature(self.temperature, "top_k")

    @property
    def _levels(self) -> int:
        return 254 if self.bits == 8 else 32_766

    def columns(self, classes: int, hidden_size: int | None = None) -> dict[str, Column]:
        self._require_at_most(classes)
        code = np.uint8 if self.bits == 8 else np.int16
        columns = {"ids": Column(np.dtype(np.int32), self.k), "codes": Column(np.dtype(code), self.k)}
        columns |= {name: Column(np.dtype(np.float32), 1) for name in ("range", "tail_odds", "tail_mean")}
        return columns | {"tail_classes": Column(np.dtype(np.int32), 1)}

    def encode(self, targets: SoftTargets, generator: torch.Generator | None = None) -> dict[str, np.ndarray]:
        self._require_at_most(targets.num_classes)
        return _by_rows(targets, self.temperature, self._encode_logits)

    def _encode_logits(self, logits: Tensor) -> dict[str, Tensor]:
        top = SparseTargets.from_logits(logits, self.k)
        order = top.ids.argsort(-1)
        codes, span = self._codes(top.log_probs)
        if top.tail is None or top.tail_mean is None or top.tail_classes is None:  # k = C
            odds, mean, size = torch.full_like(span, -torch.inf), torch.zeros_like(span), torch.zeros_like(span)
        else:
            odds = (top.tail - top.log_probs.logsumexp(-1)).unsqueeze(-1)
            mean, size = top.tail_mean.unsqueeze(-1), top.tail_classes.unsqueeze(-1)
        return {
            "ids": _gaps(top.ids.gather(-1, order)),
            "codes": codes.gather(-1, order),
            "range": span.float(),
            "tail_odds": odds.float(),
            "tail_mean": mean.float(),
            "tail_classes": size.to(torch.int32),
        }

    def _codes(self, log_probs: Tensor) -> tuple[Tensor, Tensor]:
        """Codes `[n, k]` and range `[n, 1]` of log-probabilities of which the first is the largest.

        Of ranges up to 8 % wider than need be, a row takes the one whose levels lie best: by half the variance of the
        errors under p, which is the KL to second order. Against the narrowest, that nearly halves the KL.
        """
        below = log_probs[:, :1] - log_probs
        none = below == torch.inf
        below = below.masked_fill(none, 0.0)
        narrowest, p = below.amax(-1, keepdim=True), log_probs.softmax(-1)
        tried = narrowest * (1 + torch.arange(32, device=below.device).view(-1, 1, 1) / 400)  # [32, n, 1]
        steps = torch.log1p(below / 4) / torch.log1p(tried / 4).clamp(min=1e-30) * self._levels
        steps = steps.round()
        error = self._below(steps, tried) - below
        error = (p * (error - (p * error).sum(-1, keepdim=True)).square()).sum(-1, keepdim=True)
        best = error.argmin(0, keepdim=True)  # the first of them, [1, n, 1]
        codes, span = steps.gather(0, best.expand(1, *below.shape))[0], tried.gather(0, best)[0]
        return codes.masked_fill(none, self._levels + 1).to(torch.uint8 if self.bits == 8 else torch.int16), span

    def _below(self, codes: Tensor, span: Tensor) -> Tensor:
        """How far below the largest, in nats."""
        return 4 * torch.expm1(codes * (torch.log1p(span / 4) / self._levels))

    def decode(self, columns: Mapping[str, Tensor], classes: int, head: Head | None = None) -> SparseTargets:
        ids, codes = columns["ids"].cumsum(-1, dtype=torch.long), columns["codes"].float()
        below = self._below(codes, columns["range"]).masked_fill(codes > self._levels, torch.inf)
        log_probs = (-below).log_softmax(-1)
        if self.k == classes:
            return SparseTargets(ids, log_probs, classes, made_at=self.temperature)
        odds = columns["tail_odds"]
        log_probs, tail = log_probs + F.logsigmoid(-odds), F.logsigmoid(odds).squeeze(-1)
        mean, size = columns["tail_mean"].squeeze(-1), columns["tail_classes"].squeeze(-1)
        return SparseTargets(ids, log_probs, classes, tail, mean, self.temperature, size)

    def _require_at_most(self, classes: int) -> None:
        if self.k > classes:
            raise ShapeError(f"top_k with k = {self.k} stores more than the {classes} classes there are; lower k.")

    def parquet(self) -> dict[str, str]:
        split = ["ids", "range", "tail_odds", "tail_mean"] + (["codes"] if self.bits == 16 else [])
        return dict.fromkeys(split, "BYTE_STREAM_SPLIT")

    def settings(self) -> Json:
        return _settings(self)


@dataclass(frozen=True)
class Sampled:
    """`k` classes drawn from the teacher at `temperature`, repeats and all; decoded to SampledTargets.

    ids `[n, k]`: the draws in ascending order, the first and then the gaps, 0 for a class drawn again. The weights
    are all 1 / k and are not stored. They hold for forward_kl and cross_entropy at this temperature alone.
    """

    k: int = 64
    temperature: float = 1.0
    name: ClassVar[str] = "sampled"

    def __post_init__(self) -> None:
        _require(_is_count(self.k), "k of sampled is a whole number above 0", self.k)
        _require_temperature(self.temperature, "sampled")

    def columns(self, classes: int, hidden_size: int | None = None) -> dict[str, Column]:
        return {"ids": Column(np.dtype(np.int32), self.k)}

    def encode(self, targets: SoftTargets, generator: torch.Generator | None = None) -> dict[str, np.ndarray]:
        def encode_logits(logits: Tensor) -> dict[str, Tensor]:
            drawn = SampledTargets.draw(logits, self.k, generator=generator)
            return {"ids": _gaps(drawn.ids.sort(-1).values)}

        return _by_rows(targets, self.temperature, encode_logits)

    def decode(self, columns: Mapping[str, Tensor], classes: int, head: Head | None = None) -> SampledTargets:
        ids = columns["ids"].cumsum(-1, dtype=torch.long)
        return SampledTargets(ids, torch.full_like(ids, 1 / self.k, dtype=torch.float32), classes, self.temperature)

    def parquet(self) -> dict[str, str]:
        return {"ids": "BYTE_STREAM_SPLIT"}

    def settings(self) -> Json:
        return _settings(self)


@dataclass(frozen=True)
class Hidden:
    """The last hidden states: every class at every temperature, with the output layer, stored once in another file.

    hidden `[n, H]`: in float16, or the bits of bfloat16 as int16, which Parquet has no type for.
    Or, in int8: codes `[n, H]` from -127 to 127, times scale `[n, 1]`.
    """

    dtype: str = "float16"
    name: ClassVar[str] = "hidden"

    def __post_init__(self) -> None:
        allowed = ("float16", "bfloat16", "int8")
        _require(self.dtype in allowed, f"dtype of hidden is {' or '.join(allowed)}", self.dtype)

    def columns(self, classes: int, hidden_size: int | None = None) -> dict[str, Column]:
        if hidden_size is None:
            raise _no_hidden_states("a teacher without them")
        if self.dtype == "int8":
            return {"codes": Column(np.dtype(np.int8), hidden_size), "scale": Column(np.dtype(np.float32), 1)}
        dtype = np.float16 if self.dtype == "float16" else np.int16
        return {"hidden": Column(np.dtype(dtype), hidden_size)}

    def encode(self, targets: SoftTargets, generator: torch.Generator | None = None) -> dict[str, np.ndarray]:
        states = hidden_states(targets)
        if states is None:
            raise _no_hidden_states(type(targets).__name__)
        _require_good(targets.bad_rows(forward_kl), 0, "hidden states that are not all finite")
        hidden = states[0].detach().cpu()
        if self.dtype == "int8":
            scale = hidden.float().abs().amax(-1, keepdim=True).clamp(min=1e-30) / 127
            return {"codes": (hidden.float() / scale).round().to(torch.int8).numpy(), "scale": scale.numpy()}
        cast = hidden.to(getattr(torch, self.dtype))
        if not cast.isfinite().all():
            raise TargetError(
                f"These hidden states go up to {hidden.abs().max():g}, beyond {self.dtype}'s "
                f"{torch.finfo(cast.dtype).max:g}; store them in bfloat16 or int8."
            )
        return {"hidden": (cast if self.dtype == "float16" else cast.view(torch.int16)).numpy()}

    def decode(self, columns: Mapping[str, Tensor], classes: int, head: Head | None = None) -> HiddenTargets:
        if head is None:
            raise TargetError("Hidden states are read with the teacher's output layer, but got none; pass it as head.")
        if self.dtype == "int8":
            return HiddenTargets(columns["codes"] * columns["scale"], head.first(classes))
        hidden = columns["hidden"]
        return HiddenTargets(hidden if self.dtype == "float16" else hidden.view(torch.bfloat16), head.first(classes))

    def parquet(self) -> dict[str, str]:
        return {"int8": {"scale": "BYTE_STREAM_SPLIT"}, "float16": {"hidden": "BYTE_STREAM_SPLIT"}}.get(self.dtype, {})

    def settings(self) -> Json:
        return _settings(self)


_KINDS: Json = {kind.name: kind for kind in (Dense, TopK, Sampled, Hidden)}


def _by_rows(
    targets: SoftTargets, temperature: float, encode: Callable[[Tensor], dict[str, Tensor]]
) -> dict[str, np.ndarray]:
    """The columns that `encode` returns for softened logits `[m, C]` of a few rows at a time, float32 or wider."""
    parts: dict[str, list[np.ndarray]] = {}
    for start, logits in _softened(targets, temperature):
        _require_good(
            DenseTargets(logits).bad_rows(forward_kl), start, "nan, +inf or no class of a probability above 0"
        )
        for name, column in encode(logits).items():
            parts.setdefault(name, []).append(column.cpu().numpy())
    return {name: np.concatenate(arrays) for name, arrays in parts.items()}


def _softened(targets: SoftTargets, temperature: float) -> Iterator[tuple[int, Tensor]]:
    """Yields (first row, logits of some rows), whose softmax is the distribution at the temperature."""
    if not is_complete(targets):
        raise TargetError(
            f"A teacher must give the probabilities of all classes to be stored, but this one gives "
            f"{type(targets).__name__}; label with a teacher that gives them.{completion_hint(targets)}"
        )
    keep_freed_memory()
    for start, some in _parts(targets, _LOGITS // targets.num_classes):
        logits = softened_logits(some, temperature).detach()
        rows = _CHUNK // targets.num_classes if logits.device.type == "cpu" else len(logits)
        for further, few in _parts(logits, rows):
            yield start + further, few


def _parts(of: Any, rows: int) -> Iterator[tuple[int, Any]]:
    """Yields (first row, the next `rows` rows); at least one part, which may be empty."""
    for start in range(0, max(1, len(of)), max(1, rows)):
        yield start, of[start : start + max(1, rows)]


def _gaps(ordered: Tensor) -> Tensor:
    """The first value of each row, then the differences: small numbers, which compress well."""
    return torch.cat([ordered[:, :1], ordered.diff(dim=-1)], -1).to(torch.int32)


def _settings(kind: Any) -> Json:
    return {"kind": kind.name, **asdict(kind)}


def _is_count(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and value >= 1


def _require_temperature(value: Any, kind: str) -> None:
    """ConfigError where no objective can have this temperature."""
    is_number = isinstance(value, int | float) and not isinstance(value, bool)
    _require(is_number and 0 < value < math.inf, f"temperature of {kind} is a finite number above 0", value)
    bounds = f"from {LEAST_TEMPERATURE:.2g} to {MOST_TEMPERATURE:,.0f}, so that float32 can tell classes apart"
    _require(LEAST_TEMPERATURE <= value <= MOST_TEMPERATURE, f"temperature of {kind} is {bounds}", value)


def _require(holds: bool, what: str, got: Any) -> None:
    if not holds:
        raise ConfigError(f"{what[0].upper()}{what[1:]}, but is {got!r}.")


def _require_good(bad: Tensor, start: int, what: str) -> None:
    if bad.any():
        raise TargetError(
            f"Row {start + int(bad.nonzero()[0])} of these targets has {what}, and cannot be stored; check the "
            "teacher's input there."
        )


def _no_hidden_states(who: str) -> TargetError:
    return TargetError(
        f"Only HiddenTargets can be stored as hidden states, but got {who}. A ModelTeacher of a causal language model "
        "gives them, where its logits are its output layer's of its last states; store top_k, sampled or dense "
        "instead. (A user-defined kind of targets needs the members `hidden` [n, H] and `head`, a limbeck.Head.)"
    )
