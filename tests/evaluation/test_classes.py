"""Evaluation: NumPy on all logits at once, cases made by hand, and simulations whose truth is known."""

import base64
import io
import json
import math
from pathlib import Path
from types import SimpleNamespace

import datasets
import numpy as np
import pytest
import torch
from PIL import Image
from scipy.special import log_softmax
from sklearn.ensemble import RandomForestClassifier
from sklearn.metrics import confusion_matrix
from torch import nn

import limbeck
from limbeck.errors import ConfigError, DataError, ModelError, ShapeError, TargetError
from limbeck.evaluation.class_verdict import judge
from limbeck.evaluation.classes import compare, evaluate, predict
from limbeck.losses.metrics import fit_calibration_temperature
from limbeck.losses.targets import SparseTargets
from limbeck.networks.cost import latency_ms, size_of
from limbeck.networks.mlp import mlp
from limbeck.results import read_results, write_results
from limbeck.teachers import Ensemble, record
from limbeck.transfer import TransferSet, arrays

N, C = 90, 5
RNG = np.random.default_rng(0)
LABELS = RNG.integers(C, size=N)


class Says(nn.Module):
    """A model whose logits for example i are row i of a table; in train mode it says nonsense."""

    def __init__(self, table):
        super().__init__()
        self.table = nn.Parameter(torch.as_tensor(table, dtype=torch.float32))
        self.noise = nn.Dropout(0.5)

    def forward(self, inputs):
        return self.noise(self.table[inputs[:, 0].long()])


def table(seed, skill=2.0, classes=C):
    rng = np.random.default_rng(seed)
    return rng.normal(size=(N, classes)) + skill * np.eye(classes)[LABELS % classes]


def rows(labels=LABELS, **settings):
    return arrays(np.arange(N)[:, None].astype(np.float32), labels, **settings)


@pytest.fixture(scope="module")
def results():
    """Two students and baselines, a teacher; temperatures fitted on the last third, judged on the others."""
    test, held_out = rows().select(range(60)), rows().select(range(60, 90))
    students, baselines = [Says(table(1)), Says(table(2))], [Says(table(3, 1.0)), Says(table(4, 1.0))]
    return evaluate(
        students, test, baseline=baselines, teacher=Says(table(0, 3.0)), held_out=held_out, batch_size=7, latency=False
    )


def test_every_measure_against_numpy_on_all_logits_at_once(results):
    student, labels = results["roles"]["student"], LABELS[:60]
    log_p = log_softmax(table(0, 3.0)[:60], -1)
    teacher_right = log_p.argmax(1) == labels
    for s, seed in enumerate((1, 2)):
        log_q = log_softmax(table(seed)[:60], -1)
        q, p, right = np.exp(log_q), np.exp(log_p), log_q.argmax(1) == labels
        agrees = log_q.argmax(1) == log_p.argmax(1)
        for name, oracle in {
            "accuracy": right.mean(),
            "errors": (~right).sum(),
            "nll": -log_q[np.arange(60), labels].mean(),
            "brier": ((q - np.eye(C)[labels]) ** 2).sum(1).mean(),
            "confidence": q.max(1).mean(),
            "entropy": -(q * log_q).sum(1).mean(),
        }.items():
            assert student[name]["seeds"][s] == pytest.approx(oracle, rel=1e-5), name
        for name, oracle in {
            "forward_kl": (p * (log_p - log_q)).sum(1).mean(),
            "reverse_kl": (q * (log_q - log_p)).sum(1).mean(),
            "agreement": agrees.mean(),
            "agreement_where_teacher_right": agrees[teacher_right].mean(),
            "agreement_where_teacher_wrong": agrees[~teacher_right].mean(),
            "acceptance": np.minimum(p, q).sum(1).mean(),
        }.items():
            assert student["to_teacher"][name]["seeds"][s] == pytest.approx(oracle, rel=1e-5), name
    assert student["nll"]["mean"] == pytest.approx(np.mean(student["nll"]["seeds"]))
    assert results["roles"]["teacher"]["accuracy"]["seeds"] == [pytest.approx(teacher_right.mean())]
    assert results["roles"]["teacher"]["to_teacher"] is None


