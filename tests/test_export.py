"""ONNX files against the networks they were made of, asked by ONNX Runtime itself; and the command."""

import importlib.util
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

import limbeck
from limbeck import ConfigError, ModelError, ShapeError, Task, digits, export_onnx, mlp, save, with_task
from limbeck.cli import main
from limbeck.export import example_batch

onnxruntime = pytest.importorskip("onnxruntime", reason="limbeck[export] is not installed")
pytest.importorskip("onnxscript", reason="limbeck[export] is not installed")

SMALL = {"num_hidden_layers": 1, "hidden_size": 16, "num_attention_heads": 2, "intermediate_size": 12}


def run(path: Path, **feed: torch.Tensor) -> torch.Tensor:
    """What ONNX Runtime makes of a file."""
    session = onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"])
    return torch.from_numpy(session.run(["logits"], {name: values.numpy() for name, values in feed.items()})[0])


def test_the_file_says_what_the_network_says_for_any_number_of_examples(tmp_path: Path) -> None:
    torch.manual_seed(0)
    student = mlp([64, 30, 10], dropout=0.5)
    student.label_names = digits().label_names
    student.train()
    data = digits()
    report = export_onnx(student, tmp_path / "a.onnx", data.__getitems__(range(50)), int8=True)
    assert student.training  # a copy was exported
    inputs = data.__getitems__(range(100, 107))["inputs"]
    with torch.no_grad():
        wanted = student.eval()(inputs)
        right = (student(data.__getitems__(range(50))["inputs"]).argmax(-1) == data.labels[:50]).double().mean()
    torch.testing.assert_close(run(tmp_path / "a.onnx", inputs=inputs), wanted, atol=1e-5, rtol=1e-5)
    assert report["inputs"] == {"inputs": {"type": "float32", "shape": ["batch", 8, 8]}}
    assert (report["classes"], report["examples"], report["drawn"]) == (10, 50, False)
    assert report["label_names"] == list(digits().label_names or ())
    assert report["torch"]["bytes"] == 4 * (64 * 30 + 30 + 30 * 10 + 10)
    assert report["onnx"]["bytes"] == (tmp_path / "a.onnx").stat().st_size
    assert report["torch"]["accuracy"] == report["onnx"]["accuracy"] == pytest.approx(float(right))
    assert report["onnx"]["same_prediction"] == 1
    assert b"site-packages" not in (tmp_path / "a.onnx").read_bytes()  # no path of this machine

    eight = run(tmp_path / "a.int8.onnx", inputs=inputs)
    apart = float((eight - wanted).abs().max())
    assert 0 < apart < 0.02 * float(wanted.abs().max()) + 0.02  # a weight is rounded by 1/128 of the largest at most
    assert report["int8"]["bytes"] < report["onnx"]["bytes"]

    export_onnx(student, tmp_path / "a.onnx", data.__getitems__(range(2)))
    assert not (tmp_path / "a.int8.onnx").exists()  # it was another student's, for all that is known
    assert json.loads(json.dumps(report, allow_nan=False)) == report


def test_texts_of_any_length_and_columns_that_are_not_read(tmp_path: Path) -> None:
    from transformers import BertConfig, BertForSequenceClassification

    torch.manual_seed(0)
    student = BertForSequenceClassification(BertConfig(vocab_size=50, num_labels=3, **SMALL)).eval()
    report = export_onnx(student, tmp_path / "b.onnx")  # inputs are drawn
    assert report["drawn"]
    assert report["inputs"]["input_ids"] == {"type": "int64", "shape": ["batch", "length"]}
    ids = torch.randint(50, (3, 23))
    mask = (torch.arange(23) < torch.tensor([[23], [5], [1]])).long()
    with torch.no_grad():
        wanted = student(input_ids=ids, attention_mask=mask).logits
    torch.testing.assert_close(run(tmp_path / "b.onnx", input_ids=ids, attention_mask=mask), wanted, atol=1e-5, rtol=0)


class Odd(nn.Module):
    """Goes wrong in one way: draws numbers, or says something else of three examples or more."""

    def __init__(self, way: str):
        super().__init__()
        self.layer, self.way = nn.Linear(4, 3), way

    def forward(self, inputs: torch.Tensor) -> torch.Tensor:
        logits = self.layer(inputs)
        if self.way == "draws":
            return logits + torch.rand_like(logits)
        if self.way == "looks" and float(inputs.sum()) > 0:
            return -logits
        return logits


@pytest.mark.parametrize(
    ("way", "said"), [("draws", "from torch's, and .* is let pass"), ("looks", "cannot export this Odd")]
)
def test_a_file_that_is_not_the_network_is_not_written(way: str, said: str, tmp_path: Path) -> None:
    with pytest.raises(ModelError, match=said):
        export_onnx(Odd(way), tmp_path / "c.onnx", {"inputs": torch.rand(3, 4)})
    assert list(tmp_path.iterdir()) == []


