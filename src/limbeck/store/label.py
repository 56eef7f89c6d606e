"""Runs a teacher once on every row of a transfer set and writes its targets to disk.

    stored = limbeck.label(teacher, train, "runs/stored", kind="top_k", k=64)

Rows are processed in order, shard by shard; a batch never crosses the end of a shard, and draws depend only on the seed
and the shard. So shards are the same however often the work was interrupted, and whichever process writes them. A
second thread encodes the targets of a batch while the teacher processes the next one.
What this file does not know: how files are written, how targets are encoded.
"""

from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager, nullcontext
from dataclasses import replace
from typing import Any

import datasets
from rich.progress import Progress
from transformers import PreTrainedTokenizerBase

from limbeck.errors import ConfigError, DataError
from limbeck.files import in_use
from limbeck.networks.asking import networks_of
from limbeck.networks.checks import check_label_names
from limbeck.networks.halves import base_of
from limbeck.networks.outputs import CLASSIFICATION, settle_task
from limbeck.networks.processors import find_processor
from limbeck.networks.table import require_table, table_columns
from limbeck.networks.tasks import require_supported_tasks
from limbeck.networks.texts import check_texts
from limbeck.store.asking import Labeller, ShardRows, make_current, settle, this_process
from limbeck.store.folder import UNFINISHED, Folder, Location
from limbeck.store.kinds import Kind, kind_from
from limbeck.store.manifest import Manifest, Plan
from limbeck.store.opened import Labelled, open_stored
from limbeck.store.rows import rows_of
from limbeck.store.writing import Writer, bytes_per_position, found_plan, require_room
from limbeck.teachers import BaseTeacher, as_teacher
from limbeck.teachers.protocol import Augment, TeacherLike, models_of
from limbeck.transfer.rows import TransferSet
from limbeck.transfer.text.vocabulary import shared_vocabulary, template_hash, tokenizer_hash

SHARD_BYTES = 256 * 2**20  # uncompressed, about; the work of one shard is lost where a run is cut off