def test_temperatures_come_from_the_held_out_rows_only(results):
    fitted = fit_calibration_temperature(torch.tensor(table(1)[60:]), torch.tensor(LABELS[60:]))
    scaled = results["roles"]["student"]["scaled"]
    assert scaled["temperature"]["seeds"][0] == pytest.approx(fitted, rel=1e-3)
    log_q = log_softmax(table(1)[:60] / scaled["temperature"]["seeds"][0], -1)
    assert scaled["nll"]["seeds"][0] == pytest.approx(-log_q[np.arange(60), LABELS[:60]].mean(), rel=1e-5)
    brier = ((np.exp(log_q) - np.eye(C)[LABELS[:60]]) ** 2).sum(1).mean()
    assert scaled["brier"]["seeds"][0] == pytest.approx(brier, rel=1e-5)
    assert results["roles"]["student"]["scaled_reason"] is None
    assert scaled["calibration"]["count"] != results["roles"]["student"]["calibration"]["count"]
    assert sum(scaled["calibration"]["count"]) == 60


def test_counts_per_class_and_confusion(results):
    labels = LABELS[:60]
    assert results["test"]["per_class"] == np.bincount(labels, minlength=C).tolist()
    predicted = [table(seed)[:60].argmax(1) for seed in (1, 2)]
    hits = np.mean([[((y == k) & (labels == k)).sum() for k in range(C)] for y in predicted], 0)
    assert results["roles"]["student"]["correct_per_class"] == hits.tolist()
    said = table(0, 3.0)[:60].argmax(1)
    expected = np.mean([confusion_matrix(said, y, labels=range(C)) for y in predicted], 0)
    assert results["confusion"] == expected.tolist()


def test_examples_are_those_of_the_largest_kl(results):
    log_p, log_q = log_softmax(table(0, 3.0)[:60], -1), log_softmax(table(1)[:60], -1)
    kl = (np.exp(log_p) * (log_p - log_q)).sum(1)
    worst = np.argsort(-kl)[:16]
    assert [e["row_id"] for e in results["examples"]] == worst.tolist()
    first = results["examples"][0]
    assert first["forward_kl"] == pytest.approx(kl.max(), rel=1e-5)
    assert first["label"] == LABELS[worst[0]]
    assert first["classes"] == list(range(C))
    np.testing.assert_allclose(first["log_probs"]["student"], log_q[worst[0]], atol=1e-5)
    np.testing.assert_allclose(first["log_probs"]["baseline"], log_softmax(table(3, 1.0), -1)[worst[0]], atol=1e-5)


def test_batches_of_seven_equal_one_batch(results):
    test, held_out = rows().select(range(60)), rows().select(range(60, 90))
    whole = evaluate(
        [Says(table(1)), Says(table(2))],
        test,
        baseline=[Says(table(3, 1.0)), Says(table(4, 1.0))],
        teacher=Says(table(0, 3.0)),
        held_out=held_out,
        batch_size=1000,
        latency=False,
    )
    assert whole == _approximately(results)


def _approximately(value):
    if isinstance(value, dict):
        return {name: _approximately(part) for name, part in value.items()}
    if isinstance(value, list):
        return [_approximately(part) for part in value]
    return pytest.approx(value, rel=1e-5, abs=1e-6) if isinstance(value, float) else value


def test_folds_judged_together_equal_one_test_of_the_same_models():
    models = {"baseline": [Says(table(3, 1.0))], "teacher": Says(table(0, 3.0)), "latency": False}
    student = Says(table(1))
    whole = compare(predict(student, rows(), **models))
    folds = compare([predict(student, rows().select(range(k, N, 3)), **models) for k in range(3)])
    assert folds["test"].pop("folds") == 3
    assert whole["test"].pop("folds") == 1
    assert folds == _approximately(whole)


