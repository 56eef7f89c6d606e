"""Stored sets, read again: the same batches, the right targets for every row, whatever was done to the rows.

Oracles: the transfer set's own batches, and the teacher asked again about the rows that are read.
"""

import pickle
from dataclasses import replace
from pathlib import Path
from typing import Any

import datasets
import fsspec
import numpy as np
import pandas as pd
import pyarrow.parquet as pq
import pytest
import torch

import limbeck
from limbeck import ConfigError, DataError, FunctionTeacher, ModelError, ModelTeacher, Pad, ShapeError, TargetError
from limbeck.networks.positions import next_token_positions, next_tokens
from limbeck.transfer.rows import TransferSet
from limbeck.transfer.text.tokens import Ragged

from .small import C, V, contents, images, llama, log_p, network, rows, words


def exact(path: Any, **options: Any) -> limbeck.Labelled:
    return limbeck.label(
        network(), images(), path, "dense", dtype="float32", rows_per_shard=16, batch_size=7, **options
    )


def assert_said_by(teacher: Any, labelled: limbeck.Labelled, places: list[int], atol: float = 1e-5) -> None:
    """What is stored for these rows is what the teacher says of the batch that is read."""
    batch = labelled.__getitems__(places)
    torch.testing.assert_close(log_p(labelled.teacher(batch)), log_p(teacher(batch)), rtol=0, atol=atol)


def test_batches_of_a_classifier_are_the_transfer_sets_own(tmp_path: Path) -> None:
    labelled = exact(tmp_path / "set")
    places = [3, 49, 0, 17]
    found, expected = labelled.__getitems__(places), images().__getitems__(places)
    assert list(found)[: len(expected)] == list(expected)
    for name, values in expected.items():
        assert found[name].dtype == values.dtype
        assert torch.equal(found[name], values)
    assert found["target_logits"].shape == (4, C)
    assert len(labelled) == 50
    assert labelled.num_classes == C
    assert torch.equal(labelled.labels, images().labels)
    assert labelled.teacher.fingerprint() == ModelTeacher(network()).fingerprint()
    assert_said_by(ModelTeacher(network()), labelled, places)


def test_an_example_is_its_row_of_a_batch(tmp_path: Path) -> None:
    labelled = exact(tmp_path / "set")
    batch, one = labelled.__getitems__([7, 9]), labelled[9]
    assert all(torch.equal(one[name], values[1]) for name, values in batch.items())
    texts = limbeck.label(llama(), rows(), tmp_path / "texts", "top_k", k=4)
    assert texts[-1]["input_ids"].tolist() == rows()[22]["input_ids"]
    assert texts[-1]["target_ids"].shape == (rows()[22]["length"] - 2, 4)
    with pytest.raises(IndexError):
        texts[23]


def test_pixels_stay_bytes_and_other_readers_read_them(tmp_path: Path) -> None:
    exact(tmp_path / "set")
    files = sorted((tmp_path / "set").glob("*.parquet"))
    table = pq.read_table(files[0])
    assert str(table.schema.field("inputs").type) == "fixed_size_list<element: uint8>[16]"
    frame = pd.concat([pd.read_parquet(file) for file in files])
    assert frame["row_id"].tolist() == images().row_ids.tolist()
    pixels = np.stack(frame["inputs"].to_list())
    assert np.array_equal(pixels, images().as_stored(range(50))["inputs"].flatten(1).numpy())
    loaded = datasets.load_dataset("parquet", data_files=[str(file) for file in files], split="train")
    assert loaded["labels"][:] == images().labels.tolist()
    said = log_p(limbeck.DenseTargets(torch.tensor(loaded["target_logits"][:])))
    torch.testing.assert_close(
        said, log_p(ModelTeacher(network())(images().__getitems__(range(50)))), rtol=0, atol=1e-5
    )


@pytest.mark.parametrize("url", ["memory://{name}", "file://{folder}/set"])
def test_a_url_holds_the_same_files(tmp_path: Path, url: str) -> None:
    exact(tmp_path / "local")
    path = url.format(name=tmp_path.name, folder=tmp_path)
    labelled = exact(path)
    assert len(exact(path)) == 50  # finished
    files, root = fsspec.core.url_to_fs(path)
    found = {Path(name).name: files.cat_file(name) for name in files.find(root)}
    assert found == contents(tmp_path / "local")
    assert_said_by(ModelTeacher(network()), labelled, [1, 40])
    assert limbeck.verify(path, network()) == []


