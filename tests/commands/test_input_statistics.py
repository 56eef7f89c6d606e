"""What is recorded of the inputs before training, against NumPy on the same columns."""

import json

import numpy as np
import pandas as pd
import pytest
from torch import nn

import limbeck
from limbeck.cli import main
from limbeck.commands.input_statistics import MOST_ROWS, input_statistics
from limbeck.networks.table import TableEncoder, with_table_encoder

RNG = np.random.default_rng(0)


def people(rows: int = 200) -> pd.DataFrame:
    label = np.arange(rows) % 2
    return pd.DataFrame(
        {
            "income": 10_000 * RNG.lognormal(size=rows) * (1 + label),
            "rate": RNG.uniform(0, 0.2, rows),
            "planet": np.full(rows, 3.0),
            "town": np.array(["Ulm", "Bonn"])[RNG.integers(2, size=rows)],
            "label": label,
        }
    )


def test_of_a_table_the_numbers_as_the_encoder_gives_them():
    frame = people()
    train = limbeck.table(frame)["train"]
    raw = with_table_encoder(nn.Identity(), TableEncoder.fit(train, "none"))
    found = input_statistics(train, raw)
    assert found is not None
    assert (found["kind"], found["scaled"], found["examples"], found["columns"]) == ("table", False, 200, 3)
    assert (found["constant"], found["constant_names"], found["all_alike"]) == (1, ["planet"], False)
    income, rate = frame["income"], frame["rate"]
    assert found["std_max"] == pytest.approx(income.std(ddof=0), rel=1e-5)
    assert found["std_min"] == pytest.approx(rate.std(ddof=0), rel=1e-5)
    assert found["widest"]["name"] == "income"
    assert found["widest"]["range"] == pytest.approx(income.max() - income.min(), rel=1e-5)
    assert found["narrowest"]["name"] == "rate"
    standard = with_table_encoder(nn.Identity(), TableEncoder.fit(train))
    found = input_statistics(train, standard)
    assert found is not None
    assert found["scaled"]
    assert (found["std_min"], found["std_max"]) == pytest.approx((1, 1), abs=1e-5)


@pytest.mark.parametrize(("shape", "kind", "examples"), [((5,), "numbers", 5000), ((2, 3), "images", 256)])
def test_of_arrays_evenly_spaced_examples(shape, kind, examples):
    values = RNG.normal(size=(MOST_ROWS + 1000, *shape)).astype(np.float32)
    found = input_statistics(limbeck.arrays(values), nn.Identity())
    assert found is not None
    rows = np.linspace(0, len(values) - 1, examples).astype(int)
    std = values[rows].reshape(examples, -1).std(0)
    assert (found["kind"], found["examples"], found["columns"]) == (kind, examples, std.size)
    assert (found["std_min"], found["std_max"]) == pytest.approx((std.min(), std.max()), rel=1e-3)
    assert (found["constant"], found["scaled"]) == (0, None)


def test_inputs_that_do_not_vary():
    found = input_statistics(limbeck.arrays(np.ones((10, 3))), nn.Identity())
    assert found is not None
    assert (found["constant"], found["all_alike"], found["std_max"], found["widest"]) == (3, True, None, None)
    column = np.arange(10.0)
    found = input_statistics(limbeck.arrays(np.stack([column, column], 1)), nn.Identity())
    assert found is not None
    assert (found["constant"], found["all_alike"]) == (0, True)


def test_token_ids_are_no_numbers_to_scale():
    assert input_statistics(limbeck.arrays(np.arange(10).reshape(5, 2)), nn.Identity()) is None


def test_distill_records_them_and_the_page_names_the_flag(tmp_path, capsys):
    people().to_csv(tmp_path / "people.csv", index=False)
    words = ["--hidden", "4", "--max_steps", "2", "--scale", "none"]
    run = tmp_path / "run"
    assert main(["distill", "--data", str(tmp_path / "people.csv"), *words, "--output_dir", str(run)]) == 0
    found = json.loads((run / "results.json").read_text(encoding="utf-8"))
    assert found["inputs"]["widest"]["name"] == "income"
    page = (run / "report.html").read_text(encoding="utf-8")
    assert "The inputs are not scaled" in page
    assert "<code>--scale</code>" in page
    table = capsys.readouterr().out
    right = next(line for line in table.splitlines() if line.startswith("│ right"))
    assert right.split("│")[-2].strip() == f"{found['guessing']['accuracy']:.2%}"