def test_folds_fit_temperatures_of_their_own():
    folds = [
        predict(Says(scale * table(1)), rows().select(range(60)), held_out=rows().select(range(60, N)), latency=False)
        for scale in (1.0, 2.0)
    ]
    whole, one = compare(folds)["roles"]["student"]["scaled"], compare(folds[0])["roles"]["student"]["scaled"]
    assert whole["temperature"]["seeds"][0] == pytest.approx(1.5 * one["temperature"]["seeds"][0], rel=1e-3)
    assert whole["nll"]["mean"] == pytest.approx(one["nll"]["mean"], rel=1e-4)
    bare = predict(Says(table(1)), rows(), latency=False)
    assert "No held-out" in compare([folds[0], bare])["roles"]["student"]["scaled_reason"]
    two = predict([Says(table(1))] * 2, rows(), latency=False)
    with pytest.raises(ShapeError, match="same classes, roles and numbers of seeds"):
        compare([bare, two])


def test_modes_and_gradients_are_as_before():
    student = nn.Sequential(Says(table(1)), nn.Dropout(0.5))
    student.train()
    student[1].eval()
    teacher = Says(table(0)).train()
    evaluate(student, rows(), teacher=teacher, latency=False)
    assert [m.training for m in student.modules()] == [True, True, True, False]
    assert teacher.training
    assert teacher.table.requires_grad
    with pytest.raises(ModelError, match="row_id 4;"):
        evaluate(student.append(_Spoil(4)), rows(), latency=False)
    assert student.training


class _Spoil(nn.Module):
    def __init__(self, row):
        super().__init__()
        self.row = row

    def forward(self, logits):
        return logits.index_fill(0, torch.tensor([self.row]), math.nan)


def test_without_labels_the_teacher_is_still_compared_with():
    bare = evaluate(Says(table(1)), rows(None), teacher=Says(table(0)), latency=False)
    labelled = evaluate(Says(table(1)), rows(), teacher=Says(table(0)), latency=False)
    student = bare["roles"]["student"]
    for name in ("accuracy", "errors", "nll", "brier", "ece", "calibration", "correct_per_class"):
        assert student[name] is None
    for name in ("forward_kl", "reverse_kl", "agreement", "acceptance"):
        assert student["to_teacher"][name] == labelled["roles"]["student"]["to_teacher"][name]
    assert student["to_teacher"]["agreement_where_teacher_right"] is None
    assert bare["verdict"]["word"] is None
    assert bare["verdict"]["sentence"] == "There is no labelled example, so the student is not judged."
    assert bare["confusion"] == labelled["confusion"]
    assert [e["label"] for e in bare["examples"]] == [None] * 16
    json.dumps(bare, allow_nan=False)


def test_rows_without_label_and_masked_rows_are_left_out():
    some = rows().without_labels(except_rows=range(0, N, 2))
    half = evaluate(Says(table(1)), some, latency=False)["roles"]["student"]
    alone = evaluate(Says(table(1)), rows().select(range(0, N, 2)), latency=False)["roles"]["student"]
    for name in ("accuracy", "errors", "nll", "ece", "correct_per_class"):
        assert half[name] == _approximately(alone[name])
    mask = np.arange(N) % 2 == 0
    masked = TransferSet({"inputs": np.arange(N, dtype=np.float32)[:, None], "mask": mask}, LABELS)
    got = evaluate(Says(table(1)), masked, teacher=Says(table(0)), latency=False)
    assert got["test"]["examples"] == N // 2
    assert got["roles"]["student"] | {"to_teacher": None} == _approximately(alone)
    assert all(e["row_id"] % 2 == 0 for e in got["examples"])


@pytest.mark.parametrize("classes", [120, 1200])
def test_large_label_sets_keep_no_matrix(classes):
    labels = LABELS % classes
    test = rows(labels).select(range(60))
    said = evaluate(
        Says(table(1, classes=classes)),
        test,
        teacher=Says(table(0, classes=classes)),
        held_out=rows(labels).select(range(60, 90)),
        latency=False,
    )
    student = said["roles"]["student"]
    assert said["confusion"] is None
    assert len(said["examples"][0]["classes"]) == len(said["examples"][0]["log_probs"]["teacher"]) == 10
    shown = said["examples"][0]["log_probs"]["teacher"]
    assert shown == sorted(shown, reverse=True)
    if classes > 1000:
        assert student["scaled"] is None
        assert student["scaled_reason"] == "Calibration temperatures are fitted for up to 1000 classes."
        assert student["correct_per_class"] is None
    else:
        assert student["scaled"]["temperature"]["mean"] > 0
    log_q, log_p = (log_softmax(table(seed, classes=classes)[:60], -1) for seed in (1, 0))
    kl = (np.exp(log_p) * (log_p - log_q)).sum(1).mean()
    assert student["to_teacher"]["forward_kl"]["mean"] == pytest.approx(kl, rel=1e-4)