def label(
    teacher: TeacherLike,
    transfer_set: TransferSet | datasets.Dataset,
    path: Location,
    kind: str | Kind = "top_k",
    *,
    batch_size: int = 32,
    rows_per_shard: int | None = None,
    augment: Augment | None = None,
    views: int = 1,
    tokenizer: PreTrainedTokenizerBase | None = None,
    seed: int = 0,
    progress: bool | Callable[[int, int], object] = False,
    **options: Any,
) -> Labelled:
    """Writes the teacher's targets for each row of a transfer set to `path`, and returns the stored set.

    An interrupted call resumes when it is repeated: it writes the shards that are missing, or only opens the set where
    it is complete. Under `accelerate launch` or torchrun each process writes its share of the shards to one folder.

    Parameters
    ----------
    teacher : network or teacher
        Also a classifier with predict_proba, or FunctionTeacher(function, fingerprint=...).
    transfer_set : TransferSet or datasets.Dataset
        For language models, the rows of `tokenise`, whose other columns are stored too.
    path : str or Path
        A local folder, or a URL that fsspec opens.
    kind : str or Kind
        What is stored of each position, with its options: "top_k" (k=64, bits=8), "dense" (dtype="float16"),
        "hidden" (dtype="float16"; causal language models) or "sampled" (k=64, temperature=1.0).
    batch_size : int
        Rows per pass of the teacher; a resumed call may use another.
    rows_per_shard : int, optional
        Rows per file; by default about 256 MB of them, or as in the call that is resumed.
    augment, views : Augmentation, int
        The augmentation, and for how many epochs its views get targets; training replays them.
    tokenizer : PreTrainedTokenizerBase, optional
        The tokenizer that the rows were made with. Its hash is stored, a student with another one is refused, and a
        language model's padded output layer is cut to its tokens.
    seed : int
        Of the draws of "sampled".
    progress : bool or function
        Whether to show a progress bar; or what to call, at first and after each batch, with the number of rows that are
        done and of those that this process writes.
    **options
        The options of `kind`.

    Returns
    -------
    Labelled
        The stored set, whose `teacher` reads the targets from its batches.

    Raises
    ------
    DataError
        Where something else is at `path` (with each field that differs), or the disk is full or refuses a file.
    TargetError
        Where the teacher gives a row no probability distribution; names the row.
    ConfigError
        For settings that do not go together, and where another process writes to `path`.

    Examples
    --------
    >>> import tempfile, torch
    >>> from limbeck import arrays, label
    >>> inputs = torch.tensor([[2.0, 0.0, 0.0], [0.0, 3.0, 1.0]])
    >>> folder = tempfile.TemporaryDirectory()
    >>> stored = label(torch.nn.Identity(), arrays(inputs), folder.name, kind="dense", dtype="float32")
    >>> len(stored), stored.num_classes
    (2, 3)
    >>> batch = stored.__getitems__([1])
    >>> stored.teacher(batch).all_log_probs(1.0).exp()
    tensor([[0.0420, 0.8438, 0.1142]])
    >>> folder.cleanup()
    """
    if min(batch_size, views, rows_per_shard or 1) < 1:
        raise ConfigError(
            f"batch_size, views and rows_per_shard are 1 or more, but are {batch_size}, {views} and {rows_per_shard}."
        )
    if views > 1 and augment is None:
        raise ConfigError(
            f"{views} views without augmentation would all be the same; pass one (--jitter; in Python augment=), or "
            "views=1."
        )
    if isinstance(kind, str):
        kind = kind_from(kind, **options)
    elif options:
        raise ConfigError(f"{', '.join(options)} cannot be combined with {kind}, which has its options already.")
    teacher, rows = as_teacher(teacher), rows_of(transfer_set)
    networks = networks_of(teacher) or []
    require_supported_tasks(networks, "teacher")
    if not rows.is_language:
        _require_classes(teacher, transfer_set)
    for network in networks:
        find_processor(network, transfer_set, "teacher")
        require_table(network, transfer_set, "teacher")
    check_texts(None, teacher, transfer_set)
    if rows.is_language:
        _require_language(teacher, augment)
        if tokenizer is not None:
            teacher = teacher.cut(shared_vocabulary(tokenizer, tokenizer))
    state, folder = this_process(), Folder(path)
    labeller = Labeller(teacher, kind, rows, augment, views, seed, settle(teacher, state.device))
    plan, positions = _plan(labeller, transfer_set, tokenizer, batch_size, rows_per_shard)
    with in_use(folder.at("")) if folder.is_local and state.is_main_process else nullcontext():
        found = found_plan(folder)
        if found is not None:
            if rows_per_shard is None:  # a guess from the first batch, which may be of another size now
                plan = replace(plan, rows_per_shard=found.rows_per_shard)
            found.require_same(plan, str(folder))
        if isinstance(found, Manifest):
            if state.is_main_process:
                folder.remove(UNFINISHED)  # left by a call that was interrupted right after the manifest
            return open_stored(path)
        writer = Writer(folder, plan, kind.parquet())
        state.wait_for_everyone()  # before anything is written, all have read what exists
        if state.is_main_process:
            if found is None:
                require_room(folder, plan, positions)
            writer.begin(labeller.head)
        state.wait_for_everyone()
        mine = [shard for shard in writer.missing() if shard % state.num_processes == state.process_index]
        with _shown(progress if state.is_main_process else False, plan, mine) as advance:
            _make(mine, labeller, writer, batch_size, advance)
        state.wait_for_everyone()
        if state.is_main_process:
            writer.finish()
        state.wait_for_everyone()
        return open_stored(path)


def _require_classes(teacher: BaseTeacher, transfer_set: object) -> None:
    """ConfigError where the teacher's answers are not distributions over classes of examples or tokens."""
    task = settle_task(models_of(teacher), transfer_set)
    if task.kind != CLASSIFICATION:
        raise ConfigError(
            f"Targets of {task.kind} cannot be stored: a stored set has one distribution over classes for an example "
            "or a token. Train with the teacher itself (limbeck distill --teacher)."
        )


@contextmanager
def _shown(
    progress: bool | Callable[[int, int], object], plan: Plan, shards: list[int]
) -> Iterator[Callable[[int], None]]:
    """Yields what takes the number of rows of each batch, as `label` shows them."""
    total, done = sum(len(plan.rows_of(shard)) for shard in shards), 0
    with Progress(disable=progress is not True, transient=True) as bar:
        task = bar.add_task("rows", total=total)

        def advance(rows: int) -> None:
            nonlocal done
            done += rows
            bar.advance(task, rows)
            if callable(progress):
                progress(done, total)

        advance(0)
        yield advance