def changed(labelled: limbeck.Labelled) -> dict[str, limbeck.Labelled]:
    rows = labelled.dataset
    shuffled = rows.shuffle(seed=1)
    even = [i for i, row_id in enumerate(rows["row_id"]) if row_id % 2 == 0]
    return {
        "shuffled": labelled.with_dataset(shuffled),
        "filtered": labelled.with_dataset(rows.filter(lambda row_id: row_id % 2 == 0, input_columns="row_id")),
        "sampled": labelled.with_dataset(rows.select(even[::-1])),
        "concatenated": labelled.with_dataset(datasets.concatenate_datasets([shuffled, rows.select(range(5))])),
        "selected": labelled.select([4, 2, 0]),
        "split": labelled.split(0.3, seed=1)[1],
    }


CHANGES = ["shuffled", "filtered", "sampled", "concatenated", "selected", "split"]


@pytest.mark.parametrize("how", CHANGES)
def test_targets_stay_with_their_examples(tmp_path: Path, how: str) -> None:
    labelled = exact(tmp_path / "set")
    part = changed(labelled)[how]
    batch = part.__getitems__(list(range(len(part))))
    before = dict(zip(images().row_ids.tolist(), images().__getitems__(range(50))["inputs"], strict=True))
    assert len(part) == {"concatenated": 55, "shuffled": 50, "selected": 3, "split": 15}.get(how, 25)
    assert all(torch.equal(x, before[int(i)]) for x, i in zip(batch["inputs"], batch["row_id"], strict=True))
    assert_said_by(ModelTeacher(network()), part, list(range(len(part))))
    assert torch.equal(part.labels, batch["labels"])


@pytest.mark.parametrize("how", CHANGES)
def test_targets_of_tokens_stay_with_their_examples(tmp_path: Path, how: str) -> None:
    labelled = limbeck.label(
        llama(), rows(), tmp_path / "set", "dense", dtype="float32", rows_per_shard=6, batch_size=4
    )
    part = changed(labelled)[how]
    batch = part.__getitems__(list(range(len(part))))
    assert len(next_tokens(batch).rows) == len(batch["target_logits"])
    assert_said_by(ModelTeacher(llama()), part, list(range(len(part))), atol=1e-3)  # logits of tens


def test_sets_of_one_teacher_are_joined(tmp_path: Path) -> None:
    later = TransferSet(
        {"inputs": images(9, seed=3).as_stored(range(9))["inputs"]}, row_ids=torch.arange(9) + 2000, labels=[1] * 9
    )
    more = limbeck.label(network(), later, tmp_path / "more", "dense", dtype="float32")
    both = exact(tmp_path / "set").joined(more)
    assert both.row_ids.tolist() == [*range(1000, 1050), *range(2000, 2009)]
    assert_said_by(ModelTeacher(network()), both, list(range(59)))
    other = limbeck.label(network(1), later, tmp_path / "other", "dense", dtype="float32")
    with pytest.raises(DataError, match=r"other has other settings than this teacher's set:\n  teacher: stored"):
        both.joined(other)


def test_rows_with_the_same_ids_are_told_apart(tmp_path: Path) -> None:
    """Two sets that both number their rows from 1000; shuffled, an id does not tell which is meant."""
    other = limbeck.label(network(), images(50, seed=3), tmp_path / "other", "dense", dtype="float32")
    both = exact(tmp_path / "set").joined(other)
    mixed = both.with_dataset(both.dataset.shuffle(seed=1))
    places = list(range(100))
    images_of_both = torch.cat([images(50, seed).__getitems__(range(50))["inputs"] for seed in (0, 3)])
    order = torch.from_numpy(np.random.default_rng(1).permutation(100))  # datasets' own
    assert torch.equal(mixed.__getitems__(places)["inputs"], images_of_both[order])
    assert_said_by(ModelTeacher(network()), mixed, places)


def test_a_set_that_was_read_is_sent_to_a_worker_without_its_rows(tmp_path: Path) -> None:
    part = exact(tmp_path / "set").split(0.5)[1]
    batch = part.__getitems__([3, 1])
    sent = pickle.dumps(part)
    assert (batch["inputs"][0] * 255).round().to(torch.uint8).numpy().tobytes() not in sent
    assert all(torch.equal(values, batch[name]) for name, values in pickle.loads(sent).__getitems__([3, 1]).items())