def test_an_image_is_shown_as_png_and_a_text_as_itself():
    images = torch.rand(N, 1, 6, 4, generator=torch.Generator().manual_seed(0))
    student, teacher = mlp([24, C]), mlp([24, C])
    shown = evaluate(student, arrays(images, LABELS), teacher=teacher, latency=False)["examples"][0]
    pixels = np.asarray(Image.open(io.BytesIO(base64.b64decode(shown["image"]))))
    assert pixels.tolist() == (images[shown["row_id"], 0] * 255).round().to(torch.uint8).tolist()
    assert shown["text"] is None
    colours = torch.rand(N, 3, 4, 2)
    shown = evaluate(student, arrays(colours, LABELS), teacher=teacher, latency=False)["examples"][0]
    assert Image.open(io.BytesIO(base64.b64decode(shown["image"]))).size == (2, 4)
    normalised = evaluate(student, arrays(images - 0.5, LABELS), teacher=teacher, latency=False)["examples"][0]
    assert normalised["image"] is None
    text = evaluate(
        Says(table(1)), rows(), teacher=Says(table(0)), show=lambda e: f"row {int(e['row_id'])}", latency=False
    )["examples"][0]
    assert (text["text"], text["image"]) == (f"row {text['row_id']}", None)


def test_teachers_of_every_kind_and_what_they_cost():
    members = [Says(table(0)), Says(table(5))]
    ensemble = Ensemble(members)
    test = rows()
    live = evaluate(Says(table(1)), test, teacher=ensemble, latency=False)["roles"]
    recorded = evaluate(Says(table(1)), test, teacher=record(ensemble, test))["roles"]
    assert recorded["student"]["to_teacher"] == live["student"]["to_teacher"]
    p = sum(np.exp(log_softmax(table(seed), -1)) for seed in (0, 5)) / 2
    log_q = log_softmax(table(1), -1)
    assert live["student"]["to_teacher"]["forward_kl"]["mean"] == pytest.approx(
        (p * (np.log(p) - log_q)).sum(1).mean(), rel=1e-5
    )
    assert live["teacher"]["parameters"] == recorded["teacher"]["parameters"] == 2 * N * C
    assert live["teacher"]["bytes"] == 4 * 2 * N * C
    assert live["teacher"]["latency_ms"] is None
    assert 0 < recorded["teacher"]["latency_ms"]["batch_256"] < recorded["teacher"]["latency_ms"]["batch_1"]
    forest = RandomForestClassifier(3, max_depth=3, random_state=0).fit(np.arange(N)[:, None], LABELS)
    judged = evaluate(Says(table(1)), test, teacher=forest, latency=False)["roles"]
    assert judged["teacher"]["parameters"] is None
    assert judged["student"]["to_teacher"]["reverse_kl"]["mean"] is None  # the forest rules classes out
    assert judged["teacher"]["accuracy"]["mean"] == pytest.approx(forest.score(np.arange(N)[:, None], LABELS))


def test_size_and_latency(monkeypatch):
    net = nn.Sequential(nn.Linear(3, 4), nn.BatchNorm1d(4))
    net.append(net[0])  # the same layer again counts once
    assert size_of(net) == {"parameters": 24, "bytes": 4 * (24 + 8) + 8}
    assert size_of(len) == {"parameters": None, "bytes": None}

    runs = []

    def network(batch):  # takes 0.25 s by the clock below
        runs.append(0.25)
        return batch

    monkeypatch.setattr("limbeck.networks.cost.time", SimpleNamespace(perf_counter=lambda: sum(runs)))
    assert latency_ms(network, torch.zeros(2, 1), 2, seconds=1.0) == 125
    assert len(runs) == 1 + 4  # the first is not counted
    runs.clear()
    assert latency_ms(network, torch.zeros(2, 1), 2, seconds=0.0) == 125
    assert len(runs) == 1 + 1


