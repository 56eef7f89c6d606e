"""Oracle: the tokenizer itself, one text at a time, and rows padded in plain Python."""

from collections.abc import Callable
from typing import Any

import datasets
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from limbeck.errors import DataError
from limbeck.transfer import TransferSet, table
from limbeck.transfer.text.tokens import Ragged

TEXTS = ["a good movie", "", "very very bad movie", "movies good", "unheard"]


def texts(tokenizer: Any, values: list[Any] = TEXTS, **options: Any) -> TransferSet:
    data = datasets.Dataset.from_dict({"text": values, "label": [0] * len(values)})
    return table(data, tokenizer=tokenizer, **options)["train"]


@given(st.lists(st.lists(st.integers(0, 99), max_size=6), min_size=1, max_size=8), st.data())
def test_ragged_pads_on_the_right(rows: list[list[int]], data: st.DataObject) -> None:
    chosen = data.draw(st.lists(st.integers(0, len(rows) - 1), min_size=1, max_size=10))
    flat = torch.tensor([value for row in rows for value in row], dtype=torch.int32)
    column = Ragged(flat, torch.tensor([len(row) for row in rows]), padding=-7)
    width = max(len(rows[row]) for row in chosen)
    expected = [rows[row] + [-7] * (width - len(rows[row])) for row in chosen]
    assert column.gather(torch.tensor(chosen)).tolist() == expected


def test_each_text_is_what_the_tokenizer_makes_of_it(tokenizer: Any) -> None:
    examples = texts(tokenizer)
    for row, text in enumerate(TEXTS):
        assert examples.__getitems__([row])["input_ids"][0].tolist() == tokenizer(text)["input_ids"]
    batch = examples.__getitems__([4, 3, 1, 2, 0])
    padded = tokenizer([TEXTS[i] for i in (4, 3, 1, 2, 0)], padding=True, return_tensors="pt")
    assert torch.equal(batch["input_ids"], padded["input_ids"])
    assert torch.equal(batch["attention_mask"], padded["attention_mask"])


def test_pairs_and_token_types(make_tokenizer: Callable[..., Any]) -> None:
    tokenizer = make_tokenizer(model_input_names=["input_ids", "token_type_ids", "attention_mask"])
    data = datasets.Dataset.from_dict({"one": ["a movie", "good"], "two": ["bad", "very good movie"], "label": [0, 1]})
    batch = table(data, text_column=("one", "two"), tokenizer=tokenizer)["train"].__getitems__([0, 1])
    assert batch["input_ids"].tolist() == [[2, 4, 7, 3, 6, 3, 0], [2, 5, 3, 8, 5, 7, 3]]
    assert batch["token_type_ids"].tolist() == [[0, 0, 0, 0, 1, 1, 0], [0, 0, 0, 1, 1, 1, 1]]


def test_long_texts_are_cut_and_counted(tokenizer: Any) -> None:
    with pytest.warns(UserWarning, match="3 of 5 texts in train have more than 4 tokens and were cut") as warned:
        examples = texts(tokenizer, max_length=4)
    assert warned[0].filename == __file__  # where table() is called
    for row, text in enumerate(TEXTS):
        expected = tokenizer(text, truncation=True, max_length=4)["input_ids"]
        assert examples.__getitems__([row])["input_ids"][0].tolist() == expected
        assert expected[-1] == 3  # [SEP] stays


def test_texts_of_just_the_length_are_not_cut(tokenizer: Any, recwarn: pytest.WarningsRecorder) -> None:
    texts(tokenizer, max_length=max(len(tokenizer(text)["input_ids"]) for text in TEXTS))
    assert not [warned for warned in recwarn if "were cut" in str(warned.message)]


def test_a_teacher_with_another_tokenizer_has_columns_of_its_own(make_tokenizer: Callable[..., Any]) -> None:
    words = ("[PAD]", "[SEP]", "[CLS]", "[UNK]", "good", "movie")
    own, other = make_tokenizer(), make_tokenizer(words)
    batch = texts(own, teacher_tokenizer=other).__getitems__([0, 1])
    assert batch["input_ids"].tolist() == [[2, 4, 5, 7, 3], [2, 3, 0, 0, 0]]
    assert batch["teacher_input_ids"].tolist() == [[2, 3, 4, 5, 1], [2, 1, 0, 0, 0]]
    assert batch["teacher_attention_mask"].tolist() == [[1, 1, 1, 1, 1], [1, 1, 0, 0, 0]]
    for same in (own, make_tokenizer()):
        assert texts(own, teacher_tokenizer=same).column_names == ("input_ids", "attention_mask")


SENTENCES = [["movies", "bad"], ["a", "good", "movie"], ["very"]]
TAGS = [["N", "A"], ["D", "A", "N"], [None]]


def words(tags: list[Any] = TAGS, **options: Any) -> TransferSet:
    return table(datasets.Dataset.from_dict({"tokens": SENTENCES, "ner_tags": tags}), **options)["train"]


def test_labels_of_words_are_on_their_first_tokens(tokenizer: Any) -> None:
    examples = words(tokenizer=tokenizer)
    assert examples.label_names == ("A", "D", "N")
    batch = examples.__getitems__([0, 2])
    assert batch["input_ids"].tolist() == [[2, 7, 9, 6, 3], [2, 8, 3, 0, 0]]
    assert batch["labels"].tolist() == [[-100, 2, -100, 0, -100], [-100] * 5]
    assert examples.__getitems__([1])["labels"].tolist() == [[-100, 1, 0, 2, -100]]
    assert examples.__getitems__([2])["labels"].shape == (1, 3)


def test_words_that_are_cut_off_take_their_labels_with_them(tokenizer: Any) -> None:
    with pytest.warns(UserWarning, match="2 of 3 texts"):
        examples = words(tokenizer=tokenizer, max_length=4)
    assert examples.__getitems__([0, 1])["labels"].tolist() == [[-100, 2, -100, -100], [-100, 1, 0, -100]]


def test_refusals(tokenizer: Any, make_tokenizer: Callable[..., Any]) -> None:
    with pytest.raises(DataError, match=r"no padding token.*tokenizer.pad_token = "):
        texts(make_tokenizer(pad_token=None))
    with pytest.raises(DataError, match=r"in train row 1 has none in 'text' \(2 such"):
        texts(tokenizer, ["a", None, "b", None])
    bare = make_tokenizer()
    bare.backend_tokenizer.post_processor = None
    with pytest.raises(DataError, match="Every text needs a token, but in train row 1 has none"):
        texts(bare)
    with pytest.raises(DataError, match="in train row 1 has 1 labels and at least 3 words"):
        words([["N", "A"], ["D"], ["D"]], tokenizer=tokenizer)
    other = make_tokenizer(("[PAD]", "[UNK]", "[CLS]", "[SEP]", "a"))
    with pytest.raises(DataError, match="one tokenizer for student and teacher"):
        words(tokenizer=tokenizer, teacher_tokenizer=other)
    data = datasets.Dataset.from_dict({"text": ["a good"], "labels": [[0, 1]]})
    with pytest.raises(DataError, match="'labels' has a label per word, so 'text' must hold lists of words"):
        table(data, tokenizer=tokenizer, task="classification")
