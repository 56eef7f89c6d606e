"""Rows of `tokenise` as text again, in parts that are learned and parts that are not, for people to look at.

    parts_of({"input_ids": [17, 1343, 362, 796, 604], "labels": [-100, -100, -100, -100, 604]}, tokenizer)
    # [("2 + 2 =", False), (" 4", True)]

What this file does not know: models, colours, pages.
"""

from collections.abc import Iterable
from itertools import groupby
from typing import Any

from limbeck.losses.numbers import NO_LABEL
from limbeck.networks.asking import TEACHER_PREFIX
from limbeck.transfer.text.messages import Record

Part = tuple[str, bool]
"""A part of a row as text, and whether its tokens are learned."""

MOST_CHARACTERS, MOST_PARTS = 1500, 40
"""How much of a row `first_examples` shows: characters of a part, and parts."""


def parts_of(row: Record, tokenizer: Any, teacher: bool = False, encoder_decoder: bool = False) -> list[Part]:
    """The text of a row with its special tokens, in parts.

    teacher: whether to show what the teacher reads, where the row has columns of its own for that. encoder_decoder:
        whether the row is one of an encoder-decoder, whose labels are the target.
    """
    prefix = TEACHER_PREFIX if teacher and TEACHER_PREFIX + "input_ids" in row else ""
    ids, labels = list(row[prefix + "input_ids"]), list(row[prefix + "labels"])
    if encoder_decoder:
        return [(_decoded(ids, tokenizer), False), (_decoded(labels, tokenizer), True)]
    parts, end, before = [], 0, ""
    for learned, some in groupby(labels, key=lambda label: label != NO_LABEL):
        start, end = end, end + len(list(some))
        text = _decoded(ids[:end], tokenizer)
        # some tokenizers leave out the blank that a text begins with, so a part is what it adds to those before it
        part = text[len(before) :] if text.startswith(before) else _decoded(ids[start:end], tokenizer)
        parts.append((part, learned))
        before = text
    return parts


def shortened(parts: list[Part], most: int, most_parts: int = 100) -> list[Part]:
    """The parts with the middle of each left out that has more than `most` characters, and how much that is.

    Of more than `most_parts` parts the last ones are left out, and how many these are is the last part.
    """
    shown = [(_short(text, most), learned) for text, learned in parts[:most_parts]]
    left_out = len(parts) - len(shown)
    return [*shown, (f" [... {left_out:,} more parts ...]", False)] if left_out else shown


def first_examples(
    rows: Iterable[Record], tokenizer: Any, teacher_tokenizer: Any = None, encoder_decoder: bool = False
) -> list[dict[str, Any]]:
    """Rows as JSON for a report: `row_id`, and under `student` the parts of what it reads, each `text` and `learned`.

    Under `teacher` likewise, where the rows have columns of its own. Parts are shortened.
    """
    found = []
    for row in rows:
        example: dict[str, Any] = {"row_id": int(row["row_id"])}
        sides = {"student": tokenizer}
        if TEACHER_PREFIX + "input_ids" in row:
            sides["teacher"] = tokenizer if teacher_tokenizer is None else teacher_tokenizer
        for side, reader in sides.items():
            parts = parts_of(row, reader, teacher=side == "teacher", encoder_decoder=encoder_decoder)
            shown = shortened(parts, MOST_CHARACTERS, MOST_PARTS)
            example[side] = [{"text": text, "learned": learned} for text, learned in shown]
        found.append(example)
    return found


def _short(text: str, most: int) -> str:
    if len(text) <= most:
        return text
    left_out = len(text) - most
    return f"{text[: most // 2]} [... {left_out:,} characters ...] {text[len(text) - (most - most // 2) :]}"


def _decoded(ids: list[int], tokenizer: Any) -> str:
    return str(tokenizer.decode(ids, skip_special_tokens=False, clean_up_tokenization_spaces=False))