def test_results_survive_the_file_and_others_are_refused(results, tmp_path, monkeypatch):
    path = tmp_path / "run" / "results.json"
    write_results(results, path)
    assert read_results(path) == results
    assert json.loads(path.read_text(encoding="utf-8"))["schema"] == "limbeck.results"
    with pytest.raises(ValueError, match="JSON"):
        write_results(results | {"test": math.nan}, path)
    assert read_results(path) == results  # the file that was there is still whole
    with monkeypatch.context() as patch:
        patch.setattr("os.replace", _fail)
        with pytest.raises(OSError, match="disk"):
            write_results(results, path)
    assert [p.name for p in path.parent.iterdir()] == ["results.json"]
    for text, message in (
        ("{", "is not a JSON file"),
        ("[1]", "but has None"),
        ('{"schema": "other"}', "\"limbeck.results\", but has 'other'"),
        ('{"schema": "limbeck.results", "version": 2}', "reads version 1; update Limbeck"),
    ):
        path.write_text(text)
        with pytest.raises(DataError, match=message):
            read_results(path)


def _fail(*_):
    raise OSError("disk full")


def test_every_field_is_documented(results):
    text = (Path(__file__).parents[2] / "docs" / "results.md").read_text(encoding="utf-8")

    def names(value):
        parts = value.values() if isinstance(value, dict) else value if isinstance(value, list) else ()
        return set(value if isinstance(value, dict) else ()).union(*map(names, parts))

    found = names(results)
    assert len(found) > 40
    assert sorted(name for name in found if f"`{name}`" not in text and f'"{name}":' not in text) == []


def test_curves_are_passed_on_and_not_finite_numbers_become_null():
    curves = {"student": [{"step": 1, "loss": math.nan}, {"step": 2, "loss": np.float32(0.5)}]}
    got = evaluate(Says(table(1)), rows(), curves=curves, latency=False)["curves"]
    assert got == {"student": [{"step": 1, "loss": None}, {"step": 2, "loss": 0.5}]}


def test_what_does_not_fit_is_refused():
    student, teacher = Says(table(1)), Says(table(0))
    with pytest.raises(ConfigError, match="there are 1 and 2; pass one baseline per student"):
        evaluate([student, student], rows(), baseline=student)
    with pytest.raises(ConfigError, match="at least one student"):
        evaluate([], rows())
    with pytest.raises(ConfigError, match="got 2 teachers; combine them: Ensemble"):
        evaluate(student, rows(), teacher=[teacher, teacher])
    with pytest.raises(ConfigError, match="test set itself"):
        evaluate(student, test := rows(), held_out=test)
    with pytest.raises(ShapeError, match=r"must be \[90, 5\], but are \[90, 6\]"):
        evaluate(student, rows(), teacher=Says(table(0, classes=6)))
    with pytest.raises(DataError, match=r"from 0 to 4.*row_id 1 has 7"):
        evaluate(student, rows(np.where(np.arange(N) == 1, 7, LABELS)))
    with pytest.raises(TargetError, match="row_id 2;"):
        evaluate(student, rows(), teacher=nn.Sequential(teacher, _Spoil(2)))
    with pytest.raises(TargetError, match="SparseTargets; evaluate with the teacher"):
        evaluate(student, rows(), teacher=lambda b: SparseTargets.from_logits(teacher(b["inputs"]), 2))
    with pytest.raises(ShapeError, match=r"\[90, C\].*gave \[90, 1, 5\]"):
        evaluate(nn.Sequential(student, nn.Unflatten(1, (1, 5))), rows())
    student.label_names, names = ("a", "b", "c", "d", "e"), ("b", "a", "c", "d", "e")
    with pytest.raises(DataError, match="Class 0 is 'a' for the student and 'b' for the test set"):
        evaluate(student, rows(label_names=names))


def test_held_out_without_labels_gives_a_reason():
    got = evaluate(Says(table(1)), rows(), held_out=rows(None), latency=False)["roles"]["student"]
    assert got["scaled"] is None
    assert got["scaled_reason"] == "The held-out set has no labels to fit a calibration temperature on."


def outcomes(*counts):
    """`[1, n]` arrays of right (1) and wrong (0) for (student, baseline, teacher), from counts of outcomes."""
    each = [(s, b, t) for (s, b, t), n in counts for _ in range(n)]
    return [np.array(column, dtype=float)[None] for column in zip(*each, strict=True)]