def _make(shards: list[int], labeller: Labeller, writer: Writer, batch_size: int, done: Callable[[int], Any]) -> None:
    """Writes these shards; a second thread encodes one batch while the teacher processes the next.

    done: called with the number of rows of each batch. The thread has one piece of work at a time, so its errors are
    raised here before the next one begins.
    """
    plan, working = writer.plan, Future[None]()
    working.set_result(None)
    with ThreadPoolExecutor(1, initializer=make_current, initargs=(labeller.device,)) as thread:
        for shard in shards:
            rows, generator = ShardRows(), labeller.generator(shard)
            for answers in labeller.answers(plan.rows_of(shard), plan, batch_size):
                working.result()
                working = thread.submit(labeller.encode, answers, plan, generator, rows)
                done(len(answers.table))
            working.result()
            working = thread.submit(_write, writer, shard, rows)
        working.result()


def _write(writer: Writer, shard: int, rows: ShardRows) -> None:
    writer.write(shard, rows.table(), rows.positions)


def _plan(
    labeller: Labeller, transfer_set: Any, tokenizer: Any, batch_size: int, rows_per_shard: int | None
) -> tuple[Plan, int]:
    """The plan of the set, known before the first row is written, and the largest number of positions it can have."""
    rows, answers = labeller.rows, labeller.first(batch_size)
    content, positions = rows.survey(answers.positions_are)
    if rows_per_shard is None:
        size = answers.row_bytes + labeller.views * positions / len(rows) * bytes_per_position(answers.columns)
        rows_per_shard = min(len(rows), max(1, int(SHARD_BYTES / size)))
    plan = Plan(
        kind=labeller.kind.settings(),
        classes=answers.classes,
        hidden_size=answers.hidden_size,
        dtype=answers.dtype,
        positions_are=answers.positions_are,
        columns=rows.columns | answers.columns,
        rows=len(rows),
        rows_per_shard=rows_per_shard,
        teacher=labeller.teacher.fingerprint(),
        dataset=content,
        features=table_columns(transfer_set),
        label_names=_label_names(labeller.teacher, transfer_set, answers.classes),
        tokenizer=None if tokenizer is None else tokenizer_hash(tokenizer),
        chat_template=None if tokenizer is None else template_hash(tokenizer),
        augmentation=None if labeller.augment is None else repr(labeller.augment),
        augmentation_seed=getattr(labeller.augment, "seed", None),
        views=labeller.views,
        seed=labeller.seed,
    )
    return plan, positions


def _label_names(teacher: BaseTeacher, transfer_set: Any, classes: int) -> tuple[str, ...] | None:
    """The names of the classes, on which teacher and transfer set must agree; None where neither has any."""
    of_each = {"the teacher": teacher.label_names, "the transfer set": getattr(transfer_set, "label_names", None)}
    known: dict[str, Sequence[str]] = {who: tuple(names) for who, names in of_each.items() if names}
    check_label_names(known)
    labels = getattr(transfer_set, "num_classes", None) or 0
    if labels > classes:
        raise DataError(
            f"The transfer set has {labels} classes and the teacher has {classes}; pass the teacher of these classes."
        )
    names = next((tuple(names) for names in known.values()), None)
    if names is not None and len(names) != classes:
        raise DataError(
            f"The teacher has {classes} classes, but {next(iter(known))} names {len(names)}; correct the names, "
            "or give the teacher of these classes."
        )
    return names


def _require_language(teacher: BaseTeacher, augment: Any) -> None:
    """ConfigError for a teacher or an augmentation that cannot be used on the rows of a language model."""
    if augment is not None:
        raise ConfigError("Language models are not augmented; remove augment.")
    for network in networks_of(teacher) or []:
        if getattr(getattr(base_of(network), "config", None), "is_encoder_decoder", False):
            raise ConfigError(
                f"{type(network).__name__} is an encoder-decoder, whose batches need the model itself; train with the "
                "live teacher."
            )
