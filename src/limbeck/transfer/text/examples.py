"""Records in the usual formats as token ids, and which of the tokens are learned.

    records = Dataset.from_list([{"prompt": "2 + 2 =", "completion": " 4"}])
    tokenise(records, tokenizer)[0]
    # {"row_id": 0, "length": 6, "input_ids": [17, 1343, 362, 796, 604, 50256],
    #  "labels": [-100, -100, -100, -100, 604, 50256]}

A record is pieces of text, each learned or not; every piece is tokenised by itself and the ids are joined. So the
ids of a prompt are what a model is given when it has to answer, and the ids of an answer do not depend on what
stands before it: student and teacher learn and speak of the same tokens, however different their prompts are.

What this file does not know: padding, batches, models, where records are read from.
"""

import logging
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import datasets
import numpy as np
from transformers import PreTrainedTokenizerBase

from limbeck.errors import ConfigError, DataError
from limbeck.losses.numbers import NO_LABEL
from limbeck.networks.asking import TEACHER_PREFIX
from limbeck.transfer import arrow
from limbeck.transfer.text.chat import Piece
from limbeck.transfer.text.formats import Format, format_of, pieces_of
from limbeck.transfer.text.pairs import tokenise_pairs
from limbeck.transfer.text.versions import TOKENISE, cache_version

log = logging.getLogger("limbeck")


def tokenise(
    records: datasets.Dataset,
    tokenizer: PreTrainedTokenizerBase,
    *,
    assistant: str = "all",
    max_length: int | None = None,
    teacher_max_length: int | None = None,
    num_proc: int | None = None,
    progress: bool = False,
    encoder_decoder: bool = False,
    teacher_tokenizer: PreTrainedTokenizerBase | None = None,
) -> datasets.Dataset:
    """A dataset of token ids from one of records, whose columns decide the format:

    `text`: every token is learned but the first, which nothing predicts.
    `prompt`, `completion` (strings): the completion's tokens are learned. It is tokenised as text that goes on,
        without the space that some tokenizers put before every text; a prompt should end where the model begins.
    `messages` (a list of `role`, `content`) or `conversations` (ShareGPT's, of `from`, `value`): rendered by the
        tokenizer's chat template. Each turn of the assistant is learned, with its thought, its calls of tools and the
        token that ends it: what the template marks with {% generation %}, or, where it marks nothing, what the turn
        adds to the prompt that asks for it. What follows the last turn of the assistant is left out. Columns `system`
        (a first message) and `tools` (definitions of functions) are read where they are. Lists may be given as JSON
        text. A record that the template does not write as a whole is refused.
    `instruction`, `output` (Alpaca's; with `input`, `system` and `history` where they are): a conversation where the
        tokenizer has a chat template; else the output is learned after Stanford Alpaca's prompt.
    `teacher_prompt` beside prompt and completion, or `teacher_messages` beside messages: what the teacher reads in
        their place. The learned tokens of both sides must be the same, and are compared row by row.

    The EOS token is appended to a text and to a completion that do not end with it, and is learned, whatever the
    padding token is; a chat template writes its own. A BOS token, if the tokenizer adds one, comes before a text and
    before a prompt that do not begin with it. Other columns are left out.

    assistant: "all" turns of the assistant, or the "last" one alone.
    max_length: the longest row, in tokens, that the student can read. The tokenizer's model_max_length, if it has
        one, holds too. Rows are cut at their end, and a warning counts rows and tokens.
    teacher_max_length: the longest row of the teacher, in tokens; by default the tokenizer's model_max_length.
        Where one side loses learned
        tokens, so does the other.
    num_proc: of `Dataset.map`, which also keeps the result: of records from files, the next call finds it.
    progress: whether to show its progress bar.
    encoder_decoder: whether the rows are for an encoder-decoder. Records then have `prompt`, the source, and
        `completion`, the target; `input_ids` are those of the source and `labels` those of the target, both with the
        tokenizer's own special tokens, and max_length holds for each.
    teacher_tokenizer: the teacher's, which must split texts as the student's does. Where it has another chat template,
        or puts another BOS token before a text, the teacher reads each record in its own format, `teacher_input_ids`.

    Columns: `row_id` (the record's own `row_id`, else its place), `input_ids` and `labels` of one length (labels are
    the ids themselves, not shifted, and -100 where a token is not learned), `length` (of input_ids), and
    `teacher_input_ids`, `teacher_labels`. A row of whose learned tokens none is left within max_length is dropped,
    and a warning counts these. DataError where columns, a chat template or an EOS token are missing, where a
    completion is empty or the sides differ: with the rows, all looked at first; and where no row is left.
    """
    return tokenise_counted(
        records,
        tokenizer,
        assistant=assistant,
        max_length=max_length,
        teacher_max_length=teacher_max_length,
        num_proc=num_proc,
        progress=progress,
        encoder_decoder=encoder_decoder,
        teacher_tokenizer=teacher_tokenizer,
    )[0]


