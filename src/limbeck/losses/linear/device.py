"""The Triton kernel: both terms of an objective at each row of logits, their values and their gradient.

A program has a few rows, one on a GPU, and reads the student's and the teacher's logits block by block: once for the
normalisers, once for the sum of the slopes where no formula gives it, and once for the values and the gradient.

The same code runs on a GPU and in Triton's interpreter. Hence numbers are cast to WIDE when they are loaded (arithmetic
in bfloat16 is wrong in the interpreter), and there is no tl.dot and no libdevice.

Importing this file imports Triton, which then reads TRITON_INTERPRET. What this file does not know: matmuls, chunks,
which cases the kernel covers (triton.py).
"""

# ruff: noqa: N803, N806 (constants of the kernel in capitals)

import torch
import triton
import triton.language as tl

from limbeck.losses import numbers

NO_LABEL = tl.constexpr(numbers.NO_LABEL)

WIDE = {torch.float32: tl.float32, torch.float64: tl.float64}
"""Triton's names of the dtypes of the arithmetic."""


@triton.jit(do_not_specialize=["m"])
def compare(
    z_ptr,
    z_stride,
    z_bias_ptr,
    t_ptr,
    t_stride,
    t_bias_ptr,
    label_ptr,
    soft_share_ptr,
    hard_share_ptr,
    soft_ptr,
    hard_ptr,
    gradient_ptr,
    gradient_stride,
    m,
    classes,
    KIND: tl.constexpr,
    SHARE: tl.constexpr,
    INVERSE_T: tl.constexpr,
    Z_SCALE: tl.constexpr,
    Z_CAP: tl.constexpr,
    T_SCALE: tl.constexpr,
    T_CAP: tl.constexpr,
    WIDE: tl.constexpr,
    ROWS: tl.constexpr,
    BLOCK: tl.constexpr,
):
    """Writes the soft and the hard value of ROWS rows, and the gradient of both, times their shares, in the logits.

    z, t: logits `[m, C]` of student and teacher before scale and cap, rows `stride` apart; bias `[C]` or None.
    label, soft_share, hard_share, soft, hard `[m]`: labels, factors in the gradient, and where values are written; None
        without the term. gradient `[m, C]`: None for values alone; may be z.
    KIND, SHARE: the divergence, as `built_in` gives it; KIND None without a soft term. WIDE: dtype of the arithmetic.
    """
    SOFT: tl.constexpr = KIND is not None
    HARD: tl.constexpr = label_ptr is not None
    GRADIENT: tl.constexpr = gradient_ptr is not None
    ONE_SOFTMAX: tl.constexpr = SOFT and INVERSE_T == 1  # the soft term's student is the hard term's
    rows = (tl.program_id(0) * ROWS + tl.arange(0, ROWS)).to(tl.int64)[:, None]
    present = rows < m
    z_ptr += rows * z_stride
    if SOFT:
        t_ptr += rows * t_stride

    # First pass: the softmax q of the student and p of the teacher at T, h of the student at T = 1, each as its
    # largest exponent and the sum of the others' powers relative to it.
    q_top, q_sum = tl.full([ROWS, 1], float("-inf"), WIDE), tl.full([ROWS, 1], 0.0, WIDE)
    p_top, p_sum = tl.full([ROWS, 1], float("-inf"), WIDE), tl.full([ROWS, 1], 0.0, WIDE)
    h_top, h_sum = tl.full([ROWS, 1], float("-inf"), WIDE), tl.full([ROWS, 1], 0.0, WIDE)
    gap = tl.full([ROWS, 1], 0.0, WIDE)  # sum of (z - t) / T; for reverse KL each is times q, not yet normalised
    for start in range(0, classes, BLOCK):
        columns = start + tl.arange(0, BLOCK)[None, :]
        inside = present & (columns < classes)
        z = logits(z_ptr, z_bias_ptr, columns, inside, Z_SCALE, Z_CAP, WIDE)
        if SOFT:
            s = z * INVERSE_T
            t = logits(t_ptr, t_bias_ptr, columns, inside, T_SCALE, T_CAP, WIDE) * INVERSE_T
            q_top, q_carry, q = fold(q_top, s)
            p_top, p_carry, p = fold(p_top, t)
            q_sum = q_sum * q_carry + tl.sum(q, 1)[:, None]
            p_sum = p_sum * p_carry + tl.sum(p, 1)[:, None]
            if KIND == "reverse_kl":
                gap = gap * q_carry + tl.sum(tl.where(q == 0, 0.0, q * (s - t)), 1)[:, None]
            if KIND == "logit_matching":
                gap += tl.sum(tl.where(inside, s - t, 0.0), 1)[:, None]
        if HARD and not ONE_SOFTMAX:
            h_top, h_carry, h = fold(h_top, z)
            h_sum = h_sum * h_carry + tl.sum(h, 1)[:, None]
    if HARD and ONE_SOFTMAX:
        h_top = q_top
        h_sum = q_sum
    q_log, p_log, h_log = tl.log(q_sum), tl.log(p_sum), tl.log(h_sum)

    # The sum of the slopes: by a formula, or in a pass of its own.
    slopes = tl.full([ROWS, 1], 0.0, WIDE)
    mean_gap = gap / classes
    if KIND == "forward_kl" or KIND == "cross_entropy":
        slopes -= 1
    elif KIND == "reverse_kl":
        slopes += gap / q_sum - (q_top - p_top) - (q_log - p_log) + 1
    elif SOFT and KIND != "logit_matching" and GRADIENT:
        each = tl.zeros([ROWS, BLOCK], WIDE)
        for start in range(0, classes, BLOCK):
            columns = start + tl.arange(0, BLOCK)[None, :]
            inside = present & (columns < classes)
            s = logits(z_ptr, z_bias_ptr, columns, inside, Z_SCALE, Z_CAP, WIDE) * INVERSE_T
            t = logits(t_ptr, t_bias_ptr, columns, inside, T_SCALE, T_CAP, WIDE) * INVERSE_T
            value, slope = value_and_slope((s - q_top) - q_log, (t - p_top) - p_log, KIND, SHARE)
            each += slope
        slopes = tl.sum(each, 1)[:, None]

    # Last pass: values and gradient.
    soft_value, label_logit = tl.zeros([ROWS, BLOCK], WIDE), tl.zeros([ROWS, BLOCK], WIDE)
    if HARD:
        label = tl.load(label_ptr + rows, mask=present, other=0).to(tl.int64)
        labelled = label != NO_LABEL
        known = (label >= 0) & (label < classes)
    if GRADIENT:
        gradient_ptr += rows * gradient_stride
        if SOFT:
            soft_share = tl.load(soft_share_ptr + rows, mask=present, other=0.0) * INVERSE_T
        if HARD:
            hard_share = tl.where(labelled, tl.load(hard_share_ptr + rows, mask=present, other=0.0), 0.0)
    for start in range(0, classes, BLOCK):
        columns = start + tl.arange(0, BLOCK)[None, :]
        inside = present & (columns < classes)
        z = logits(z_ptr, z_bias_ptr, columns, inside, Z_SCALE, Z_CAP, WIDE)
        gradient = tl.zeros([ROWS, BLOCK], WIDE)
        if SOFT:
            s = z * INVERSE_T
            t = logits(t_ptr, t_bias_ptr, columns, inside, T_SCALE, T_CAP, WIDE) * INVERSE_T
            log_q = (s - q_top) - q_log
            if KIND == "logit_matching":
                centred = tl.where(inside, (s - t) - mean_gap, 0.0)
                slope = centred / classes
                value = 0.5 * centred * slope
            else:
                value, slope = value_and_slope(log_q, (t - p_top) - p_log, KIND, SHARE)
            soft_value += value
            if GRADIENT:
                gradient += (slope - tl.exp(log_q) * slopes) * soft_share
        if HARD:
            here = columns == label
            label_logit += tl.where(here, z, 0.0)
            if GRADIENT:  # the label's entry is subtracted before it is rounded
                gradient += (tl.exp((z - h_top) - h_log) - tl.where(here, 1.0, 0.0)) * hard_share
        if GRADIENT:
            if Z_CAP is not None:
                share_of_cap = z / Z_CAP
                gradient *= 1 - share_of_cap * share_of_cap
            if Z_SCALE != 1:
                gradient *= Z_SCALE
            tl.store(gradient_ptr + columns, gradient, mask=inside)
    if SOFT:
        tl.store(soft_ptr + rows, tl.sum(soft_value, 1)[:, None], mask=present)
    if HARD:
        below_top = h_top - tl.where(known, tl.sum(label_logit, 1)[:, None], float("nan"))
        tl.store(hard_ptr + rows, tl.where(labelled, below_top + h_log, 0.0), mask=present)