def test_a_split_is_the_transfer_sets(tmp_path: Path) -> None:
    rest, part = exact(tmp_path / "set").split(0.2, seed=4)
    own = images().split(0.2, seed=4)
    assert torch.equal(rest.row_ids, own[0].row_ids)
    assert torch.equal(part.row_ids, own[1].row_ids)


def test_batches_of_a_language_model_are_padded_as_pad_does(tmp_path: Path) -> None:
    texts = rows().add_column("source", [f"file {i}" for i in range(23)])
    labelled = limbeck.label(llama(), texts, tmp_path / "set", "top_k", k=4, rows_per_shard=6, tokenizer=words())
    places = [2, 20, 7]
    batch = labelled.__getitems__(places)
    expected = Pad(0)([texts[i] for i in places])
    assert all(torch.equal(batch[name], values) for name, values in expected.items())
    assert labelled.dataset["source"][20] == "file 20"
    assert batch["target_ids"].shape == (len(next_tokens(expected).rows), 4)
    kept = labelled.teacher(batch)
    live = log_p(ModelTeacher(llama())(expected))
    found, said = kept.events(live, 1.0)  # the live teacher in the student's place
    assert torch.equal(kept.ids.sort(-1).values, live.topk(4).indices.sort(-1).values)
    assert ((found.exp() - said.exp()).abs() < 0.02).all()  # 8 bits
    assert labelled.manifest.positions == sum(max(0, row["length"] - 2) for row in texts)
    row = pq.read_table(tmp_path / "set" / labelled.manifest.shards[0].name).to_pylist()[1]
    assert len(row["target_ids"]) == row["length"] - 2
    assert len(row["target_ids"][0]) == 4
    assert len(row["target_range"]) == row["length"] - 2


def test_the_teachers_own_prompt_is_kept_and_asked(tmp_path: Path) -> None:
    g = torch.Generator().manual_seed(5)
    made = []
    for i in range(9):
        prompt, end = (
            torch.randint(3, V, (4,), generator=g).tolist(),
            torch.randint(3, V, (i % 3 + 1,), generator=g).tolist(),
        )
        own = {"input_ids": prompt[:1] + end, "labels": [-100, *end]}
        theirs = {"teacher_input_ids": prompt + end, "teacher_labels": [-100] * 4 + end}
        made.append({"row_id": i, **own, **theirs})
    labelled = limbeck.label(llama(), datasets.Dataset.from_list(made), tmp_path / "set", "dense", dtype="float32")
    batch = labelled.__getitems__([1, 5])
    assert "teacher_input_ids" in batch
    assert_said_by(ModelTeacher(llama()), labelled, [1, 5], atol=1e-3)
    alone = {name: batch[name] for name in ("input_ids", "attention_mask", "labels")}
    without = log_p(ModelTeacher(llama())(alone))
    assert (log_p(labelled.teacher(batch)) - without).abs().max() > 0.1  # what was read before matters


def test_texts_of_a_classifier_keep_their_lengths(tmp_path: Path) -> None:
    lengths = torch.tensor([2, 5, 1, 3])
    ids = torch.arange(1, 12, dtype=torch.int32)
    columns = {"input_ids": Ragged(ids, lengths, 0), "attention_mask": Ragged(torch.ones_like(ids), lengths, 0)}
    texts = TransferSet(columns, [0, 1, 1, 0])

    def says(batch: Any) -> torch.Tensor:
        return torch.stack([batch["input_ids"].sum(1), batch["attention_mask"].sum(1)], 1).float().log()

    labelled = limbeck.label(FunctionTeacher(says, "sums"), texts, tmp_path / "set", "dense", batch_size=3)
    for places in ([0, 2], [1, 3]):
        batch, expected = labelled.__getitems__(places), texts.__getitems__(places)
        assert all(torch.equal(batch[name], values) for name, values in expected.items())
        assert_said_by(FunctionTeacher(says), labelled, places, atol=2e-3)  # float16