@dataclass(frozen=True)
class Counts:
    """What became of records. cut: truncated ones that have a row. dropped: those that have no learned token left."""

    records: int
    cut: int
    dropped: int


def tokenise_counted(
    records: datasets.Dataset,
    tokenizer: PreTrainedTokenizerBase,
    *,
    assistant: str = "all",
    max_length: int | None = None,
    teacher_max_length: int | None = None,
    num_proc: int | None = None,
    progress: bool = False,
    encoder_decoder: bool = False,
    teacher_tokenizer: PreTrainedTokenizerBase | None = None,
) -> tuple[datasets.Dataset, Counts]:
    """`(what `tokenise` returns, how many records were cut and dropped)`."""
    if assistant not in ("all", "last"):
        raise ConfigError(f'assistant must be "all" or "last", but is {assistant!r}.')
    if encoder_decoder:
        with progress_bar(progress):
            made, cut = tokenise_pairs(
                records, tokenizer, max_length=max_length, teacher_max_length=teacher_max_length, num_proc=num_proc
            )
        if cut:
            log.warning("%d of %d records had a source or a target that was too long, and was cut.", cut, len(made))
        return made, Counts(len(records), cut, 0)
    form = format_of(records, tokenizer)
    sides = _sides(form, tokenizer, teacher_tokenizer, max_length, teacher_max_length)
    settings = {"sides": sides, "form": form, "assistant": assistant, "version": cache_version(TOKENISE)}
    _require_row_ids(records)
    with progress_bar(progress):
        tokenised = records.map(
            _tokenise,
            batched=True,
            with_indices=True,
            fn_kwargs=settings,
            remove_columns=records.column_names,
            features=_features(len(sides)),
            num_proc=num_proc,
            desc="Tokenising",
        )
    _refuse_faults(tokenised)
    rows, counts = _report(tokenised, [side.limit for side in sides])
    return rows.remove_columns([_FAULT, *_COUNTS]), counts


# Of each row, for the one who counts: what is wrong with it; tokens and learned tokens cut off; learned ones left.
_FAULT, _CUT, _UNLEARNED, _LEARNED = "_fault", "_cut", "_unlearned", "_learned"
_COUNTS = (_CUT, _UNLEARNED, _LEARNED)


def _require_row_ids(records: datasets.Dataset) -> None:
    """DataError where the records have row_ids that are missing or are not whole numbers."""
    if "row_id" not in records.column_names:
        return
    kind = records.features["row_id"]
    if not str(getattr(kind, "dtype", kind)).startswith(("int", "uint")):
        raise DataError(
            f"The column 'row_id' must hold a whole number for each record, but has the type "
            f"{getattr(kind, 'dtype', kind)}; give it another name, and rows are numbered by their place."
        )
    values = arrow.column(records, "row_id")
    if values.null_count:
        missing = values.is_null().index(True).as_py()
        raise DataError(
            f"The column 'row_id' must hold a whole number for each record, but that of record {missing} is missing "
            f"({values.null_count} in all); fill it, or give the column another name."
        )


def _check_tokenizer(tokenizer: PreTrainedTokenizerBase, form: Format) -> None:
    if form.is_chat and not tokenizer.chat_template:
        raise DataError(
            f"`{form.kind}` need a chat template, but the tokenizer has none: take the tokenizer of an "
            "instruction-tuned model, set tokenizer.chat_template, or write the records as `prompt` and `completion`."
        )
    if not form.is_chat and tokenizer.eos_token_id is None:
        raise DataError("A text must end with an EOS token, but the tokenizer has none; set tokenizer.eos_token.")


def _tokenizer_limit(tokenizer: PreTrainedTokenizerBase) -> int | None:
    limit = tokenizer.model_max_length
    return int(limit) if limit < 1e9 else None  # transformers writes a huge number where it knows none


def _limit(name: str, given: int | None, own: int | None) -> int | None:
    if given is not None and given < 2:
        raise ConfigError(f"{name} must be at least 2, one token to read and one to learn, but is {given}.")
    return min((limit for limit in (given, own) if limit is not None), default=None)


