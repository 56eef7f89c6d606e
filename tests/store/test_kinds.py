"""The encodings of targets, and how exactly they are decoded.

Oracles: the targets themselves before they are encoded, NumPy's arithmetic on the columns, and float64.
"""

import json
from dataclasses import replace

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from datasets import Dataset
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor
from transformers import AutoTokenizer

import limbeck
from limbeck.errors import ConfigError, DataError, ShapeError, TargetError
from limbeck.losses.divergences import forward_kl
from limbeck.losses.targets import DenseTargets, Head, HiddenTargets, MixedTargets, SampledTargets, SparseTargets
from limbeck.store.kinds import Column, Dense, Hidden, Sampled, TopK, kind_from, kind_of

INF = float("inf")
KINDS = [
    Dense(),
    Dense("float32"),
    TopK(5),
    TopK(5, bits=16),
    TopK(5, temperature=2.0),
    TopK(20),
    Sampled(7),
    Sampled(3, temperature=2.0),
    Hidden(),
    Hidden("bfloat16"),
    Hidden("int8"),
]
every_kind = pytest.mark.parametrize("kind", KINDS, ids=lambda kind: "-".join(map(str, kind.settings().values())))


def logits(*shape: int, seed: int = 0, scale: float = 3.0) -> Tensor:
    return scale * torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def states(n: int, classes: int = 20, width: int = 16) -> HiddenTargets:
    return HiddenTargets(logits(n, width, seed=5, scale=1.0), Head(logits(classes, width, seed=6, scale=0.5)))


def there_and_back(kind, targets, generator=None):
    columns = {name: torch.from_numpy(column) for name, column in kind.encode(targets, generator).items()}
    return kind.decode(columns, targets.num_classes, getattr(targets, "head", None))


def log_p(targets, temperature: float = 1.0) -> Tensor:
    return targets.events(torch.zeros(len(targets), targets.num_classes), temperature)[1].double()


def kl(exact: Tensor, kept: Tensor) -> Tensor:
    return forward_kl(kept, exact)


# Every kind


@every_kind
@pytest.mark.parametrize("n", [0, 1, 9])
def test_columns_are_as_announced(kind, n: int) -> None:
    columns = kind.encode(states(n))
    assert {name: Column(c.dtype, c.shape[1]) for name, c in columns.items()} == kind.columns(20, 16)
    assert {len(column) for column in columns.values()} == {n}
    assert set(kind.parquet()) <= set(columns)
    back = there_and_back(kind, states(n))
    assert (len(back), back.num_classes) == (n, 20)
    assert not back.bad_rows(forward_kl).any()


@every_kind
def test_settings_name_the_kind_and_go_through_json(kind) -> None:
    settings = json.loads(json.dumps(kind.settings()))
    assert settings["kind"] == kind.name
    assert kind_of(settings) == kind


@every_kind
def test_parquet_takes_the_columns_and_gives_them_back(kind, tmp_path) -> None:
    """With the encodings that the kind asks for, and a cumulative sum for whoever reads the ids elsewhere."""
    columns, path = kind.encode(states(9)), tmp_path / "rows.parquet"
    arrays = {name: pa.FixedSizeListArray.from_arrays(c.reshape(-1), c.shape[1]) for name, c in columns.items()}
    encodings = {f"{name}.list.element": encoding for name, encoding in kind.parquet().items()}
    others = [f"{name}.list.element" for name in columns if name not in kind.parquet()]
    pq.write_table(pa.table(arrays), path, compression="zstd", use_dictionary=others, column_encoding=encodings)
    read = pq.read_table(path)
    for name, column in columns.items():
        got = read[name].combine_chunks().flatten().to_numpy(zero_copy_only=False).reshape(column.shape)
        np.testing.assert_array_equal(got, column)


@every_kind
def test_rows_that_are_no_distribution_are_refused(kind) -> None:
    said = states(4)
    if isinstance(kind, Hidden):
        bad = [said.hidden.clone().index_fill_(0, torch.tensor([2]), x) for x in (INF, float("nan"))]
        targets = [replace(said, hidden=hidden) for hidden in bad]
    else:
        bad = [said.logits.clone().index_fill_(0, torch.tensor([2]), x) for x in (INF, float("nan"), -INF)]
        targets = [DenseTargets(z) for z in bad]
    for one in targets:
        with pytest.raises(TargetError, match="Row 2"):
            kind.encode(one)