def test_what_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from transformers import GPT2Config, GPT2LMHeadModel

    writer = GPT2LMHeadModel(GPT2Config(vocab_size=20, n_embd=8, n_layer=1, n_head=1))
    with pytest.raises(ModelError, match="optimum-cli export onnx"):
        export_onnx(writer, tmp_path / "d.onnx")
    with pytest.raises(ConfigError, match="The inputs of Odd are not known; pass examples"):
        export_onnx(Odd("not"), tmp_path / "d.onnx")
    with pytest.raises(ShapeError, match="at least two examples"):
        export_onnx(Odd("not"), tmp_path / "d.onnx", {"inputs": torch.rand(1, 4)})
    with pytest.raises(ModelError, match="This MLP reads 4 numbers per example"):
        export_onnx(mlp([4, 3]), tmp_path / "d.onnx", {"inputs": torch.rand(3, 5)})
    monkeypatch.setattr("limbeck.export.find_spec", lambda name: importlib.util.find_spec("no_such_module"))
    with pytest.raises(ConfigError, match=r"onnx is not installed; pip install 'limbeck\[export\]'"):
        export_onnx(mlp([4, 3]), tmp_path / "d.onnx")


def test_inputs_are_drawn_as_the_settings_say() -> None:
    from transformers import BertConfig, BertForSequenceClassification, ViTConfig, ViTForImageClassification

    assert example_batch(mlp([7, 3]), 5)["inputs"].shape == (5, 7)
    texts = example_batch(BertForSequenceClassification(BertConfig(vocab_size=9, max_position_embeddings=6, **SMALL)))
    assert texts["input_ids"].shape == (16, 6)
    assert int(texts["input_ids"].max()) < 9
    assert np.array_equal(texts["attention_mask"], np.sort(texts["attention_mask"], 1)[:, ::-1])
    assert bool(texts["attention_mask"][:, 0].all())
    images = ViTForImageClassification(ViTConfig(image_size=[8, 12], patch_size=4, num_channels=2, **SMALL))
    assert example_batch(images, 2)["pixel_values"].shape == (2, 2, 8, 12)


def test_the_command_exports_a_runs_student(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    torch.manual_seed(0)
    student = mlp([64, 10])
    save(student, "run/student")
    assert main(["export", "run", "--to", "onnx", "--int8", "--data", "digits", "--examples", "100"]) == 0
    out = " ".join(capsys.readouterr().out.split())
    assert "run: student.onnx, student.int8.onnx, export.json" in out
    report: dict[str, Any] = json.loads(Path("run/export.json").read_text())
    test = digits().split(0.2, seed=0)[1]
    places = list(range(0, len(test), 4))  # evenly over the 359
    with torch.no_grad():
        right = (student(test.__getitems__(places)["inputs"]).argmax(-1) == test.labels[places]).double().mean()
    assert (report["examples"], report["onnx"]["accuracy"]) == (len(places), pytest.approx(float(right)))
    assert f"{float(right):.2%}" in out
    assert report["student"] == limbeck.ModelTeacher(limbeck.load("run/student")).fingerprint()
    assert not Path("run/report.html").exists()
    results = limbeck.evaluate(student, test, latency=False, resamples=50)
    limbeck.write_results(results, "run/results.json")
    assert main(["export", "run", "--data", "digits"]) == 0
    assert "export.json, report.html" in capsys.readouterr().out
    assert "student.onnx. Measured on 180 examples of the test" in Path("run/report.html").read_text()
    for words, said in ((["nowhere"], "nowhere is not a folder"), (["run", "--data", "no.csv"], "no.csv")):
        assert main(["export", *words]) == 1
        assert said in capsys.readouterr().err


@pytest.mark.parametrize("kind", ["multi_label", "segmentation", "regression"])
def test_other_tasks_are_written_as_their_networks_give_them_and_numbers_in_their_units(
    kind: str, tmp_path: Path
) -> None:
    torch.manual_seed(0)
    x = torch.randn(6, 4) if kind != "segmentation" else torch.rand(6, 1, 4, 4)
    labels: Any = torch.randint(0, 2, (6, 3)) if kind == "multi_label" else torch.randint(0, 3, (6, 4, 4))
    network: nn.Module = mlp([4, 3]) if kind == "multi_label" else nn.Conv2d(1, 3, 1)
    task = Task(kind, outputs=3) if kind == "multi_label" else Task("segmentation")
    if kind == "regression":
        network, labels = mlp([4, 4]), torch.randn(6, 2)
        task = Task(kind, 2, variance=True, center=(5.0, -1.0), scale=(10.0, 0.1))
    with_task(network, task).eval()
    report = export_onnx(network, tmp_path / "net.onnx", batch={"inputs": x, "labels": labels})
    session = onnxruntime.InferenceSession(str(tmp_path / "net.onnx"), providers=["CPUExecutionProvider"])
    (found,) = session.run(None, {"inputs": x.numpy()})
    wanted = network(x).detach()
    if kind == "regression":
        scale = torch.tensor([10.0, 0.1])
        wanted = torch.cat([torch.tensor([5.0, -1.0]) + scale * wanted[:, :2], wanted[:, 2:] + 2 * scale.log()], 1)
    assert np.allclose(found, wanted, atol=1e-4)
    assert report["task"] == kind
    if kind == "regression":
        assert report["onnx"]["accuracy"] is report["onnx"]["same_prediction"] is None
    else:
        right = (wanted > 0).long() == labels if kind == "multi_label" else wanted.argmax(1) == labels
        assert report["onnx"]["accuracy"] == pytest.approx(right.float().mean().item())
        assert report["onnx"]["same_prediction"] == 1.0