def test_one_trained_pair_that_is_clearly_better():
    student, baseline, teacher = outcomes(
        ((1, 1, 1), 880), ((1, 0, 1), 70), ((0, 1, 1), 10), ((0, 0, 1), 20), ((0, 0, 0), 20)
    )
    verdict = judge(student, baseline, teacher)
    assert verdict["word"] == "better"
    assert verdict["difference"]["mean"] == pytest.approx(0.06)
    half = 1.96 * math.sqrt((0.08 - 0.06**2) / 1000)  # the normal interval of a paired difference
    assert verdict["difference"]["low"] == pytest.approx(0.06 - half, abs=0.002)
    assert verdict["difference"]["high"] == pytest.approx(0.06 + half, abs=0.002)
    assert verdict["gap_recovered"]["mean"] == pytest.approx(60 / 90)
    assert not verdict["seeds_resampled"]
    low, high = (f"{100 * verdict['difference'][end]:+.1f}" for end in ("low", "high"))
    least, most = (f"{100 * verdict['gap_recovered'][end]:.0f}" for end in ("low", "high"))
    assert verdict["sentence"] == (
        "The student is better than the baseline: 95.0 % against 89.0 % right, +6.0 points (95 % interval "
        f"{low} to {high}), and recovers 67 % ({least} to {most} %) of the gap to the teacher. This holds for these "
        "trained models (one seed); retraining may give another result."
    )


def test_worse_and_identical():
    student, baseline, teacher = outcomes(((1, 1, 1), 880), ((1, 0, 1), 70), ((0, 1, 1), 10), ((0, 0, 1), 40))
    turned = judge(baseline, student, teacher)
    assert turned["word"] == "worse"
    assert turned["sentence"].startswith("The student is worse than the baseline: 89.0 % against 95.0 % right, -6.0")
    assert "recovers" not in turned["sentence"]
    same = judge(student, student, teacher)
    assert same["word"] == "no difference shown"
    assert same["difference"]["low"] <= 0 <= same["difference"]["high"]
    assert same["difference"]["mean"] == 0
    assert same["sentence"].startswith("No difference between student and baseline is shown: 95.0 % against 95.0 %")


def test_the_gap_is_given_only_where_there_is_one():
    student, baseline, teacher = outcomes(((1, 1, 1), 800), ((1, 0, 0), 100), ((0, 1, 1), 10))
    equal = judge(student, baseline, baseline)
    assert equal["gap_recovered"] is None
    assert equal["gap_reason"] == "The teacher is not shown to differ from the baseline, so there is no gap to recover."
    worse = judge(student, student, baseline)
    assert worse["gap_reason"] == "The teacher is worse than the baseline, so there is no gap to recover."
    assert judge(student, baseline)["gap_reason"] == "There is no teacher."
    alone = judge(student, None, teacher)
    assert alone["sentence"] == "The student gets 98.9 % right. There is no baseline, so the student is not judged."
    assert (alone["word"], alone["difference"]) == (None, None)


def test_a_handful_of_differing_examples_is_no_evidence():
    """McNemar's exact test: 5 to 0 has p = 1/16, 8 to 0 has p = 1/128."""
    for wins, word in ((1, "no difference shown"), (5, "no difference shown"), (8, "better")):
        student, baseline, _ = outcomes(((1, 1, 1), 300), ((1, 0, 1), wins))
        assert judge(student, baseline)["word"] == word, wins


def test_three_seeds_are_resampled_two_are_not():
    student, baseline, _ = outcomes(((1, 1, 1), 900), ((1, 0, 1), 70), ((0, 1, 1), 30))
    changed = np.flatnonzero(student[0] > baseline[0])[:60]  # one seed in which most of the gain is gone
    weak = student.copy()
    weak[0, changed] = 0
    two = judge(np.vstack([student, student]), np.vstack([baseline] * 2))
    assert "(2 seeds)" in two["sentence"]
    three = judge(np.vstack([student, student, weak]), np.vstack([baseline] * 3))
    assert three["seeds_resampled"]
    assert "these trained models" not in three["sentence"]
    assert three["word"] == "no difference shown"  # +4, +4 and -2 points
    assert judge(np.vstack([student] * 3), np.vstack([baseline] * 3))["word"] == "better"