@every_kind
def test_targets_of_some_classes_are_refused(kind) -> None:
    for targets in (SparseTargets.from_logits(logits(3, 20), 5), SampledTargets.draw(logits(3, 20), 5)):
        with pytest.raises(TargetError, match=type(targets).__name__):
            kind.encode(targets)


@pytest.mark.parametrize("kind", [kind for kind in KINDS if not isinstance(kind, Hidden)], ids=repr)
def test_a_few_rows_at_a_time_give_the_same_columns(kind, monkeypatch) -> None:
    targets = DenseTargets(logits(9, 20))
    whole = kind.encode(targets, torch.Generator().manual_seed(1))
    monkeypatch.setattr("limbeck.store.kinds._CHUNK", 45)  # two rows
    parts = kind.encode(targets, torch.Generator().manual_seed(1))
    for name in whole:
        np.testing.assert_array_equal(parts[name], whole[name])


# Dense


def test_dense_float16_is_finest_at_the_top() -> None:
    """Logits near 20 are kept to 1/128 in float16; less the row's largest, to half an ulp of the distance, 2^-11."""
    z = logits(50, 30) + 20
    back = there_and_back(Dense(), DenseTargets(z)).logits.double()
    below = (z - z.amax(-1, keepdim=True)).double()
    assert (back - below).abs().le(below.abs() * 2**-11 + 1e-7).all()
    assert kl(log_p(DenseTargets(z.double())), log_p(DenseTargets(back))).max() < 1e-6
    torch.testing.assert_close(there_and_back(Dense("float32"), DenseTargets(z)).logits.double(), below)


def test_dense_logits_beyond_float16_stay_finite_and_zeros_stay_zero() -> None:
    z = torch.tensor([[1e6, 1e6 - 1, -INF, -1e6], [0.0, -70_000.0, -1.0, -INF]], dtype=torch.float64)
    back = there_and_back(Dense(), DenseTargets(z)).logits
    assert back.dtype == torch.float16
    assert back.tolist() == [[0.0, -1.0, -INF, -65504.0], [0.0, -65504.0, -1.0, -INF]]


# Top-k


def test_top_k_ids_are_gaps() -> None:
    z = torch.full((2, 50), -9.0)
    z[0, [41, 3, 7]] = torch.tensor([2.0, 1.0, 0.0])
    z[1, [0, 1, 49]] = torch.tensor([0.0, 1.0, 2.0])
    columns = TopK(3).encode(DenseTargets(z))
    assert columns["ids"].tolist() == [[3, 4, 34], [0, 1, 48]]
    assert columns["ids"].cumsum(-1).tolist() == [[3, 7, 41], [0, 1, 49]]
    assert columns["codes"][0, 2] == columns["codes"][1, 2] == 0  # the largest


@pytest.mark.parametrize("temperature", [1.0, 3.0])
@pytest.mark.parametrize(("bits", "off", "bound"), [(8, 0.006, 5e-5), (16, 5e-5, 5e-7)])
def test_top_k_comes_back(bits: int, off: float, bound: float, temperature: float) -> None:
    """Each log-probability within `off` of 4 nats and its distance from the largest; the KL within `bound`.

    That of 16 bits is float32's rounding of the log-probabilities, 6e-8 of each.
    """
    z = logits(400, 1000, scale=4.0)
    back = there_and_back(TopK(40, bits, temperature), DenseTargets(z))
    exact, kept = back.events((z.double() / temperature).log_softmax(-1), temperature)
    below = exact.amax(-1, keepdim=True) - exact
    assert ((kept - exact).abs() < off * (4 + below)).all()
    assert kl(exact, kept.double()).max() < bound
    torch.testing.assert_close(kept.double().exp().sum(-1), torch.ones(400).double(), rtol=0, atol=1e-6)
    assert back.made_at == temperature


def test_the_range_of_a_row_is_where_its_levels_lie_best() -> None:
    """The narrowest range, in NumPy on the same log-probabilities, has a KL at least 1.5 times as large."""
    z = logits(400, 64, scale=4.0).double()
    exact = z.log_softmax(-1).sort(-1, descending=True).values
    below = (exact[:, :1] - exact).numpy()
    width = np.log1p(below[:, -1:] / 4)
    plain = -4 * np.expm1(np.round(np.log1p(below / 4) / width * 254) / 254 * width)
    naive = kl(exact, torch.from_numpy(plain).log_softmax(-1)).mean()
    back = there_and_back(TopK(64), DenseTargets(z)).log_probs.double().sort(-1, descending=True).values
    ours = kl(exact, back.log_softmax(-1)).mean()
    assert ours < naive / 1.5


