"""Each experiment of the paper on the digits, through the command; oracles: counts made again from the saved nets,
the paper's own statements where the digits are enough to show them, and the order of the errors of Eq. 4."""

import html
import json
from pathlib import Path
from typing import Any

import pytest
import torch

import limbeck
from limbeck.cli import main
from limbeck.paper.lab import Lab
from limbeck.paper.limit import relative_error
from limbeck.paper.specialists import cluster, specialist_of

DIGITS = dict(zip(("train", "test"), limbeck.digits().split(0.2, seed=0), strict=True))


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Any:
    folder = tmp_path_factory.mktemp("paper")

    def once(experiment: str) -> tuple[dict[str, Any], Path]:
        results = folder / experiment / "results.json"
        if not results.exists():
            assert main(["paper", experiment, "--seeds", "1", "--output_dir", str(folder)]) == 0
        return json.loads(results.read_text()), folder

    return once


def errors(results: dict[str, Any], start: str) -> float:
    (line,) = [r for r in results["rows"] if r["name"].startswith(start)]
    return line["errors"]["mean"]


def test_mnist_counts_what_the_saved_nets_get_wrong(run: Any) -> None:
    results, folder = run("mnist")
    test = DIGITS["test"]
    batch = test.__getitems__(list(range(len(test))))
    for name, start in (("teacher", "teacher"), ("hard-0", "small net, hard labels"), ("soft-0", "small net, soft")):
        said = limbeck.load(folder / "nets" / name)(batch["inputs"]).argmax(-1)
        lines = [r for r in results["rows"] if r["name"].startswith(start)]
        assert lines[0]["errors"]["seeds"] == [int((said != batch["labels"]).sum())]
    assert [r["paper"] for r in results["rows"]] == [67, 146, 74, None]
    assert results["verdict"]["word"] in ("better", "worse", "no difference shown")


def test_a_second_run_trains_nothing_and_says_the_same(run: Any, capsys: pytest.CaptureFixture[str]) -> None:
    results, folder = run("mnist")
    capsys.readouterr()
    assert main(["paper", "mnist", "--seeds", "1", "--output_dir", str(folder)]) == 0
    assert "training teacher" not in capsys.readouterr().out
    assert json.loads((folder / "mnist" / "results.json").read_text()) == results


def test_a_page_is_left_and_drawn_again_from_its_json(run: Any, capsys: pytest.CaptureFixture[str]) -> None:
    results, folder = run("mnist")
    page, again = folder / "mnist" / "report.html", folder / "again.html"
    text = html.unescape(page.read_text(encoding="utf-8"))
    assert all(line["name"] in text for line in results["rows"])
    assert results["verdict"]["sentence"] in text
    capsys.readouterr()
    assert main(["report", str(folder / "mnist"), "--output", str(again)]) == 0
    assert capsys.readouterr().out.strip() == str(again)
    assert again.read_bytes() == page.read_bytes()


def test_another_data_set_in_the_same_folder_is_refused(run: Any) -> None:
    _, folder = run("mnist")
    fewer = DIGITS | {"train": DIGITS["train"].select(range(500))}
    with pytest.raises(limbeck.ConfigError, match="started with train_examples 1438"):
        Lab(fewer, folder, seeds=1)


def test_temperature_has_a_line_per_width_and_temperature(run: Any) -> None:
    results, folder = run("temperature")
    pairs = [(r["width"], r["temperature"]) for r in results["rows"]]
    assert len(pairs) == len(set(pairs)) == 14
    for width, best in results["best_temperature"].items():
        of_width = [r for r in results["rows"] if str(r["width"]) == width]
        assert best == min(of_width, key=lambda r: r["errors"]["mean"])["temperature"]
    assert (folder / "temperature" / "temperature.png").stat().st_size > 5000