def _opening(tokenizer: PreTrainedTokenizerBase) -> list[int]:
    """What the tokenizer puts before a text: the BOS token, or nothing."""
    full, plain = tokenizer("a").input_ids, _encode(tokenizer, ["a"])[0]
    return list(full[: full.index(plain[0]) if plain else full.count(tokenizer.bos_token_id)])


def _features(sides: int) -> Any:
    ids, count = datasets.List(datasets.Value("int32")), datasets.Value("int32")
    columns = {"row_id": datasets.Value("int64"), "input_ids": ids, "labels": ids, "length": count}
    if sides > 1:
        columns |= {TEACHER_PREFIX + "input_ids": ids, TEACHER_PREFIX + "labels": ids}
    return datasets.Features({**columns, _FAULT: datasets.Value("string"), **dict.fromkeys(_COUNTS, count)})


@contextmanager
def progress_bar(shown: bool) -> Iterator[None]:
    """Shows the bars of `datasets`, or none."""
    if shown or datasets.are_progress_bars_disabled():
        yield
        return
    datasets.disable_progress_bars()
    try:
        yield
    finally:
        datasets.enable_progress_bars()


@dataclass(frozen=True)
class _Side:
    """How the student or the teacher reads records.

    column: of the prompt, the messages or the text. limit: the most tokens of a row. opening: what comes before a text.
    """

    column: str
    tokenizer: PreTrainedTokenizerBase
    limit: int | None
    opening: list[int]


def _sides(
    form: Format,
    tokenizer: PreTrainedTokenizerBase,
    teacher_tokenizer: PreTrainedTokenizerBase | None,
    max_length: int | None,
    teacher_max_length: int | None,
) -> list[_Side]:
    """The student's side, and the teacher's where it reads another column or another format."""
    columns = form.sides
    _check_tokenizer(tokenizer, form)
    own = _tokenizer_limit(tokenizer)
    opening = [] if form.is_chat else _opening(tokenizer)
    sides = [_Side(columns[0], tokenizer, _limit("max_length", max_length, own), opening)]
    theirs = tokenizer if teacher_tokenizer is None else teacher_tokenizer
    theirs_opening = [] if form.is_chat else _opening(theirs)
    if not form.is_chat and theirs.eos_token_id != tokenizer.eos_token_id:
        raise DataError(
            f"A text ends with {tokenizer.eos_token!r} for the student and with {theirs.eos_token!r} for the teacher, "
            "but both must predict the same tokens; give them one tokenizer, or set the same eos_token."
        )
    differs = _of_chats(theirs) != _of_chats(tokenizer) if form.is_chat else theirs_opening != opening
    if len(columns) > 1 or differs:
        _check_tokenizer(theirs, form)
        # the tokenizer's own limit is the student's: another one for the teacher is meant so
        limit = _limit(
            "teacher_max_length", teacher_max_length, None if teacher_max_length else _tokenizer_limit(theirs)
        )
        sides.append(_Side(columns[-1], theirs, limit, theirs_opening))
    if differs:
        what = "chat template" if form.is_chat else "token before a text"
        log.warning("The teacher has another %s than the student: each reads the records in its own format.", what)
    return sides


def _of_chats(tokenizer: PreTrainedTokenizerBase) -> tuple[Any, ...]:
    """What decides how a conversation is rendered."""
    return tokenizer.chat_template, tokenizer.bos_token, tokenizer.eos_token


@dataclass
class _Tokens:
    """A row as one side reads it: ids, and whether each is learned."""

    ids: list[int]
    learned: list[bool]

    def labels(self) -> list[int]:
        return [token if learned else NO_LABEL for token, learned in zip(self.ids, self.learned, strict=True)]

    def targets(self) -> list[int]:
        return [token for token, learned in zip(self.ids, self.learned, strict=True) if learned]


