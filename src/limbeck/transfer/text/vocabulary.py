"""Whether two tokenizers are one, and how many classes it has.

What this file does not know: models, losses.
"""

import hashlib
import json
from typing import Any

from limbeck.errors import DataError

IN_FAST = ("normalizer", "pre_tokenizer", "model")
"""What of a fast tokenizer decides which ids a text has; whoever tokenises puts special tokens around it."""


def shared_vocabulary(student: Any, teacher: Any) -> int:
    """The number of classes of a tokenizer that student and teacher share: its highest id + 1, added tokens included.

    It is not `vocab_size`, which leaves added tokens out, nor the rows of an output layer, which may be padded.
    student, teacher: their tokenizers (transformers). DataError where they differ in any token or in how they split.
    """
    mine: dict[str, int] = student.get_vocab()
    theirs: dict[str, int] = teacher.get_vocab()
    if mine != theirs:
        differing = sorted(set(mine.items()) ^ set(theirs.items()), key=lambda pair: (pair[1], pair[0]))
        token, number = differing[0]
        whose = "student" if mine.get(token) == number else "teacher"
        raise DataError(
            "Student and teacher must have the same tokenizer, but theirs differ in "
            f"{len({token for token, _ in differing})} tokens: id {number} is {token!r} for the {whose} only. Their "
            "distributions are over different things; choose a student of the teacher's family, or train it on text "
            "that the teacher wrote."
        )
    if hasattr(student, "backend_tokenizer") and hasattr(teacher, "backend_tokenizer"):
        parts = [json.loads(tokenizer.backend_tokenizer.to_str()) for tokenizer in (student, teacher)]
        for name in IN_FAST:
            if parts[0].get(name) != parts[1].get(name):
                raise DataError(
                    f"Student and teacher have the same tokens, but their tokenizers differ in their {name}, so a text "
                    "is split differently; give both the same tokenizer."
                )
    return max(mine.values()) + 1


def tokenizer_hash(tokenizer: Any) -> str:
    """SHA-256 of all that `shared_vocabulary` compares: every token with its id, and how texts are split."""
    parts: list[Any] = [sorted(tokenizer.get_vocab().items())]
    if hasattr(tokenizer, "backend_tokenizer"):
        backend = json.loads(tokenizer.backend_tokenizer.to_str())
        parts += [backend.get(name) for name in IN_FAST]
    return hashlib.sha256(json.dumps(parts, sort_keys=True).encode()).hexdigest()


def template_hash(tokenizer: Any) -> str | None:
    """SHA-256 of a tokenizer's chat template; None where it has none."""
    template = getattr(tokenizer, "chat_template", None)
    return None if not template else hashlib.sha256(json.dumps(template, sort_keys=True).encode()).hexdigest()