def test_the_prior_correction_brings_back_what_was_never_seen(run: Any) -> None:
    results, _ = run("omitted")
    threes = {r["name"]: r["threes_right"] for r in results["rows"]}
    assert threes["no 3s: label-free prior correction"] > threes["no 3s: as trained"]
    assert errors(results, "7s and 8s alone: label-free") < 0.7 * errors(results, "7s and 8s alone: as trained")
    assert results["offsets"]["no 3s"]["label_free"][0][3] > 0
    assert sum(results["prior"]) == pytest.approx(1, abs=1e-3)


def test_ten_nets_make_fewer_errors_than_one(run: Any) -> None:
    results, _ = run("ensemble")
    for mean in ("arithmetic", "geometric"):
        assert errors(results, f"ten nets, {mean}") < errors(results, "one net")
    assert set(results["share_of_gain"]) == {"arithmetic", "geometric"}


def test_specialists_cover_the_classes_and_all_answers_are_counted(run: Any) -> None:
    results, folder = run("specialists")
    assert sorted(c for group in results["clusters"] for c in group) == list(range(10))
    assert {r["errors"]["of"] for r in results["rows"]} == {len(DIGITS["test"])}
    for m, group in enumerate(results["clusters"]):
        assert limbeck.load(folder / "nets" / f"specialist-{m}").settings["sizes"][-1] == len(group) + 1
    for both in results["conditional"].values():
        assert both["specialist"] > 0.8


def test_few_labels_are_learned_by_heart_and_soft_targets_are_not(run: Any) -> None:
    results, _ = run("regulariser")
    line = {r["name"]: r for r in results["rows"]}
    hard, soft = line["10% of it, hard labels"], line["10% of it, soft targets at T = 2"]
    assert hard["train_right"] - hard["test_right"] > soft["train_right"] - soft["test_right"]
    assert soft["test_right"] > hard["test_right"]


def test_the_limit_is_reached_as_1_over_t(run: Any) -> None:
    results, folder = run("limit")
    assert results["slope"] == pytest.approx(-1, abs=0.15)
    assert results["agreement"] > 0.9
    assert (folder / "limit" / "limit.png").stat().st_size > 5000


def test_relative_error_is_zero_in_the_limit_and_that_of_autograd() -> None:
    generator = torch.Generator().manual_seed(0)
    z, v = (2 * torch.randn(8, 6, generator=generator, dtype=torch.float64) for _ in range(2))
    temperature = 3.0
    leaf = z.clone().requires_grad_()
    limbeck.cross_entropy((leaf / temperature).log_softmax(-1), (v / temperature).log_softmax(-1)).sum().backward()
    centred = (z - v) - (z - v).mean(-1, keepdim=True)
    limit = centred / (6 * temperature**2)
    expected = float((leaf.grad - limit).norm() / leaf.grad.norm())
    assert relative_error(z, v, temperature) == pytest.approx(expected, rel=1e-9)
    assert relative_error(z, v, 1e5) < 1e-4


def test_clusters_join_the_classes_that_are_predicted_together() -> None:
    generator = torch.Generator().manual_seed(0)
    group = torch.arange(6) // 2  # 0 with 1, 2 with 3, 4 with 5
    labels = torch.randint(6, (3000,), generator=generator)
    mixed = (group[labels].unsqueeze(1) == group).float() * 4 + torch.randn(3000, 6, generator=generator)
    assert sorted(map(tuple, cluster(mixed.softmax(-1), 3))) == [(0, 1), (2, 3), (4, 5)]


def test_a_specialist_begins_as_the_generalist() -> None:
    generalist = limbeck.mlp([5, 8, 6])
    x = torch.randn(4, 5)
    begun = specialist_of(generalist, [1, 4])(x)
    assert torch.allclose(begun[:, :2], generalist(x)[:, [1, 4]], atol=1e-6)
    rest = generalist(x)[:, [0, 2, 3, 5]].mean(1) + torch.tensor(4.0).log()
    assert torch.allclose(begun[:, 2], rest, atol=1e-5)