def test_a_teacher_of_tokens_is_kept_without_what_it_said_of_padding(tmp_path: Path) -> None:
    lengths = torch.tensor([2, 5, 1, 3])
    ids = torch.arange(11, dtype=torch.int32)
    labels = torch.full((4, 5), -100)
    labels[:, 0] = 1
    columns = {"input_ids": Ragged(ids, lengths, 0), "attention_mask": Ragged(torch.ones_like(ids), lengths, 0)}
    texts = TransferSet(columns, labels, num_classes=3)

    def says(batch: Any) -> torch.Tensor:
        one_hot = torch.nn.functional.one_hot(batch["input_ids"] % 3, 3).float()
        return torch.where(batch["attention_mask"].bool()[..., None], one_hot, torch.nan)

    labelled = limbeck.label(FunctionTeacher(says, "one"), texts, tmp_path / "set", "dense", batch_size=3)
    assert labelled.manifest.positions_are == "tokens"
    assert labelled.manifest.positions == 11
    batch = labelled.__getitems__([0, 1, 2])
    assert torch.equal(batch["labels"], texts.__getitems__([0, 1, 2])["labels"])
    there = batch["attention_mask"].bool().reshape(-1)
    said = log_p(labelled.teacher(batch))
    expected = says(batch).reshape(-1, 3).log_softmax(-1)
    torch.testing.assert_close(said[there], expected[there], rtol=0, atol=2e-3)
    assert said[~there].isfinite().all()


def test_a_set_with_a_transform_keeps_what_it_makes(tmp_path: Path) -> None:
    halved = TransferSet(
        {"inputs": images().as_stored(range(50))["inputs"]},
        images().labels,
        transform=lambda b: {**b, "inputs": b["inputs"] / 2},
    )
    labelled = limbeck.label(network(), halved, tmp_path / "set", "dense")
    assert torch.equal(labelled.__getitems__([4])["inputs"], images().__getitems__([4])["inputs"] / 2)


def test_hidden_states_come_with_the_output_layer(tmp_path: Path) -> None:
    teacher = llama()
    labelled = limbeck.label(teacher, rows(), tmp_path / "set", "hidden", rows_per_shard=6)
    assert labelled.manifest.columns["target_hidden"].shape == (None, 16)
    assert torch.equal(labelled.teacher.head.weight, teacher.lm_head.weight)
    assert_said_by(ModelTeacher(teacher), labelled, [0, 11, 4], atol=0.2)  # float16 states, logits of tens


def test_padded_vocabularies_are_cut_to_the_tokenizers(tmp_path: Path) -> None:
    labelled = limbeck.label(llama(vocabulary=64), rows(), tmp_path / "set", "hidden", tokenizer=words(size=V))
    assert labelled.manifest.classes == V
    assert labelled.teacher(labelled.__getitems__([0])).num_classes == V


@pytest.mark.parametrize("nested", [False, True])
def test_the_callers_teacher_is_the_same_after_label_verify_evaluate_and_training(nested: bool, tmp_path: Path) -> None:
    padded, tokenizer = ModelTeacher(llama(vocabulary=64)), words(size=V)
    teacher = limbeck.Ensemble([limbeck.Ensemble([padded])]) if nested else padded
    batch = Pad(0)([rows()[i] for i in range(4)])
    before, members = log_p(teacher(batch)), list(teacher.members)
    labelled = limbeck.label(teacher, rows(), tmp_path / "set", "dense", dtype="float32", tokenizer=tokenizer)
    assert labelled.manifest.classes == V
    assert limbeck.verify(tmp_path / "set", teacher) == []
    tokenizers = {"teacher_tokenizer": tokenizer, "processing_class": tokenizer}
    config = limbeck.DistillConfig(str(tmp_path / "run"), max_steps=1, save_strategy="no", use_cpu=True)
    worker = limbeck.DistillTrainer(llama(seed=1), teacher, args=config, train_dataset=rows(), **tokenizers)
    worker.train()
    assert worker.teacher(batch).num_classes == V
    results = limbeck.evaluate_language(
        worker.model, rows(), teacher=teacher, tokenizer=tokenizer, teacher_tokenizer=tokenizer, completions=0
    )
    assert results["test"]["classes"] == V
    assert padded.classes is None
    assert list(teacher.members) == members
    assert torch.equal(log_p(teacher(batch)), before)


@pytest.mark.parametrize("own_prompt", [False, True])
def test_a_language_model_answers_for_the_positions_that_it_is_given(own_prompt: bool) -> None:
    teacher = limbeck.Ensemble([llama(), llama(seed=1)])
    batch = Pad(0)([rows()[i] for i in range(4)])
    if own_prompt:  # its positions are its own columns', whatever the student's are
        batch |= {f"teacher_{name}": batch[name].flip(0) for name in ("input_ids", "labels", "attention_mask")}
    positions = next_token_positions(batch)
    assert torch.equal(log_p(teacher(batch, positions)), log_p(teacher(batch)))
    fewer = replace(positions, rows=positions.rows[:3])
    assert len(teacher(batch, fewer)) == (len(positions.rows) if own_prompt else 3)


