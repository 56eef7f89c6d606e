"""A raw table, taught by a scikit-learn pipeline: categories, dates, gaps, and columns of very different sizes.

    python examples/tables.py                # writes runs/cars/train.csv and test.csv
    limbeck distill --data runs/cars --teacher examples.tables:teacher --labelled 150 --baseline ...

The table is made up: used cars, and how fast each was sold. The teacher reads columns by name, in the order that it was
fitted on; the student gets its own encoding of them, which stays with it in its folder and in its ONNX file.
"""

import sys
from pathlib import Path

import numpy as np
import pandas as pd
from sklearn.compose import ColumnTransformer
from sklearn.ensemble import HistGradientBoostingClassifier
from sklearn.pipeline import Pipeline, make_pipeline
from sklearn.preprocessing import OneHotEncoder

FOLDER = Path("runs/cars")
MAKES = {"Adler": 0.9, "Borgward": -0.4, "Horch": 1.3, "Maybach": -1.1, "Simson": 0.1, "Wanderer": -0.6}


def cars(rows: int, seed: int) -> pd.DataFrame:
    """Used cars; `label` tells how fast one was sold. A tenth of the mileages and fuels are missing."""
    g = np.random.default_rng(seed)
    listed = np.datetime64("2021-01-01") + g.integers(0, 1460, rows).astype("timedelta64[D]")
    make, fuel = g.choice(list(MAKES), rows), g.choice(["petrol", "diesel", "electric"], rows, p=[0.5, 0.3, 0.2])
    mileage, power = g.gamma(2.0, 45_000, rows).round(), g.normal(90, 25, rows).clip(30).round()
    price = (9_000 + 120 * power - 0.05 * mileage + g.normal(0, 2_500, rows)).clip(500).round(-1)
    summer = np.cos(2 * np.pi * ((listed.astype("datetime64[D]").astype(int) % 365.25) / 365.25 - 0.5))
    worth = 9_000 + 120 * power - 0.05 * mileage - price  # how much cheaper it is than the others
    score = worth / 2_500 + np.array([MAKES[name] for name in make]) + (fuel == "electric") * 1.2 + 0.5 * summer
    score += (fuel == "diesel") * (power - 90) / 40 + g.normal(0, 0.5, rows)
    table = pd.DataFrame({"car_id": np.arange(rows), "listed_on": listed, "make": make, "fuel": fuel})
    table = table.assign(mileage=mileage, power=power, price=price)
    table["label"] = np.select([score < -0.7, score < 1.0], ["slow", "usual"], "fast")
    table.loc[g.random(rows) < 0.1, "mileage"] = np.nan
    table.loc[g.random(rows) < 0.1, "fuel"] = None
    return table


def teacher() -> Pipeline:
    """Gradient boosting on the training part, fitted on some columns in an order of its own."""
    train = pd.read_csv(FOLDER / "train.csv")
    columns = ["price", "power", "mileage", "make", "fuel"]
    encode = ColumnTransformer([("one hot", OneHotEncoder(), ["make", "fuel"])], remainder="passthrough")
    boosting = HistGradientBoostingClassifier(max_iter=150, early_stopping=True, random_state=0)
    return make_pipeline(encode, boosting).fit(train[columns], train["label"])


def main(rows: int = 12_000) -> None:
    """Writes the table; a quarter of it is the test."""
    FOLDER.mkdir(parents=True, exist_ok=True)
    cars(rows * 3 // 4, seed=0).to_csv(FOLDER / "train.csv", index=False)
    cars(rows // 4, seed=1).to_csv(FOLDER / "test.csv", index=False)


if __name__ == "__main__":
    main(*map(int, sys.argv[1:]))