def test_the_tail_comes_back_at_every_temperature() -> None:
    """Mass, mean and number of classes, so that it is read as the targets before it was kept."""
    z = logits(40, 300)
    z[::2, 100:200] = -INF
    exact, back = SparseTargets.from_logits(z, 10), there_and_back(TopK(10, bits=16), DenseTargets(z))
    assert back.tail_classes.tolist() == exact.tail_classes.tolist()
    for temperature in (1.0, 2.0, 50.0):
        difference = log_p(back, temperature)[:, -1] - log_p(exact, temperature)[:, -1]
        assert difference.abs().max() < 1e-5


@pytest.mark.parametrize("bits", [8, 16])
def test_probabilities_of_zero_stay_zero(bits: int) -> None:
    """Among the kept classes, where there are fewer than k others, and in the tail."""
    z = torch.full((2, 9), -INF)
    z[0, [2, 5]] = torch.tensor([0.0, 1.0])
    z[1, :6] = torch.arange(6.0)
    back = there_and_back(TopK(4, bits), DenseTargets(z))
    exact, kept = back.events(z.log_softmax(-1), 1.0)
    assert ((kept == -INF) == (exact == -INF)).all()
    assert (kept == -INF).sum(-1).tolist() == [3, 0]
    torch.testing.assert_close(kept.exp(), exact.exp(), rtol=0, atol=0.01)
    assert not back.bad_rows(forward_kl).any()
    assert log_p(back, 5.0).isfinite().tolist() == (exact > -INF).tolist()


def test_a_tail_of_nearly_everything_or_nothing_keeps_its_digits() -> None:
    """1 - tail would be 0, or 1: their log-odds tell both, to float32's precision."""
    flat = there_and_back(TopK(1, bits=16), DenseTargets(torch.zeros(1, 100_000)))
    assert flat.log_probs.item() == pytest.approx(-np.log(100_000), rel=1e-6)
    sure = there_and_back(TopK(1, bits=16), DenseTargets(torch.tensor([[40.0, 0.0, 0.0]])))
    assert sure.tail.item() == pytest.approx(np.log(2) - 40, rel=1e-6)


@pytest.mark.parametrize("bits", [8, 16])
def test_with_every_class_there_is_no_tail(bits: int) -> None:
    z = logits(50, 10)
    back = there_and_back(TopK(10, bits), DenseTargets(z))
    for temperature in (0.5, 1.0, 20.0):
        exact, kept = back.events((z.double() / temperature).log_softmax(-1), temperature)
        assert kept.shape == (50, 10)
        assert kl(exact, kept.double()).max() < 1e-3
    one = there_and_back(TopK(1, bits), DenseTargets(torch.tensor([[3.0], [-2.0]])))
    assert (one.ids.tolist(), one.log_probs.tolist()) == ([[0], [0]], [[0.0], [0.0]])


def test_classes_as_probable_as_each_other_are_kept_so() -> None:
    back = there_and_back(TopK(4), DenseTargets(torch.zeros(3, 8)))
    torch.testing.assert_close(back.log_probs, torch.full((3, 4), 1 / 8).log())
    torch.testing.assert_close(back.tail, torch.full((3,), 1 / 2).log())


@given(
    n=st.integers(1, 5),
    classes=st.integers(2, 30),
    share=st.floats(0, 1),
    bits=st.sampled_from([8, 16]),
    scale=st.sampled_from([0.01, 3.0, 100.0]),
    seed=st.integers(0, 10_000),
)
def test_kept_classes_and_tail_sum_to_1(n: int, classes: int, share: float, bits: int, scale: float, seed: int) -> None:
    k = 1 + int(share * (classes - 1))
    z = logits(n, classes, seed=seed, scale=scale)
    back = there_and_back(TopK(k, bits), DenseTargets(z))
    assert (log_p(back).exp().sum(-1) - 1).abs().max() < 1e-6
    exact = z.topk(k).indices.sort(-1).values
    assert back.ids.tolist() == exact.tolist()
    assert not back.bad_rows(forward_kl).any()


# Who is kept