@triton.jit
def value_and_slope(log_q, log_p, KIND: tl.constexpr, SHARE: tl.constexpr):
    """The value's summand and the slope of a built-in divergence at each class, as losses/divergences.py defines them.

    Logit matching is not among them: it compares with the mean over classes. Where a probability is 0, so are both.
    """
    q, p = tl.exp(log_q), tl.exp(log_p)
    if KIND == "forward_kl":
        value = tl.where(p == 0, 0.0, p * (log_p - log_q))
        slope = -p
    elif KIND == "cross_entropy":
        value = tl.where(p == 0, 0.0, -p * log_q)
        slope = -p
    elif KIND == "reverse_kl":
        value = tl.where(q == 0, 0.0, q * (log_q - log_p))
        slope = value + q
    elif KIND == "total_variation":
        value = 0.5 * tl.abs(p - q)
        slope = 0.5 * q * (tl.where(q > p, 1.0, 0.0) - tl.where(q < p, 1.0, 0.0))
    elif KIND == "jensen_shannon":
        p_over_m, q_over_m = log_shares(log_p, log_q, SHARE)
        slope = (1 - SHARE) * q * q_over_m
        value = SHARE * p * p_over_m + slope
    elif KIND == "skewed_kl":
        p_over_m, q_over_m = log_shares(log_p, log_q, SHARE)
        value = p * p_over_m
        slope = -(1 - SHARE) * p * tl.exp(q_over_m)
    else:
        tl.static_assert(KIND == "skewed_reverse_kl")
        q_over_m, _ = log_shares(log_q, log_p, SHARE)
        value = q * q_over_m
        slope = value + q * (1 - SHARE * tl.exp(q_over_m))
    return value, slope


