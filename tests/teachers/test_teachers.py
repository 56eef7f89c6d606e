"""Teachers, ensembles and recordings, against NumPy, and against the same model called by hand."""

import copy
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from sklearn.datasets import load_digits
from sklearn.ensemble import RandomForestClassifier
from sklearn.linear_model import LogisticRegression
from sklearn.neighbors import KNeighborsClassifier
from sklearn.neural_network import MLPClassifier
from sklearn.svm import LinearSVC
from torch import Tensor, nn
from transformers import BertConfig, BertForSequenceClassification

from limbeck.errors import DataError, ModelError, ShapeError
from limbeck.losses.targets import DenseTargets, MixedTargets, SparseTargets
from limbeck.networks.folder import load, save
from limbeck.networks.mlp import mlp
from limbeck.teachers import ClassifierTeacher, Ensemble, FunctionTeacher, ModelTeacher, as_teacher, record
from limbeck.transfer import TransferSet, arrays

pytestmark = pytest.mark.filterwarnings("ignore::sklearn.exceptions.ConvergenceWarning")

X, Y = load_digits(return_X_y=True)
X, Y = (X[:300] / 16).astype(np.float32), Y[:300]
BATCH = {"inputs": torch.from_numpy(X[:20]), "row_id": torch.arange(20)}


def network(seed: int = 0, **settings: Any) -> nn.Module:
    torch.manual_seed(seed)
    return mlp([64, 12, 10], **settings)


def forest(seed: int = 0, rows: int = 300) -> RandomForestClassifier:
    return RandomForestClassifier(5, max_depth=4, random_state=seed).fit(X[:rows], Y[:rows])


def function(batch: Any) -> Tensor:
    return batch["inputs"][:, :10] * 3


def softmax(z: np.ndarray) -> np.ndarray:
    e = np.exp(z - z.max(-1, keepdims=True))
    return e / e.sum(-1, keepdims=True)


# One model


def test_a_network_teaches_in_eval_mode_without_gradient_and_frozen() -> None:
    model = network(dropout=0.5).train()
    with torch.no_grad():
        expected = copy.deepcopy(model).eval()(BATCH["inputs"])
    teacher = as_teacher(model)
    model.train()
    assert torch.equal(teacher(BATCH).logits, expected)
    model.layers.train()  # a part of it only
    assert torch.equal(teacher(BATCH).logits, expected)
    assert not teacher(BATCH).logits.requires_grad
    assert not any(p.requires_grad for p in model.parameters())


def test_a_classifier_gives_the_log_of_its_probabilities() -> None:
    classifier = forest()
    expected = classifier.predict_proba(X[:20])
    logits = as_teacher(classifier)(BATCH).logits.numpy()
    np.testing.assert_allclose(np.exp(logits), expected, rtol=1e-6)
    assert np.isneginf(logits[expected == 0]).all()
    assert (expected == 0).any()  # or the line above says nothing
    images = {**BATCH, "inputs": BATCH["inputs"].reshape(20, 8, 8)}
    np.testing.assert_array_equal(as_teacher(classifier)(images).logits.numpy(), logits)


def test_a_function_is_a_teacher_of_logits_or_of_targets() -> None:
    torch.testing.assert_close(as_teacher(function)(BATCH).logits, BATCH["inputs"][:, :10] * 3)
    sparse = SparseTargets.from_logits(function(BATCH), 3)
    assert as_teacher(lambda batch: sparse)(BATCH) is sparse


def test_the_teachers_own_columns_are_what_it_reads() -> None:
    both = {"inputs": torch.zeros(20, 64), "teacher_inputs": BATCH["inputs"]}
    for model in (network(), forest()):
        expected = as_teacher(model)(BATCH).logits
        assert torch.equal(as_teacher(model)(both).logits, expected)


@pytest.mark.parametrize("nothing", [None, 3, "resnet", [1, 2]])
def test_what_cannot_teach_is_refused(nothing: Any) -> None:
    with pytest.raises(ModelError, match=f"network.*predict_proba.*function.*but got {type(nothing).__name__}"):
        as_teacher(nothing)


