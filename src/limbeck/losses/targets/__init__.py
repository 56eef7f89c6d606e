"""Soft targets: a teacher's predictions for `n` positions over `C` classes.

Every kind of SoftTargets answers one question: which two log-distributions are compared?

    log_q, log_p = targets.events(student_log_probs, temperature)    # [n, E] each

`student_log_probs` is `log_softmax(z / T)`, `[n, C]`; an event is one class, or a set of classes
(the tail). What this file does not know: which divergence compares them, labels, reductions, where
the targets come from.
"""

from limbeck.losses.targets.defaults import (
    autocast_to,
    chunk_reader,
    completion_hint,
    given_logits,
    hidden_states,
    is_compilable,
    is_complete,
    is_partition,
    is_unbounded,
    logit_bytes,
    softened_logits,
    spread,
    unbounded_logits,
)
from limbeck.losses.targets.dense import DenseTargets, as_targets
from limbeck.losses.targets.gaussian import GaussianTargets
from limbeck.losses.targets.hidden import Head, HiddenTargets, bounded
from limbeck.losses.targets.mixed import MixedTargets, concatenate, member_weights
from limbeck.losses.targets.protocol import REQUIRED, SoftTargets
from limbeck.losses.targets.sampled import SampledTargets
from limbeck.losses.targets.sparse import MASKED, SparseTargets

__all__ = [
    "MASKED",
    "REQUIRED",
    "DenseTargets",
    "GaussianTargets",
    "Head",
    "HiddenTargets",
    "MixedTargets",
    "SampledTargets",
    "SoftTargets",
    "SparseTargets",
    "as_targets",
    "autocast_to",
    "bounded",
    "chunk_reader",
    "completion_hint",
    "concatenate",
    "given_logits",
    "hidden_states",
    "is_compilable",
    "is_complete",
    "is_partition",
    "is_unbounded",
    "logit_bytes",
    "member_weights",
    "softened_logits",
    "spread",
    "unbounded_logits",
]