def test_dense_hidden_and_mixed_targets_are_kept_alike() -> None:
    """A mixture by its own log-probabilities, at the temperature that it is kept at: not those of a mean of logits."""
    said, other = states(6), DenseTargets(logits(6, 20, seed=9))
    mixed = MixedTargets([said, other])
    for temperature in (1.0, 4.0):
        p = (log_p(said, temperature).exp() + log_p(other, temperature).exp()) / 2
        back = there_and_back(TopK(5, bits=16, temperature=temperature), mixed)
        torch.testing.assert_close(back.log_probs.double(), p.gather(-1, back.ids).log(), rtol=0, atol=2e-4)
    for kind in (Dense(), TopK(5), Sampled(5)):
        a, b = (kind.encode(t, torch.Generator().manual_seed(1)) for t in (said, DenseTargets(said.logits)))
        assert all((a[name] == b[name]).all() for name in a)
    half = there_and_back(Dense("float32"), mixed)
    torch.testing.assert_close(log_p(half).exp(), (log_p(said).exp() + log_p(other).exp()) / 2, rtol=1e-5, atol=1e-8)


def test_bfloat16_logits_are_widened_before_anything() -> None:
    z = (logits(8, 20) + 50).bfloat16()
    back = there_and_back(Dense("float32"), DenseTargets(z)).logits
    torch.testing.assert_close(back, z.float() - z.float().amax(-1, keepdim=True), rtol=0, atol=0)


# Sampled


def test_the_generator_makes_the_draws() -> None:
    targets, draw = DenseTargets(logits(30, 50)), Sampled(9)
    first, again, other = (draw.encode(targets, torch.Generator().manual_seed(s))["ids"] for s in (1, 1, 2))
    assert (first == again).all()
    assert (first != other).any()
    exact = SampledTargets.draw(targets.logits, 9, generator=torch.Generator().manual_seed(1))
    back = there_and_back(draw, targets, torch.Generator().manual_seed(1))
    assert back.ids.tolist() == exact.ids.sort(-1).values.tolist()
    torch.testing.assert_close(back.weights, exact.weights)


@pytest.mark.parametrize("temperature", [1.0, 2.0])
def test_the_mean_gradient_of_samples_is_the_dense_gradient(temperature: float) -> None:
    """Over 4,000 draws of 8, each class within 5 standard errors of the mean of a binomial; renormalised top-k is not.

    5 standard errors: passed by chance in all of 30 classes but once in 60,000 seeds; the seed is fixed.
    """
    z, v = logits(1, 30, seed=1), logits(1, 30, seed=2, scale=2.0)
    draws, k = 4000, 8

    def gradient(targets) -> Tensor:
        x = z.double().requires_grad_()
        log_q = (x / temperature).log_softmax(-1).expand(len(targets), -1)
        divergence = targets.compared_by(forward_kl, temperature)
        return torch.autograd.grad(divergence(*targets.events(log_q, temperature)).mean(), x)[0]

    dense = gradient(DenseTargets(v.double()))
    many = DenseTargets(v.expand(draws, -1))
    drawn = gradient(there_and_back(Sampled(k, temperature), many, torch.Generator().manual_seed(3)))
    p = (v.double() / temperature).softmax(-1)
    error = (p * (1 - p) / (k * draws)).sqrt() / temperature
    assert ((drawn - dense).abs() < 5 * error + 1e-6).all()
    top = (v.double() / temperature).topk(k)
    renormalised = torch.full_like(p, -INF).scatter_(-1, top.indices, top.values)
    biased = gradient(DenseTargets(renormalised * temperature))
    assert ((biased - dense).abs() / error).max() > 15


# Hidden


@pytest.mark.parametrize(("dtype", "off"), [("float16", 2**-11), ("bfloat16", 2**-8), ("int8", None)])
def test_hidden_states_come_back(dtype: str, off: float | None) -> None:
    """To half a unit in the last place; int8 to half a step, the row's largest / 127 / 2."""
    said = states(50)
    back = there_and_back(Hidden(dtype), said)
    difference = (back.hidden.float() - said.hidden).abs()
    step = said.hidden.abs().amax(-1, keepdim=True) / 127 / 2
    assert (difference <= (said.hidden.abs() * off + 1e-7 if off else step * 1.001)).all()
    assert back.head is said.head
    if dtype == "bfloat16":
        assert back.hidden.dtype == torch.bfloat16
        assert torch.equal(back.hidden, said.hidden.bfloat16())
    nothing = there_and_back(Hidden(dtype), replace(said, hidden=torch.zeros(2, 16)))
    assert (nothing.hidden == 0).all()