def test_classifiers_that_cannot_teach_are_refused() -> None:
    with pytest.raises(ModelError, match="not been fitted; call fit"):
        ClassifierTeacher(LogisticRegression())
    with pytest.raises(ModelError, match="LinearSVC has no predict_proba"):
        ClassifierTeacher(LinearSVC())
    with pytest.raises(ModelError, match=r"one input column.*'a', 'b'"):
        ClassifierTeacher(forest())({"a": torch.zeros(2, 3), "b": torch.zeros(2, 3)})


# The order of classes


def test_a_classifiers_columns_are_the_labels() -> None:
    """LogisticRegression orders its columns by classes_, whatever the order of the labels it saw."""
    order = np.random.default_rng(0).permutation(len(Y))
    classifier = LogisticRegression(max_iter=50).fit(X[order], Y[order])
    assert (as_teacher(classifier)(BATCH).logits.argmax(-1).numpy() == classifier.predict(X[:20])).all()
    assert as_teacher(classifier).label_names is None  # numbers in order are the labels themselves


@pytest.mark.parametrize("labels", [Y + 1, np.where(Y == 3, 4, Y), Y * 10, -Y], ids=["1 to 10", "gap", "tens", "below"])
def test_a_classifier_of_other_numbers_is_refused(labels: np.ndarray) -> None:
    classifier = LogisticRegression(max_iter=5).fit(X, labels)
    with pytest.raises(ModelError, match=r"classes are \[.*labels 0 to \d; fit it on all labels of the transfer set"):
        as_teacher(classifier)


@pytest.mark.parametrize("labels", [Y.astype(float), Y < 5])
def test_labels_of_another_type_are_the_same_labels(labels: np.ndarray) -> None:
    assert as_teacher(LogisticRegression(max_iter=5).fit(X, labels)).label_names is None


def test_a_classifier_of_names_says_them_in_its_own_order() -> None:
    names = np.array(["zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine"])
    teacher = as_teacher(LogisticRegression(max_iter=5).fit(X, names[Y]))
    assert teacher.label_names == tuple(sorted(names))


# Fingerprints


def test_a_networks_fingerprint_is_of_what_it_is_and_not_of_where_it_lies(tmp_path: Path) -> None:
    model = network()
    of = ModelTeacher(copy.deepcopy(model)).fingerprint()
    assert ModelTeacher(load(save(model, tmp_path / "a"))).fingerprint() == of
    assert ModelTeacher(load(save(model, tmp_path / "b"))).fingerprint() == of
    others = [network(1), network(dropout=0.1), copy.deepcopy(model).double(), copy.deepcopy(model).bfloat16()]
    nudged = copy.deepcopy(model)
    with torch.no_grad():
        nudged.layers[0].bias[3] += 1e-6
    prints = [ModelTeacher(other).fingerprint() for other in [*others, nudged]]
    assert len({of, *prints}) == 1 + len(prints)


def bert(**changes: Any) -> BertForSequenceClassification:
    torch.manual_seed(0)
    small = {"hidden_size": 8, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 8}
    return BertForSequenceClassification(BertConfig(vocab_size=20, num_labels=3, **(small | changes)))


def test_a_transformers_models_fingerprint(tmp_path: Path) -> None:
    model = bert()
    model.save_pretrained(tmp_path / "a")
    load(tmp_path / "a").save_pretrained(tmp_path / "b" / "c")
    of = ModelTeacher(load(tmp_path / "a")).fingerprint()
    assert ModelTeacher(load(tmp_path / "b" / "c")).fingerprint() == of
    assert ModelTeacher(bert()).fingerprint() == of  # made in memory, never saved
    assert ModelTeacher(bert(hidden_act="relu")).fingerprint() != of
    assert ModelTeacher(load(tmp_path / "a").double()).fingerprint() != of


