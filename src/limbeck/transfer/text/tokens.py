"""Texts as columns of token ids, truncated to a length, stored ragged and padded per batch.

Padding is on the right, up to the longest text of the batch, and a model that honours `attention_mask` never sees it.
 What this file does not know: where the text comes from, what the classes are.
"""

import warnings
from collections.abc import Mapping, Sequence
from typing import Any

import datasets
import numpy as np
import torch
from torch import Tensor
from transformers import PreTrainedTokenizerBase

from limbeck.errors import DataError
from limbeck.losses.numbers import NO_LABEL
from limbeck.transfer import arrow
from limbeck.transfer.text.versions import ENCODE, cache_version

_CUT, _WORD = "is_cut", "word"  # per text: whether it was too long; per token: the word that it begins


class Ragged:
    """A column of rows of different lengths, gathered as `[n, longest]` int64 padded with `padding`.

    values: all rows, one after the other; lengths `[N]`.
    """

    def __init__(self, values: Tensor, lengths: Tensor, padding: int) -> None:
        self.values, self.lengths, self.padding = values, lengths, padding
        self.starts = lengths.cumsum(0) - lengths

    def __len__(self) -> int:
        return len(self.lengths)

    def gather(self, rows: Tensor) -> Tensor:
        lengths = self.lengths[rows]
        places = torch.arange(int(lengths.max()))
        inside = places < lengths[:, None]
        values = self.values[torch.where(inside, self.starts[rows, None] + places, 0)]
        return torch.where(inside, values, self.padding).long()

    def part(self, rows: Tensor) -> "Ragged":
        """A column of these rows only, in this order."""
        lengths = self.lengths[rows]
        before = lengths.cumsum(0) - lengths
        places = torch.arange(int(lengths.sum())) + (self.starts[rows] - before).repeat_interleave(lengths)
        return Ragged(self.values[places], lengths, self.padding)

    def extent(self, rows: Tensor) -> tuple[int, int]:
        """The length of the longest of these rows, and their highest value."""
        part = self.part(rows)
        return int(part.lengths.max()), int(part.values.max())

    def equals(self, other: "Ragged") -> bool:
        """Whether both columns have the same rows and the same padding."""
        same_rows = torch.equal(self.lengths, other.lengths) and torch.equal(self.values, other.values)
        return same_rows and self.padding == other.padding


def encode(
    dataset: datasets.Dataset, text: Sequence[str], tokenizer: PreTrainedTokenizerBase, max_length: int, where: str
) -> dict[str, Ragged]:
    """The tokenizer's columns (`input_ids`, `attention_mask`, ...) for the texts of a dataset.

    text: the column of strings, or two for pairs of sentences. A column of lists of words is tokenised word by word.
    max_length: in tokens; longer texts are truncated, and a warning says how many.
    where: the split, for messages.
    """
    paddings = _paddings(tokenizer)
    words = _is_words(dataset, text)
    for name in text:
        missing = arrow.column(dataset, name).is_null().to_numpy(zero_copy_only=False)
        if missing.any():
            raise DataError(
                f"Every example needs a text, but in {where} row {int(missing.argmax())} has none in {name!r} "
                f"({int(missing.sum())} such in all); remove them."
            )
    settings = {"text": list(text), "tokenizer": tokenizer, "max_length": max_length, "words": words}
    settings["version"] = cache_version(ENCODE)
    encoded = dataset.map(
        _encode, batched=True, fn_kwargs=settings, remove_columns=dataset.column_names, desc=f"Tokenising {where}"
    )
    cut = int(np.count_nonzero(arrow.column(encoded, _CUT).to_numpy(zero_copy_only=False)))
    if cut:
        warnings.warn(
            f"{cut} of {len(encoded)} texts in {where} have more than {max_length} tokens and were cut; "
            "raise max_length to keep them whole.",
            stacklevel=4,  # where table() is called
        )
    columns = {}
    for name in encoded.column_names:
        if name != _CUT:
            values, lengths = arrow.lists(encoded, name)
            values = values if len(values) else np.empty(0, np.int64)  # Arrow knows no type where all are empty
            columns[name] = Ragged(torch.from_numpy(values), torch.from_numpy(lengths), paddings.get(name, 0))
    empty = (columns["input_ids"].lengths == 0).nonzero()
    if len(empty):
        raise DataError(f"Every text needs a token, but in {where} row {int(empty[0])} has none; remove such rows.")
    return columns