def _tokenise(
    batch: Mapping[str, list[Any]],
    places: list[int],
    sides: Sequence[_Side],
    form: Format,
    assistant: str,
    version: str,
) -> dict[str, list[Any]]:
    """The token columns of a batch of records, for datasets.map. Faulty rows are marked, so that all are counted.

    version: not used here; `datasets` finds the cached rows of the same arguments only.
    """
    faults: list[str | None] = [None] * len(places)
    read: list[list[_Tokens]] = []  # by side and row
    for side in sides:
        pieces: list[list[Piece]] = []
        for row in range(len(places)):
            record = {name: values[row] for name, values in batch.items()}
            try:
                pieces.append(pieces_of(record, side.column, form, side.tokenizer, assistant))
            except DataError as error:
                pieces.append([])
                whose = "" if side is sides[0] or not form.is_chat else "as the teacher reads it, "
                faults[row] = faults[row] or f"{whose}{error}"
        read.append(_join(side.tokenizer, pieces, side.opening, ends=not form.is_chat, faults=faults))
    columns: dict[str, list[Any]] = {name: [] for name in _features(len(sides))}
    names, limits = _names(sides), [side.limit for side in sides]
    for row, place in enumerate(places):
        rows = [tokens[row] for tokens in read]
        _unlearn_first(rows)
        fault = faults[row] or _fault(rows, sides[0].tokenizer, names)
        length, targets = sum(len(tokens.ids) for tokens in rows), len(rows[0].targets())
        _cut(rows, limits)
        columns["row_id"].append(batch["row_id"][row] if "row_id" in batch else place)
        columns["length"].append(len(rows[0].ids))
        for prefix, tokens in zip(("", TEACHER_PREFIX), rows, strict=False):
            columns[prefix + "input_ids"].append(tokens.ids)
            columns[prefix + "labels"].append(tokens.labels())
        left = len(rows[0].targets())
        columns[_FAULT].append(fault)
        columns[_CUT].append(length - sum(len(tokens.ids) for tokens in rows))
        columns[_UNLEARNED].append(targets - left)
        columns[_LEARNED].append(left)
    return columns


def _names(sides: Sequence[_Side]) -> list[str]:
    """The columns of the sides, told apart where both read one."""
    names = [side.column for side in sides]
    return names if len(set(names)) == len(names) else [f"the student's {names[0]}", f"the teacher's {names[1]}"]


def _join(
    tokenizer: PreTrainedTokenizerBase,
    rows: Sequence[Sequence[Piece]],
    opening: list[int],
    ends: bool,
    faults: list[str | None],
) -> list[_Tokens]:
    """The ids of each row's pieces; `opening` before them, and EOS behind them where `ends`."""
    kept = [[piece for piece in pieces if piece[0]] for pieces in rows]
    firsts = iter(_encode(tokenizer, [pieces[0][0] for pieces in kept if pieces]))
    others = iter(_continue(tokenizer, [text for pieces in kept for text, _ in pieces[1:]]))
    joined = []
    for row, pieces in enumerate(kept):
        tokens = _Tokens([], [])
        for place, (text, learned) in enumerate(pieces):
            ids = next(others) if place else next(firsts)
            if ids is None:
                faults[row] = faults[row] or f"the tokenizer cannot continue other text with {text[:40]!r}"
                continue
            if learned and not ids:
                faults[row] = faults[row] or f"the tokenizer finds no token in {text[:40]!r}"
            if place == 0 and ids[: len(opening)] != opening:
                tokens = _Tokens(list(opening), [False] * len(opening))
            tokens.ids += ids
            tokens.learned += [learned] * len(ids)
        if ends and pieces and tokens.ids[-1:] != [tokenizer.eos_token_id]:
            tokens.ids.append(tokenizer.eos_token_id)
            tokens.learned.append(True)
        joined.append(tokens)
    return joined


def _encode(tokenizer: PreTrainedTokenizerBase, texts: list[str]) -> list[list[int]]:
    if not texts:
        return []
    encoded = tokenizer(texts, add_special_tokens=False, return_attention_mask=False, verbose=False)
    return [list(ids) for ids in encoded["input_ids"]]


def _continue(tokenizer: PreTrainedTokenizerBase, texts: list[str]) -> list[list[int] | None]:
    """The ids of each text as the continuation of another one; None where they cannot be told.

    Some tokenizers put a blank before every text. There the text is read after a mark, whose ids are cut off again; a
    text that merges with one mark is read after the next one. A mark that the tokenizer does not have (many have no
    token for a new line) is of no use: what is left of it is the blank.
    """
    if not any(_adds_blank(tokenizer, ids, "a") for ids in _encode(tokenizer, ["a", "0", "."])):
        return list(_encode(tokenizer, texts))
    found: list[list[int] | None] = [None] * len(texts)
    for mark in ("\n", ".", "a"):
        (head,) = _encode(tokenizer, [mark])
        if not _is_mark(tokenizer, head, mark):
            continue
        left = [place for place, ids in enumerate(found) if ids is None]
        for place, ids in zip(left, _encode(tokenizer, [mark + texts[place] for place in left]), strict=True):
            after = ids[len(head) :]
            if ids[: len(head)] == head and not _adds_blank(tokenizer, after, texts[place]):
                found[place] = after
    return found


_BLANKS = ("▁", "Ġ")
"""How tokens are written that begin with a blank."""