def test_only_hidden_targets_have_hidden_states() -> None:
    with pytest.raises(TargetError, match=r"got DenseTargets.*causal language model"):
        Hidden().encode(DenseTargets(logits(3, 20)))
    with pytest.raises(TargetError, match="a teacher without them"):
        Hidden().columns(20, None)
    with pytest.raises(TargetError, match="pass it as head"):
        Hidden().decode({"hidden": torch.zeros(1, 4, dtype=torch.float16)}, 20)
    large = replace(states(2), hidden=torch.full((2, 16), 1e5))
    with pytest.raises(TargetError, match=r"beyond float16's 65504; store them in bfloat16"):
        Hidden().encode(large)
    assert there_and_back(Hidden("bfloat16"), large).hidden.float().mean().item() == pytest.approx(1e5, rel=4e-3)


def test_hidden_states_are_read_with_the_classes_that_are_meant() -> None:
    """A padded output layer is cropped to as many classes as the set speaks of."""
    columns = {name: torch.from_numpy(c) for name, c in Hidden().encode(states(3)).items()}
    assert Hidden().decode(columns, 17, states(3).head).num_classes == 17


def test_what_a_real_model_says_comes_back(data) -> None:
    """stories260k on 8 stories: mean KL of every class from int8 states, and of 65 events from 8-bit codes."""
    folder, text = data("stories260k"), data("tinystories_sample") / "tinystories_sample.txt"
    tokenizer = AutoTokenizer.from_pretrained(folder)
    records = [{"text": story.strip()} for story in text.read_text(encoding="utf-8").split("<|endoftext|>")[:8]]
    rows = limbeck.tokenise(Dataset.from_list(records), tokenizer, max_length=256)
    batch = limbeck.Pad(tokenizer.eos_token_id)([rows[i] for i in range(len(rows))])
    said = limbeck.ModelTeacher(limbeck.load(folder))(batch)
    exact = said.logits.double().log_softmax(-1)
    assert len(said) > 1000
    for kind, bound in ((Hidden("int8"), 1e-3), (Hidden(), 1e-6), (Dense(), 1e-6), (TopK(64), 2e-5), (TopK(512), 5e-5)):
        events, kept = there_and_back(kind, said).events(exact, 1.0)
        assert kl(events, kept.double()).mean() < bound, kind


# Names


def test_names_have_defaults() -> None:
    assert kind_from("dense") == Dense("float16")
    assert kind_from("top_k") == TopK(64, 8, 1.0)
    assert kind_from("sampled", k=12) == Sampled(12, 1.0)
    assert kind_from("hidden", dtype="int8") == Hidden("int8")
    assert TopK(64).settings() == {"kind": "top_k", "k": 64, "bits": 8, "temperature": 1.0}


@pytest.mark.parametrize(
    ("name", "options", "message"),
    [
        ("topk", {}, "dense or top_k or sampled or hidden, but got 'topk'"),
        ("top_k", {"K": 3}, "takes k, bits, temperature, but got K"),
        ("top_k", {"name": "x"}, "but got name"),
        ("top_k", {"k": 0}, "is 0"),
        ("top_k", {"k": 2.0}, "is 2.0"),
        ("top_k", {"k": True}, "is True"),
        ("top_k", {"bits": 4}, "8 or 16, but is 4"),
        ("top_k", {"temperature": 0}, "above 0, but is 0"),
        ("sampled", {"k": -1}, "is -1"),
        ("sampled", {"temperature": INF}, "is inf"),
        ("dense", {"dtype": "bfloat16"}, "float16 or float32, but is 'bfloat16'"),
        ("hidden", {"dtype": "float32"}, "is 'float32'"),
    ],
)
def test_what_there_is_not_is_refused(name: str, options: dict, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        kind_from(name, **options)
    with pytest.raises(DataError, match=message):
        kind_of({"kind": name, **options})


@pytest.mark.parametrize("settings", [{}, {"kind": None}, {"kind": ["top_k"]}, {"k": 3}])
def test_settings_without_a_kind_are_refused(settings: dict) -> None:
    with pytest.raises(DataError, match="name an unknown kind"):
        kind_of(settings)


def test_more_classes_than_there_are_cannot_be_kept() -> None:
    for refused in (lambda: TopK(64).columns(10), lambda: TopK(64).encode(DenseTargets(logits(2, 10)))):
        with pytest.raises(ShapeError, match="k = 64 stores more than the 10 classes there are; lower k"):
            refused()