CLASSIFIERS = {
    "logistic": lambda rows: LogisticRegression(max_iter=5).fit(X[:rows], Y[:rows]),
    "forest": lambda rows: forest(rows=rows),
    "neighbours": lambda rows: KNeighborsClassifier().fit(X[:rows], Y[:rows]),
    "network": lambda rows: MLPClassifier((5,), max_iter=2, random_state=0).fit(X[:rows], Y[:rows]),
}


@pytest.mark.parametrize("kind", CLASSIFIERS)
def test_a_classifiers_fingerprint_is_of_what_it_learned(kind: str) -> None:
    make = CLASSIFIERS[kind]
    classifier = make(300)
    of = ClassifierTeacher(classifier).fingerprint()
    classifier.predict_proba(X)  # using it is not changing it
    assert ClassifierTeacher(classifier).fingerprint() == of
    assert ClassifierTeacher(copy.deepcopy(classifier)).fingerprint() == of
    assert ClassifierTeacher(make(300)).fingerprint() == of
    assert ClassifierTeacher(make(299)).fingerprint() != of


ELSEWHERE = """
import numpy as np, torch
from sklearn.ensemble import RandomForestClassifier
from limbeck.teachers import Ensemble
from limbeck.networks.mlp import mlp
x = np.random.default_rng(0).random((50, 4))
torch.manual_seed(0)
forest = RandomForestClassifier(3, random_state=0).fit(x, np.arange(50) % 3)
said = Ensemble([mlp([4, 3]), forest]).fingerprint()
"""


def test_a_fingerprint_is_the_same_in_another_process() -> None:
    """Nothing of it comes from addresses or from Python's hashes of texts."""
    here: dict[str, Any] = {}
    exec(ELSEWHERE, here)
    run = [sys.executable, "-c", ELSEWHERE + "print(said)"]
    there = subprocess.run(run, capture_output=True, text=True, env={**os.environ, "PYTHONHASHSEED": "7"})
    assert there.stdout.strip() == here["said"], there.stderr


def test_a_function_has_the_fingerprint_it_is_given() -> None:
    assert FunctionTeacher(function, fingerprint="thrice").fingerprint() == "thrice"
    with pytest.raises(ModelError, match=r'fingerprint="\.\.\."'):
        FunctionTeacher(function).fingerprint()


def test_an_ensembles_fingerprint_is_of_its_members_their_order_weights_and_mean() -> None:
    members = [network(0), forest()]
    variants = [
        Ensemble(members),
        Ensemble(members[::-1]),
        Ensemble(members, weights=[1, 2]),
        Ensemble(members, mean="geometric"),
        Ensemble([network(1), forest()]),
    ]
    assert len({variant.fingerprint() for variant in variants}) == len(variants)
    assert Ensemble([network(0), forest()], weights=[3, 3]).fingerprint() == variants[0].fingerprint()


# Ensembles


@pytest.mark.parametrize("weights", [None, [1, 2, 5]])
@pytest.mark.parametrize("temperature", [1.0, 3.0])
def test_an_ensemble_is_the_mixture_of_its_softened_members(weights: Any, temperature: float) -> None:
    model, classifier = network(), LogisticRegression(max_iter=50).fit(X, Y)
    with torch.no_grad():
        logits = [
            model(BATCH["inputs"]).double().numpy(),
            np.log(classifier.predict_proba(X[:20])),
            3 * X[:20, :10].astype(float),
        ]
    w = np.array(weights or [1, 1, 1]) / np.sum(weights or [1, 1, 1])
    softened = np.stack([softmax(z / temperature) for z in logits])
    arithmetic = np.einsum("k,knc->nc", w, softened)
    geometric = np.exp(np.einsum("k,knc->nc", w, np.log(softened)))
    geometric /= geometric.sum(-1, keepdims=True)
    for mean, expected in (("arithmetic", arithmetic), ("geometric", geometric)):
        targets = Ensemble([model, classifier, function], mean=mean, weights=weights)(BATCH)
        _, log_p = targets.events(torch.zeros(20, 10), temperature)
        np.testing.assert_allclose(log_p.exp().numpy(), expected, rtol=2e-5, atol=1e-7)