BAD: dict[str, tuple[type[Exception], str, dict[str, Any]]] = {
    "a function without a name": (
        ModelError,
        "fingerprint=",
        {"teacher": lambda batch: torch.zeros(len(batch["row_id"]), 2)},
    ),
    "nan": (
        TargetError,
        "row_id 1004",
        {
            "teacher": FunctionTeacher(
                lambda b: torch.zeros(len(b["row_id"]), C).masked_fill(b["row_id"][:, None] == 1004, torch.nan), "f"
            )
        },
    ),
    "other classes": (
        ShapeError,
        "gives 6 classes in the batch that begins with row 32, but gave 5 before",
        {
            "teacher": FunctionTeacher(lambda b: torch.zeros(len(b["row_id"]), C + int(b["row_id"][0] >= 1032)), "f"),
            "batch_size": 16,
        },
    ),
    "too few": (
        ShapeError,
        "gave targets for 15 positions",
        {"teacher": FunctionTeacher(lambda b: torch.zeros(len(b["row_id"]) // 2 + 7, 2), "f"), "batch_size": 16},
    ),
    "views of nothing": (ConfigError, "2 views without", {"views": 2}),
    "no rows": (DataError, "but got list", {"transfer_set": [1, 2]}),
    "rows of no tokens": (DataError, "need 'row_id'", {"transfer_set": datasets.Dataset.from_list([{"text": "a"}])}),
    "an option of another kind": (ConfigError, "dense takes", {"kind": "dense", "k": 3}),
    "an augmented text": (ConfigError, "remove augment", {"transfer_set": rows(3), "augment": limbeck.jitter(1)}),
    "labelled before": (DataError, "'target_x' already", {"transfer_set": TransferSet({"target_x": np.zeros((2, 3))})}),
}


@pytest.mark.parametrize("what", BAD)
def test_what_cannot_be_labelled_is_refused(tmp_path: Path, what: str) -> None:
    error, message, given = BAD[what]
    settings: dict[str, Any] = {
        "teacher": network(),
        "transfer_set": images(),
        "path": tmp_path / "set",
        "kind": "dense",
    }
    with pytest.raises(error, match=message):
        limbeck.label(**settings | given)
    with pytest.raises(DataError, match=r"no manifest.json|not finished"):
        limbeck.open(tmp_path / "set")


def test_rows_with_one_id_are_refused(tmp_path: Path) -> None:
    twice = datasets.concatenate_datasets([rows(3), rows(2, seed=1)])
    with pytest.raises(DataError, match="row_id 100 is given to several"):
        limbeck.label(llama(), twice, tmp_path / "set", "hidden")


def test_rows_that_lost_a_column_are_refused(tmp_path: Path) -> None:
    labelled = exact(tmp_path / "set")
    with pytest.raises(DataError, match=r"must have 'target_logits' as .* but have nothing"):
        labelled.with_dataset(labelled.dataset.remove_columns("target_logits"))
    with pytest.raises(DataError, match="at least one row"):
        labelled.with_dataset(labelled.dataset.select([]))


def test_places_without_an_example_are_refused(tmp_path: Path) -> None:
    """Oracle: 50 examples, whose ids are 1000 and upwards."""
    labelled = exact(tmp_path / "set")
    repeated = labelled.with_dataset(datasets.concatenate_datasets([labelled.dataset, labelled.dataset]))
    for several, last in ((labelled, 49), (repeated, 99)):  # read from the table, and row by row
        for place in (500, -last - 2):
            for ask in (several.__getitems__, several.select):
                with pytest.raises(DataError, match=f"{last + 1} examples, at the places 0 to {last}, but got {place}"):
                    ask([3, place])
        with pytest.raises(DataError, match=f"at least one of the {last + 1} examples"):
            several.__getitems__([])
        assert several.__getitems__([-1, 2])["row_id"].tolist() == [1049, 1002]
        assert several.select([-1, 2]).row_ids.tolist() == [1049, 1002]
    with pytest.raises(DataError, match="at least one row"):
        labelled.select([])


def test_open_stored_is_open_which_a_star_import_leaves_out() -> None:
    assert limbeck.open is limbeck.open_stored
    names: dict[str, Any] = {}
    exec("from limbeck import *", names)
    assert names["open_stored"] is limbeck.open
    assert "open" not in names