def position_labels(columns: dict[str, Ragged], word_labels: Tensor, word_counts: Tensor, where: str) -> Tensor:
    """Labels of tokens `[N, longest]` from labels of words: on the first token of each word, and -100 elsewhere.

    columns: the result of `encode` for words; the column of word numbers is removed from it.
    word_labels: the labels of all words, row after row. word_counts `[N]`: how many words each row has.
    """
    words = columns.pop(_WORD)
    most = torch.full((len(words),), -1).scatter_reduce(0, _rows_of(words.lengths), words.values.long(), "amax")
    short = (most >= word_counts).nonzero()
    if len(short):
        row = int(short[0])
        raise DataError(
            f"Every word needs a label, but in {where} row {row} has {int(word_counts[row])} labels and at least "
            f"{int(most[row]) + 1} words."
        )
    first_of_row = (word_counts.cumsum(0) - word_counts)[_rows_of(words.lengths)]
    begins = words.values >= 0
    labels = torch.full((len(words.values),), NO_LABEL)
    labels[begins] = word_labels[(first_of_row + words.values)[begins]]
    return Ragged(labels, words.lengths, NO_LABEL).gather(torch.arange(len(words)))


def without_words(columns: dict[str, Ragged]) -> dict[str, Ragged]:
    """The columns that a model reads: all but the word numbers."""
    return {name: column for name, column in columns.items() if name != _WORD}


def _encode(
    batch: Mapping[str, list[Any]],
    text: Sequence[str],
    tokenizer: PreTrainedTokenizerBase,
    max_length: int,
    words: bool,
    version: str,
) -> dict[str, list[Any]]:
    """The token columns of a batch of texts, for datasets.map. version: part of the fingerprint of cached rows only."""

    def tokenise(rows: Sequence[int], most: int) -> Any:
        texts = [[batch[name][row] for row in rows] for name in text]
        return tokenizer(*texts, truncation=True, max_length=most, is_split_into_words=words)

    everyone = range(len(batch[text[0]]))
    encoded = tokenise(everyone, max_length + 1)  # one token more than allowed shows which texts are too long
    columns = {name: list(values) for name, values in encoded.items()}
    if words:
        columns[_WORD] = [_word_starts(encoded.word_ids(row)) for row in everyone]
    cut = [row for row in everyone if len(columns["input_ids"][row]) > max_length]
    if cut:
        again = tokenise(cut, max_length)
        for place, row in enumerate(cut):
            for name in again:
                columns[name][row] = again[name][place]
            if words:
                columns[_WORD][row] = _word_starts(again.word_ids(place))
    return {**columns, _CUT: [len(encoded["input_ids"][row]) > max_length for row in everyone]}


def _word_starts(words: Sequence[int | None]) -> list[int]:
    """The word that each token is the first token of; -1 for tokens that begin no word."""
    before = [None, *words[:-1]]
    return [-1 if word is None or word == last else word for word, last in zip(words, before, strict=True)]


def _paddings(tokenizer: PreTrainedTokenizerBase) -> dict[str, int]:
    if tokenizer.pad_token_id is None:
        raise DataError(
            f"The tokenizer {type(tokenizer).__name__} has no padding token, which batches need; set one, for example "
            "tokenizer.pad_token = tokenizer.eos_token."
        )
    return {"input_ids": tokenizer.pad_token_id, "token_type_ids": tokenizer.pad_token_type_id}


def _is_words(dataset: datasets.Dataset, text: Sequence[str]) -> bool:
    return len(text) == 1 and arrow.is_list(dataset, text[0])


def _rows_of(lengths: Tensor) -> Tensor:
    """The row number of each value."""
    return torch.repeat_interleave(torch.arange(len(lengths)), lengths)