def test_an_ensemble_of_ensembles_weighs_each_once() -> None:
    inner = Ensemble([network(0), network(1)])
    outer = Ensemble([inner, network(2)], weights=[2, 1])
    flat = Ensemble([network(0), network(1), network(2)])
    nothing = torch.zeros(20, 10)
    torch.testing.assert_close(outer(BATCH).events(nothing, 2.0)[1], flat(BATCH).events(nothing, 2.0)[1])


def test_members_must_have_the_same_classes() -> None:
    with pytest.raises(ModelError, match="at least one member"):
        Ensemble([])
    torch.manual_seed(0)
    with pytest.raises(ShapeError, match="same rows and classes"):
        Ensemble([network(), mlp([64, 9])])(BATCH)
    cats, dogs = network(), network()
    cats.label_names = tuple("abcdefghij")
    dogs.label_names = tuple("abcdefghji")
    with pytest.raises(ModelError, match="same classes in the same order"):
        _ = Ensemble([cats, dogs]).label_names
    assert Ensemble([cats, network(1), forest()]).label_names == tuple("abcdefghij")


# Recordings


def recorded_set() -> TransferSet:
    ids = torch.tensor([5, -3, 10**15, 7, 2, 40, 11, 1, 0, 99])  # any distinct numbers
    return TransferSet({"inputs": torch.from_numpy(X[:10])}, row_ids=ids)


@pytest.mark.parametrize("batch_size", [3, 10, 64])
def test_a_recording_says_what_the_teacher_said(batch_size: int) -> None:
    data = recorded_set()
    for teacher in (as_teacher(network()), Ensemble([network(0), forest()], weights=[1, 3])):
        recorded = record(teacher, data, batch_size)
        batch = data.__getitems__([7, 2, 2, 1, 9, 0])
        live, again = teacher(batch), recorded(batch)
        nothing = torch.zeros(6, 10)
        torch.testing.assert_close(again.events(nothing, 2.0)[1], live.events(nothing, 2.0)[1])
        assert type(again) is type(live)
        assert recorded.fingerprint() == teacher.fingerprint()
        assert recorded.one_view
    assert isinstance(again, MixedTargets)


def test_a_recording_finds_rows_by_id_in_any_part_of_the_set() -> None:
    data = recorded_set()
    recorded = record(network(), data)
    part = data.select([8, 3, 1])
    expected = as_teacher(network())(part.__getitems__([0, 1, 2])).logits
    torch.testing.assert_close(recorded(part.__getitems__([0, 1, 2])).logits, expected)


def test_a_recording_of_several_sets_knows_the_rows_of_each() -> None:
    rest, part = recorded_set().split(0.3)
    recorded, teacher = record(network(), [rest, part]), ModelTeacher(network())
    for rows in (rest, part):
        batch = rows.__getitems__(list(range(len(rows))))
        torch.testing.assert_close(recorded(batch).logits, teacher(batch).logits)
    with pytest.raises(DataError, match="two rows with the row_id 0"):
        record(network(), [arrays(X[:5]), arrays(X[5:9])])


@pytest.mark.parametrize("row", [-4, 3, 100, 2 * 10**15])
def test_a_recording_refuses_rows_it_was_not_made_on(row: int) -> None:
    recorded = record(network(), recorded_set())
    with pytest.raises(DataError, match=f"Row {row} was not in the transfer set"):
        recorded({"row_id": torch.tensor([5, row, 7])})


def test_a_recording_keeps_the_names_of_the_classes() -> None:
    model = network()
    model.label_names = tuple("abcdefghij")
    assert record(model, arrays(X[:5])).label_names == tuple("abcdefghij")
    assert isinstance(record(function, arrays(X[:5]))(arrays(X[:5]).__getitems__([1])), DenseTargets)