def test_the_verdict_repeats_and_depends_on_its_seed():
    student, baseline, teacher = outcomes(((1, 1, 1), 800), ((1, 0, 1), 60), ((0, 1, 1), 30), ((0, 0, 1), 40))
    assert judge(student, baseline, teacher, seed=3) == judge(student, baseline, teacher, seed=3)
    assert judge(student, baseline, teacher, seed=3) != judge(student, baseline, teacher, seed=4)


@pytest.mark.parametrize(("seeds", "spread"), [(1, 0.0), (3, 0.0), (3, 0.3), (5, 0.1), (5, 0.3), (10, 0.3)])
def test_the_interval_covers_the_truth_as_often_as_it_says(seeds, spread):
    """Simulated models whose mean accuracies are known: right where difficulty + seed's luck + noise is below skill.

    Of 300 intervals of 95 %, at least 92 % must hold the true difference: 3 standard errors below would be 91 %.
    """
    rng = np.random.default_rng(5)
    deviation = math.sqrt(1.5**2 + 1 + spread**2)
    truth = _normal_cdf(2.8 / deviation) - _normal_cdf(2.5 / deviation)
    held = 0
    for _ in range(300):
        difficulty = 1.5 * rng.standard_normal(400)
        luck = spread * rng.standard_normal((2, seeds, 1))
        noise = rng.standard_normal((2, seeds, 400), dtype=np.float32)
        student, baseline = (difficulty + luck + noise < np.array([2.8, 2.5])[:, None, None]).astype(float)
        got = judge(student, baseline, resamples=500)["difference"]
        held += got["low"] <= truth <= got["high"]
    assert held / 300 >= 0.92


def _normal_cdf(x):
    return 0.5 * (1 + math.erf(x / math.sqrt(2)))


def test_no_difference_is_rarely_claimed_where_there_is_none():
    """Equal models that differ on 1 % of 400 examples: a claim in at most 5 % of 400 cases, and 2 standard errors."""
    rng = np.random.default_rng(6)
    claims = 0
    for _ in range(400):
        first = (rng.random(400) < 0.01) * rng.choice([-1, 1], 400)
        claims += (
            judge((first >= 0)[None] * 1.0, (first <= 0)[None] * 1.0, resamples=500)["word"] != "no difference shown"
        )
    assert claims / 400 <= 0.072


def test_the_verdict_of_ten_seeds_of_10_000_examples_draws_2_000_resamples():
    rng = np.random.default_rng(0)
    student, baseline = (rng.random((2, 10, 10_000)) < 0.95).astype(np.float32)
    found = judge(student, baseline)
    assert found["resamples"] == 2000
    assert found["difference"]["mean"] == pytest.approx(student.mean() - baseline.mean(), abs=1e-6)


def test_probabilities_in_the_place_of_logits_are_refused() -> None:
    examples = limbeck.arrays(torch.randn(8, 4), torch.arange(8) % 3)
    net = limbeck.mlp([4, 3])
    softened = nn.Sequential(net, nn.Softmax(-1))
    with pytest.raises(TargetError, match=r"model returns probabilities .* remove its softmax"):
        limbeck.evaluate(softened, examples, latency=False)
    with pytest.raises(TargetError, match=r"teacher returns probabilities .* remove its softmax"):
        limbeck.evaluate(net, examples, teacher=softened, latency=False)


def test_a_test_set_of_other_classes_than_the_outputs_is_refused() -> None:
    """Labels 1 to 3 of a table have become 0 to 2; to a network of five outputs they are other classes."""
    table = datasets.Dataset.from_dict({"x": [1.0, 2.0, 3.5, 4.0], "label": [1, 2, 3, 1]})
    with pytest.raises(ShapeError, match=r"The test set has 3 classes and the student 5 outputs.* num_classes="):
        evaluate(mlp([1, 4, 5]), limbeck.table(table)["train"], latency=False)
    kept = limbeck.table(table, num_classes=5)["train"]
    assert evaluate(mlp([1, 4, 5]), kept, latency=False)["test"]["classes"] == 5
