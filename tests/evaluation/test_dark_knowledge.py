"""Dark knowledge: three classes whose targets can be written down, and NumPy on all logits at once."""

import numpy as np
import pytest
import torch
from scipy.special import log_softmax, softmax
from scipy.stats import entropy

import limbeck
from limbeck.evaluation.dark_knowledge import LIKELIEST, TEMPERATURES, DarkKnowledge, means_of
from limbeck.losses.numbers import NO_LABEL


def of(log_p, log_q, labels, most_drawn=100, parts=1):
    """The means, with the rows added in as many batches, each to sums of its own."""
    sums = []
    for rows in np.array_split(np.arange(len(labels)), parts):
        knowledge = DarkKnowledge()
        knowledge.add(*(torch.as_tensor(x)[rows] for x in (log_p, log_q, labels)))
        sums.append(knowledge.sums)
    return means_of(sums, most_drawn)


def test_targets_that_can_be_written_down():
    """Two examples of the first class, none of the second; at T = 2 a probability becomes its root."""
    p = np.array([[0.64, 0.32, 0.04], [0.64, 0.04, 0.32], [0.16, 0.36, 0.48]])
    found = of(np.log(p), np.log(p), np.array([0, 0, NO_LABEL]))
    one, two = TEMPERATURES.index(1.0), TEMPERATURES.index(2.0)
    assert found["count"].tolist() == [2, 0, 1]
    np.testing.assert_allclose(found["mean_targets"][one][0], [0.64, 0.18, 0.18], atol=1e-6)
    np.testing.assert_allclose(found["mean_targets"][one][2], [0.16, 0.36, 0.48], atol=1e-6)
    assert np.isnan(found["mean_targets"][one][1]).all()
    assert found["off_top"][one] == pytest.approx((0.36 + 0.36 + 0.52) / 3)
    roots = np.sqrt(p) / np.sqrt(p).sum(1, keepdims=True)
    np.testing.assert_allclose(found["mean_targets"][two][2], roots[2], atol=1e-6)
    assert found["entropy"][two] == pytest.approx(entropy(roots, axis=1).mean())
    others = np.array([[0.32, 0.04], [0.04, 0.32], [0.16, 0.36]])
    assert found["evenness"][one] == pytest.approx((entropy(others, axis=1) / np.log(2)).mean())
    assert found["gradient"]["student"]["soft"] == pytest.approx(np.zeros(len(TEMPERATURES)), abs=1e-9)
    assert found["gradient"]["student"]["hard"] == pytest.approx(np.linalg.norm([[0.36, 0.32, 0.04]], axis=1).mean())
    assert found["gradient"]["untrained"]["hard"] == pytest.approx(np.sqrt(2 / 3))


def test_a_smoothed_teacher_is_even_and_a_ruled_out_class_is_no_nan():
    smoothed = np.log(np.full((4, 5), 0.02) + 0.9 * np.eye(5)[:4])
    found = of(smoothed, smoothed, np.arange(4))
    assert found["evenness"][0] == pytest.approx(1.0)
    assert found["off_top"][0] == pytest.approx(0.08)
    with np.errstate(divide="ignore"):
        sure = np.log(np.eye(5))
    found = of(sure, sure, np.arange(5))
    assert found["entropy"].tolist() == found["off_top"].tolist() == found["evenness"].tolist() == [0.0] * 9


@pytest.mark.parametrize("parts", [1, 3])
def test_numpy_on_all_logits_at_once(parts):
    rng = np.random.default_rng(0)
    log_p, log_q = (log_softmax(3 * rng.normal(size=(50, 7)), -1) for _ in range(2))
    labels = rng.integers(7, size=50)
    labels[::5] = NO_LABEL
    found = of(log_p, log_q, labels, parts=parts)
    known = labels != NO_LABEL
    for k, temperature in enumerate(TEMPERATURES):
        p, q = softmax(log_p / temperature, -1), softmax(log_q / temperature, -1)
        assert found["entropy"][k] == pytest.approx(entropy(p, axis=1).mean())
        assert found["off_top"][k] == pytest.approx(1 - p.max(1).mean())
        # Eq. 2 times T^2
        soft = np.linalg.norm(temperature**2 * (q - p) / temperature, axis=1).mean()
        assert found["gradient"]["student"]["soft"][k] == pytest.approx(soft)
        assert found["gradient"]["untrained"]["soft"][k] == pytest.approx(
            np.linalg.norm(temperature * (1 / 7 - p), axis=1).mean()
        )
        for c in range(7):
            np.testing.assert_allclose(found["mean_targets"][k][c], p[log_p.argmax(1) == c].mean(0), atol=1e-6)
    hard = np.linalg.norm(softmax(log_q, -1)[known] - np.eye(7)[labels[known]], axis=1).mean()
    assert found["gradient"]["student"]["hard"] == pytest.approx(hard)


def test_many_classes_keep_the_likeliest_ones():
    rng = np.random.default_rng(0)
    log_p = log_softmax(rng.normal(size=(200, 12)), -1)
    found = of(log_p, log_p, np.zeros(200, int), most_drawn=11)
    assert found["mean_targets"] is None
    full = of(log_p, log_p, np.zeros(200, int))["mean_targets"]
    kept = found["likeliest"]
    assert kept["classes"].shape == (len(TEMPERATURES), 12, LIKELIEST)
    np.testing.assert_allclose(kept["mean"], np.sort(full, -1)[..., ::-1][..., :LIKELIEST])
    np.testing.assert_allclose(np.take_along_axis(full, kept["classes"], -1), kept["mean"])


def test_an_evaluation_has_it_and_folds_are_pooled():
    """Ten digits by two halves of the test are the whole."""
    test = limbeck.digits().select(range(200))
    torch.manual_seed(0)
    teacher, student = limbeck.mlp([64, 10]), limbeck.mlp([64, 10])
    halves = [test.select(range(100)), test.select(range(100, 200))]
    whole = limbeck.evaluate(student, test, teacher=teacher, latency=False)["dark_knowledge"]
    pooled = limbeck.compare([limbeck.predict(student, half, teacher=teacher, latency=False) for half in halves])
    assert pooled["dark_knowledge"]["entropy"] == pytest.approx(whole["entropy"])
    assert pooled["dark_knowledge"]["gradient"]["student"]["hard"] == pytest.approx(
        whole["gradient"]["student"]["hard"]
    )
    assert sum(whole["count"]) == 200
    assert limbeck.evaluate(student, test, latency=False)["dark_knowledge"] is None