def _is_mark(tokenizer: PreTrainedTokenizerBase, ids: list[int], mark: str) -> bool:
    """Whether ids stand for the mark, and for nothing else but a blank."""
    if not ids or tokenizer.unk_token_id in ids:
        return False
    tokens = "".join(tokenizer.convert_ids_to_tokens(ids))
    return mark in (tokens.lstrip("".join(_BLANKS)), tokenizer.decode(ids).strip(" "))


def _adds_blank(tokenizer: PreTrainedTokenizerBase, ids: list[int], text: str) -> bool:
    """Whether ids begin with a blank that the text does not begin with."""
    return not text[:1].isspace() and any(
        token.startswith(_BLANKS) for token in tokenizer.convert_ids_to_tokens(ids[:1])
    )


def _unlearn_first(sides: Sequence[_Tokens]) -> None:
    """Nothing predicts the token that a row begins with: where it is learned on one side, it is on neither."""
    if any(side.learned[:1] == [True] for side in sides):
        for side in sides:
            if True in side.learned:
                side.learned[side.learned.index(True)] = False


def _fault(sides: Sequence[_Tokens], tokenizer: PreTrainedTokenizerBase, names: Sequence[str]) -> str | None:
    student, *teacher = [side.targets() for side in sides]
    if not student:
        return "none of its tokens is learned"
    for other in teacher:
        if other != student:
            differ = (i for i, (a, b) in enumerate(zip(student, other, strict=False)) if a != b)
            place = next(differ, min(len(student), len(other)))
            ours, theirs = (tokenizer.decode(ids[place : place + 8]) for ids in (student, other))
            return (
                f"student and teacher must learn the same tokens, but from token {place} on these are {ours!r} "
                f"({len(student)} in all) after `{names[0]}` and {theirs!r} ({len(other)} in all) after `{names[1]}`"
            )
    return None


def _cut(sides: Sequence[_Tokens], limits: Sequence[int | None]) -> None:
    """Shortens each side to its limit, and all of them to the same learned tokens."""
    counts = [sum(side.learned[:limit]) for side, limit in zip(sides, limits, strict=True)]
    for side, limit in zip(sides, limits, strict=True):
        ends = [place + 1 for place, learned in enumerate(side.learned) if learned][: min(counts)]
        whole = sum(side.learned) == min(counts)
        end = len(side.ids[:limit]) if whole else max(ends, default=0)
        side.ids, side.learned = side.ids[:end], side.learned[:end]


def _refuse_faults(tokenised: datasets.Dataset) -> None:
    faults = arrow.column(tokenised, _FAULT)
    (bad,) = np.nonzero(faults.is_valid().to_numpy(zero_copy_only=False))
    if len(bad):
        ids = arrow.column(tokenised, "row_id").to_numpy()[bad]
        more = ", ..." if len(bad) > 10 else ""
        raise DataError(
            f"{len(bad)} of {len(tokenised)} rows cannot be learned from "
            f"(row_id {', '.join(map(str, ids[:10]))}{more}); "
            f"correct or remove them. Row {ids[0]}: {faults[int(bad[0])].as_py()}."
        )


def _report(tokenised: datasets.Dataset, limits: Sequence[int | None]) -> tuple[datasets.Dataset, Counts]:
    """The rows that something can be learned from; counts, and logs, how many were truncated and dropped."""
    cut, unlearned, learned = (arrow.column(tokenised, name).to_numpy() for name in _COUNTS)
    whose = zip(limits, ("", " of the teacher"), strict=False)
    named = " and ".join(f"{limit} tokens{of}" for limit, of in whose if limit is not None)
    dropped = learned == 0
    if dropped.all():
        raise DataError(
            f"None of {len(tokenised)} rows has a learned token within {named}: their prompts are longer; "
            "raise max_length or shorten the prompts."
        )
    if dropped.any():
        log.warning(
            "%d of %d rows are dropped: their prompts leave no learned token within %s.",
            dropped.sum(),
            len(tokenised),
            named,
        )
    shorter = (cut > 0) & ~dropped
    if shorter.any():
        log.warning(
            "%d of %d rows are cut at their end to %s: %d tokens are lost, %d of %d learned ones.",
            shorter.sum(),
            len(tokenised),
            named,
            cut[shorter].sum(),
            unlearned[shorter].sum(),
            (learned + unlearned)[~dropped].sum(),
        )
    kept = tokenised.select(np.flatnonzero(~dropped)) if dropped.any() else tokenised
    return kept, Counts(len(tokenised), int(shorter.sum()), int(dropped.sum()))