@triton.jit
def log_shares(log_a, log_b, SHARE: tl.constexpr):
    """log(a / m) and log(b / m) of the mixture m = SHARE a + (1 - SHARE) b; finite where a or b is 0.

    From the difference of the logarithms, which is exact near a = b, and not from m.
    """
    difference = tl.maximum(log_a, -1e30) - tl.maximum(log_b, -1e30)
    least = tl.exp(-tl.abs(difference))
    a_is_more = difference > 0
    rest = tl.log(SHARE * tl.where(a_is_more, 1.0, least) + (1 - SHARE) * tl.where(a_is_more, least, 1.0))
    return tl.minimum(difference, 0.0) - rest, -tl.maximum(difference, 0.0) - rest


@triton.jit
def logits(ptr, bias_ptr, columns, inside, SCALE: tl.constexpr, CAP: tl.constexpr, WIDE: tl.constexpr):
    """`CAP * tanh(SCALE * (matmul + bias) / CAP)` at some columns of the rows; -inf outside."""
    z = tl.load(ptr + columns, mask=inside, other=0.0).to(WIDE)
    if bias_ptr is not None:
        z += tl.load(bias_ptr + columns, mask=inside, other=0.0).to(WIDE)
    if SCALE != 1:
        z *= SCALE
    if CAP is not None:
        z = CAP * tanh(z / CAP)
    return tl.where(inside, z, float("-inf"))


@triton.jit
def tanh(x):
    """To the last digits of float32 or float64 also near 0, where 1 - exp(-2 x) has few."""
    power = tl.exp(-2 * tl.abs(x))
    large = (1 - power) / (1 + power)
    square = x * x
    # the continued fraction x / (1 + x^2 / (3 + x^2 / (5 + ...)))
    small = square / 15
    small = square / (13 + small)
    small = square / (11 + small)
    small = square / (9 + small)
    small = square / (7 + small)
    small = square / (5 + small)
    small = square / (3 + small)
    small = x / (1 + small)
    return tl.where(tl.abs(x) < 0.5, small, tl.where(x < 0, -large, large))


@triton.jit
def fold(top, x):
    """The largest of `top` and `x`, then exp(top - it), and exp(x - it)."""
    largest = tl.maximum(top, tl.max(x, 1)[:, None])
    origin = tl.where(largest == float("-inf"), 0.0, largest)  # -inf - -inf would be nan
    return largest, tl.exp(top - origin), tl.exp(x - origin)


INTERPRETED = not isinstance(compare, triton.JITFunction)
"""Whether the kernel runs in the interpreter."""
