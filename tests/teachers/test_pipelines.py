"""scikit-learn pipelines as teachers: by the names of columns, from texts. Oracle: the pipeline called by hand."""

import warnings
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
from sklearn.compose import ColumnTransformer
from sklearn.ensemble import HistGradientBoostingClassifier
from sklearn.feature_extraction.text import TfidfVectorizer
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import OneHotEncoder
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import PreTrainedTokenizerFast

import limbeck
from limbeck import DataError
from limbeck.teachers import as_teacher


def words() -> Any:
    tokenizer = Tokenizer(models.WordLevel({"[PAD]": 0, "[UNK]": 1, "good": 2, "bad": 3}, unk_token="[UNK]"))
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, pad_token="[PAD]", unk_token="[UNK]")


def flowers(n: int = 200) -> pd.DataFrame:
    g = np.random.default_rng(0)
    frame = pd.DataFrame(
        {
            "width": g.normal(size=n),
            "cut": g.choice(["Fair", "Good", "Ideal"], n),
            "depth": g.normal(size=n),
        }
    )
    frame.loc[::7, "depth"] = np.nan
    good = frame.width + (frame.cut == "Ideal") * 2 + frame.depth.fillna(0) > 0
    return frame.assign(label=np.where(good, "good", "bad"))


def boosted(frame: pd.DataFrame, names: list[str]) -> Any:
    columns = ColumnTransformer(
        [("cut", OneHotEncoder(), ["cut"])], remainder="passthrough", verbose_feature_names_out=False
    )
    return make_pipeline(columns, HistGradientBoostingClassifier(max_iter=5)).fit(frame[names], frame.label)


def test_a_pipeline_gets_the_columns_that_it_was_fitted_on() -> None:
    frame = flowers()
    pipeline = boosted(frame, ["depth", "cut", "width"])  # another order than in the table
    for columns in (None, ["width"]):  # whatever the student reads
        train = limbeck.table(frame, feature_columns=columns)["train"]
        places = [5, 0, 77]
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            targets = as_teacher(pipeline)(train.__getitems__(places))
        expected = pipeline.predict_proba(frame.iloc[places])
        np.testing.assert_allclose(targets.all_log_probs(1.0).exp(), expected, rtol=1e-5)
    assert as_teacher(pipeline).label_names == train.label_names == ("bad", "good")
    with pytest.raises(DataError, match="fitted on the column 'cut', which the data does not have; it has width, dep"):
        as_teacher(pipeline)(limbeck.table(frame.drop(columns="cut"))["train"].__getitems__([0]))
    with pytest.raises(DataError, match=r"reads the columns depth, cut, width by name, but the batch has 7 numbers"):
        as_teacher(pipeline)({"inputs": torch.zeros(2, 7)})


def test_a_classifier_fitted_on_arrays_reads_as_many_numbers() -> None:
    frame = flowers().drop(columns="cut").fillna(0)
    numbers = frame[["width", "depth"]].to_numpy()
    classifier = LogisticRegression().fit(numbers, frame.label)
    batch = limbeck.table(frame)["train"].__getitems__(range(9))
    targets = as_teacher(classifier)(batch)
    np.testing.assert_allclose(targets.all_log_probs(1.0).exp(), classifier.predict_proba(numbers[:9]), rtol=1e-5)
    with pytest.raises(DataError, match="fitted on 2 numbers per example, but the batch has 1; fit it on a DataFrame"):
        as_teacher(classifier)(limbeck.table(frame[["width", "label"]])["train"].__getitems__([0]))


def test_a_pipeline_of_texts_reads_the_texts() -> None:
    texts = [f"{word} film number {i} of the year" for i, word in enumerate(["good", "bad"] * 30)]
    frame = pd.DataFrame({"text": texts, "label": ["yes", "no"] * 30})
    pipeline = make_pipeline(TfidfVectorizer(), LogisticRegression()).fit(frame.text, frame.label)
    assert as_teacher(pipeline).reads_rows
    data = limbeck.table(frame, tokenizer=words(), with_rows=True)["train"]
    batch = data.__getitems__([3, 8])
    targets = as_teacher(pipeline)(batch)
    expected = pipeline.predict_proba([texts[3], texts[8]])
    np.testing.assert_allclose(targets.all_log_probs(1.0).exp(), expected, rtol=1e-5)
    pair = limbeck.table(frame.assign(more=texts), text_column=["text", "more"], tokenizer=words(), with_rows=True)[
        "train"
    ]
    with pytest.raises(DataError, match="reads texts, but the data has 2 columns of text; name one by text_column"):
        as_teacher(pipeline)(pair.__getitems__([0]))
