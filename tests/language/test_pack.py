"""Packed rows: what stands where, and that nothing is learned otherwise than from the rows themselves.

Oracles: rows and batches written out by hand, properties of random rows, and the loss and gradients of the same
examples in rows of their own.
"""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from datasets import Dataset
from hypothesis import given, settings
from hypothesis import strategies as st
from transformers import (
    BloomConfig,
    BloomForCausalLM,
    LlamaForCausalLM,
    MambaConfig,
    MambaForCausalLM,
    Qwen2Config,
    Qwen2ForCausalLM,
)
from transformers.models.llama import modeling_llama

import limbeck
from limbeck import ConfigError, DataError, DistillConfig, DistillTrainer, Objective
from limbeck.networks.asking import teacher_view
from limbeck.networks.halves import keeps_apart
from limbeck.networks.positions import next_token_positions, packed_examples, require_same_completions
from limbeck.transfer.text.collate import Pad
from limbeck.transfer.text.pack import pack

from .test_training import FAMILIES, SMALL, V, assert_same, gradients_of, model

NONE = -100
FAMILIES_PACKED = {
    "llama": FAMILIES["llama"],
    "gpt2": FAMILIES["gpt2"],
    "qwen2": lambda: Qwen2ForCausalLM(Qwen2Config(**SMALL)),
    "gemma2": FAMILIES["gemma2"],
}


def row(row_id: int, ids: list[int], prompt: int = 1) -> dict[str, Any]:
    return {"row_id": row_id, "length": len(ids), "input_ids": ids, "labels": [NONE] * prompt + ids[prompt:]}


def random_rows(lengths: list[int], teachers: list[int] | None = None, seed: int = 0) -> Dataset:
    """Rows of these lengths with answers of one token or more; the teacher's are the same after other prompts."""
    draw, made = np.random.default_rng(seed), []
    for place, length in enumerate(lengths):
        answer = int(draw.integers(1, min(length, teachers[place] if teachers else length)))
        ids = draw.integers(3, V, length).tolist()
        made.append(row(100 + place, ids, length - answer))
        if teachers:
            other = row(0, draw.integers(3, V, teachers[place] - answer).tolist() + ids[-answer:], -answer)
            other["labels"] = [NONE] * (teachers[place] - answer) + ids[-answer:]
            made[-1] |= {"teacher_input_ids": other["input_ids"], "teacher_labels": other["labels"]}
    return Dataset.from_list(made)


def test_rows_by_hand() -> None:
    """Of at most 6 tokens: 5 stands alone, 4 takes 2, 3 is left."""
    rows = Dataset.from_list([row(7, [1, 2, 3]), row(8, [4, 5, 6, 7, 8]), row(9, [9, 10, 11, 12]), row(5, [13, 14])])
    assert pack(rows, 6).to_list() == [
        {
            "row_id": [7, 7, 7],
            "length": 3,
            "input_ids": [1, 2, 3],
            "labels": [NONE, 2, 3],
            "position_ids": [0, 1, 2],
        },
        {
            "row_id": [8] * 5,
            "length": 5,
            "input_ids": [4, 5, 6, 7, 8],
            "labels": [NONE, 5, 6, 7, 8],
            "position_ids": [0, 1, 2, 3, 4],
        },
        {
            "row_id": [9, 9, 9, 9, 5, 5],
            "length": 6,
            "input_ids": [9, 10, 11, 12, 13, 14],
            "labels": [NONE, 10, 11, 12, NONE, 14],
            "position_ids": [0, 1, 2, 3, 0, 1],
        },
    ]


def split(packed: Dataset, prefix: str = "") -> dict[int, tuple[list[int], list[int]]]:
    """row_id -> input_ids and labels of each example, told apart by its position_ids."""
    found: dict[int, tuple[list[int], list[int]]] = {}
    for one in packed:
        ids, labels, places = (one[prefix + name] for name in ("input_ids", "labels", "position_ids"))
        starts = [at for at, place in enumerate(places) if place == 0]
        names = list(dict.fromkeys(one["row_id"]))
        for name, start, end in zip(names, starts, [*starts[1:], len(ids)], strict=True):
            assert places[start:end] == list(range(end - start))
            assert name not in found
            found[name] = ids[start:end], labels[start:end]
    return found


@settings(max_examples=15, deadline=None)
@given(st.lists(st.tuples(st.integers(2, 12), st.integers(2, 20)), min_size=1, max_size=40), st.integers(0, 9))
def test_every_example_is_whole_in_one_row_within_both_limits(lengths: list[tuple[int, int]], seed: int) -> None:
    rows = random_rows([mine for mine, _ in lengths], [theirs for _, theirs in lengths], seed)
    packed = pack(rows, 12, teacher_max_length=20)
    for prefix in ("", "teacher_"):
        assert split(packed, prefix) == {r["row_id"]: (r[prefix + "input_ids"], r[prefix + "labels"]) for r in rows}
    for one in packed:
        assert one["length"] == len(one["input_ids"]) == len(one["row_id"]) <= 12
        assert len(one["teacher_input_ids"]) <= 20
    assert Pad(0)(packed.to_list())["labels"].ne(NONE).sum() == sum(
        label != NONE for r in rows for label in r["labels"]
    )


def test_more_rows_than_are_looked_at_at_once() -> None:
    """1,000 rows of 2 and 3 tokens, twice and a bit: within 5 tokens each 3 takes a 2, and nothing is left over."""
    packed = pack(random_rows([2, 3] * 1_050), 5)
    assert packed["length"] == [5] * 1_050
    assert len(split(packed)) == 2_100


def test_the_same_rows_are_packed_alike_with_any_format() -> None:
    rows = random_rows([5, 3, 9, 2, 2, 7, 4, 4])
    first = pack(rows, 10).to_list()
    assert pack(random_rows([5, 3, 9, 2, 2, 7, 4, 4]), 10).to_list() == first
    assert pack(rows.with_format("torch"), 10).to_list() == first
    assert [one["row_id"][0] for one in first] == sorted(one["row_id"][0] for one in first)


def test_batches_by_hand() -> None:
    one = {
        "row_id": [4, 4, 2, 2],
        "input_ids": [5, 6, 7, 8],
        "labels": [NONE, 6, NONE, 8],
        "position_ids": [0, 1, 0, 1],
    }
    own = {"teacher_input_ids": [9, 9, 6, 7, 8], "teacher_labels": [NONE, NONE, 6, NONE, 8]}
    other = {"row_id": [3, 3], "input_ids": [5, 6], "labels": [NONE, 6], "position_ids": [0, 1]}
    theirs = {"teacher_input_ids": [5, 6], "teacher_labels": [NONE, 6], "teacher_position_ids": [0, 1]}
    batch = Pad(1, multiple_of=3)([one | own | {"teacher_position_ids": [0, 1, 2, 0, 1]}, other | theirs])
    assert {name: values.tolist() for name, values in batch.items()} == {
        "input_ids": [[5, 6, 7, 8, 1, 1], [5, 6, 1, 1, 1, 1]],
        "position_ids": [[0, 1, 0, 1, 0, 0], [0, 1, 0, 0, 0, 0]],
        "labels": [[NONE, 6, NONE, 8, NONE, NONE], [NONE, 6, NONE, NONE, NONE, NONE]],
        "row_id": [[4, 4, 2, 2, -1, -1], [3, 3, -1, -1, -1, -1]],
        "teacher_input_ids": [[9, 9, 6, 7, 8, 1], [5, 6, 1, 1, 1, 1]],
        "teacher_position_ids": [[0, 1, 2, 0, 1, 0], [0, 1, 0, 0, 0, 0]],
        "teacher_labels": [[NONE, NONE, 6, NONE, 8, NONE], [NONE, 6, NONE, NONE, NONE, NONE]],
    }
    assert {values.dtype for values in batch.values()} == {torch.int64}
    assert next_token_positions(batch).row_ids(batch).tolist() == [4, 2, 3]
    found = [(place, columns.tolist()) for place, columns in packed_examples(batch)]
    assert found == [(0, [0, 1]), (0, [2, 3]), (1, [0, 1])]
    batch["teacher_labels"][0, 4] = 9
    with pytest.raises(DataError, match="in the example with row_id 2 the student has 2"):
        require_same_completions(batch, teacher_view(batch))


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"row_id": 4}, "Row 4 must have row_id for each token, but has 2 tokens and 1 row_id"),
        ({"position_ids": [0]}, "Row 3 must have position_ids for each token, but has 2 tokens and 1"),
        ({"position_ids": None}, "Row 3 is packed, but has no 'position_ids'"),
    ],
)
def test_rows_that_are_not_as_they_were_packed_are_refused(change: dict[str, Any], said: str) -> None:
    whole = {"row_id": [3, 3], "input_ids": [5, 6], "labels": [NONE, 6], "position_ids": [0, 1]}
    with pytest.raises(DataError, match=said):
        Pad(0)([{name: values for name, values in (whole | change).items() if values is not None}])
    with pytest.raises(DataError, match="'position_ids', or none, but 1 of 2 have"):
        Pad(0)([whole, row(3, [5, 6])])


def losses(student: Any, teacher: Any, rows: Dataset, batch_size: int, folder: Path) -> tuple[float, list]:
    """Loss and gradients of all the rows as one global batch, in batches of so many, by DistillTrainer."""
    student.eval().zero_grad()
    config = DistillConfig(str(folder), per_device_train_batch_size=batch_size, save_strategy="no", disable_tqdm=True)
    worker = DistillTrainer(student, teacher, Objective(temperature=2.0, hard_weight=0.5), config, train_dataset=rows)
    worker.check()
    batches = [
        worker.data_collator([rows[i] for i in range(at, min(at + batch_size, len(rows)))])
        for at in range(0, len(rows), batch_size)
    ]
    counts = worker._get_num_items_in_batch(batches, torch.device("cpu"))
    total = 0.0
    for batch in batches:
        loss = worker.compute_loss(student, batch, num_items_in_batch=counts)
        loss.backward()
        total += loss.item()
    return total, gradients_of(student)


@pytest.mark.parametrize(
    ("family", "attention"),
    [(family, attention) for family in FAMILIES_PACKED for attention in ("eager", "sdpa")][:-1],  # Gemma has no sdpa
)
def test_loss_and_gradients_are_those_of_the_examples_in_rows_of_their_own(
    family: str, attention: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each example in a batch of its own against packed rows, the teacher after prompts of other lengths; within 2e-5
    of the norm of each gradient, in float32."""
    monkeypatch.setitem(FAMILIES, family, FAMILIES_PACKED[family])
    student, teacher = model(family), model(family, seed=1)
    for one in (student, teacher):
        one.set_attn_implementation(attention)
    rows = random_rows([5, 9, 3, 12, 7, 4, 6, 2], [11, 4, 8, 12, 3, 16, 5, 9])
    packed = pack(rows, 16, teacher_max_length=24)
    assert len(packed) < len(rows) / 2 + 1
    assert_same(
        losses(student, teacher, packed, 2, tmp_path), losses(student, teacher, rows, 1, tmp_path), tolerance=2e-5
    )


def test_packed_rows_are_trained_and_evaluated_on(tmp_path: Path) -> None:
    """After one step of plain descent on all rows, and in an evaluation: the same as of the rows themselves."""
    rows = random_rows([5, 9, 3, 12, 7, 4, 6, 2])
    found = []
    for these in (rows, pack(rows, 16)):
        student = model()
        config = DistillConfig(
            str(tmp_path / str(len(these))),
            per_device_train_batch_size=8,
            max_steps=1,
            learning_rate=0.1,
            optim="sgd",
            max_grad_norm=0,
            save_strategy="no",
            disable_tqdm=True,
        )
        worker = DistillTrainer(student, model(seed=1), None, config, train_dataset=these, eval_dataset=these)
        worker.train()
        found.append((worker.evaluate(), [p.detach() for p in student.parameters()]))
    (plain, weights), (packed, others) = found
    for name in ("eval_nll", "eval_forward_kl", "eval_accuracy", "eval_acceptance"):
        assert packed[name] == pytest.approx(plain[name], rel=1e-5)
    for a, b in zip(others, weights, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-4, atol=1e-6)


def mamba() -> Any:
    torch.manual_seed(0)
    size = {"hidden_size": 16, "state_size": 4, "num_hidden_layers": 2}
    return MambaForCausalLM(MambaConfig(vocab_size=V, **size, residual_in_fp32=False))


def bloom() -> Any:
    return BloomForCausalLM(BloomConfig(vocab_size=V, hidden_size=16, n_layer=1, n_head=2))


class Masked(LlamaForCausalLM):
    """Never says token 7: its logits are made as a whole."""

    def forward(self, input_ids: Any = None, position_ids: Any = None, use_cache: Any = None, **more: Any) -> Any:  # type: ignore[override]
        said = super().forward(input_ids=input_ids, position_ids=position_ids, use_cache=use_cache, **more)
        said.logits[..., 7] = torch.finfo(torch.float32).min
        return said


class Forgetful(Masked):
    """Loses what it does not name."""

    def forward(self, input_ids: Any = None, **more: Any) -> Any:  # type: ignore[override]
        return super().forward(input_ids=input_ids, use_cache=False)


def forgetful() -> Any:
    torch.manual_seed(0)
    return Forgetful(model().config)


def checked(student: Any, teacher: Any, rows: Dataset, folder: Path, batch_size: int = 2) -> None:
    config = DistillConfig(str(folder), per_device_train_batch_size=batch_size, disable_tqdm=True)
    objective = Objective() if teacher is not None else None
    DistillTrainer(student, teacher, objective, config, train_dataset=rows).check()


@pytest.mark.parametrize("made", [mamba, bloom, forgetful])
def test_models_that_see_across_are_refused_as_student_and_as_teacher(made: Any, tmp_path: Path) -> None:
    rows = random_rows([5, 9, 3, 12])
    packed, name = pack(rows, 24), type(made()).__name__
    with pytest.raises(
        ConfigError, match=f"the student must read.* but {name} with attn_implementation=.*limbeck.pack"
    ):
        checked(made(), None, packed, tmp_path)
    with pytest.raises(ConfigError, match=f"the teacher must read.* but {name} with"):
        checked(model(), made(), packed, tmp_path)
    checked(made(), None, rows, tmp_path)


def test_models_whose_logits_are_made_as_a_whole_read_packed_rows_too(tmp_path: Path) -> None:
    packed, student = pack(random_rows([5, 9, 3, 12]), 24), Masked(model().config)
    assert student.config.use_cache  # beside a cache, transformers keeps nothing apart
    checked(student, None, packed, tmp_path)


def test_a_mask_of_ones_own_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Positions begin again, and the mask does not."""
    packed, usual = pack(random_rows([5, 9, 3, 12]), 24), modeling_llama.create_causal_mask
    checked(model(), None, packed, tmp_path)
    monkeypatch.setattr(modeling_llama, "create_causal_mask", lambda **given: usual(**(given | {"position_ids": None})))
    with pytest.raises(
        ConfigError, match="LlamaForCausalLM with attn_implementation='sdpa' does not: it reads them as one"
    ):
        checked(model(), None, packed, tmp_path)


def test_what_keeps_to_packing_in_batches_of_one_row_only_is_refused_in_others(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As flash attention does."""
    usual = modeling_llama.create_causal_mask

    def mask(**given: Any) -> Any:
        return usual(**(given if len(given["inputs_embeds"]) == 1 else given | {"position_ids": None}))

    monkeypatch.setattr(modeling_llama, "create_causal_mask", mask)
    packed = pack(random_rows([5, 9, 3, 12]), 12)
    checked(model(), None, packed, tmp_path, batch_size=1)
    with pytest.raises(ConfigError, match="batches of one row only"):
        checked(model(), None, packed, tmp_path)


def test_proven_though_the_first_rows_hold_one_example_each(tmp_path: Path) -> None:
    packed = pack(random_rows([12, 12, 5, 3]), 12)
    assert [len(set(names)) for names in packed["row_id"]] == [1, 1, 2]
    with pytest.raises(ConfigError, match="Mamba"):
        checked(mamba(), None, packed, tmp_path)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_the_proof_tells_models_apart_in_half_precision_too(dtype: torch.dtype) -> None:
    batch = Pad(0)(pack(random_rows([5, 9, 3, 12]), 24).to_list())
    torch.manual_seed(0)
    for made, apart in ((FAMILIES["llama"](), True), (FAMILIES["gpt2"](), True), (mamba(), False)):
        assert keeps_apart(made.to(dtype).eval(), batch, packed_examples(batch)) is apart


@pytest.mark.parametrize(
    ("rows", "said"),
    [
        ([row(1, [1, 2]), row(8, [1, 2, 3, 4, 5])], r"longer than max_length=4; tokenise with that.*\(row_id 8\)"),
        ([row(1, [1, 2], prompt=0)], r"whose first token is learned.*\(row_id 1\)"),
        ([{**row(1, [1, 2]), "labels": [NONE]}], "with labels and input_ids of different lengths"),
        ([{**row(1, [1, 2]), "target_probs": [0.5]}], "'target_probs'.*pack rows of tokenise"),
        ([{"input_ids": [1, 2], "labels": [NONE, 2]}], "pack rows of tokenise"),
        (
            [{**row(1, [1, 2]), "teacher_input_ids": [1] * 5, "teacher_labels": [NONE] * 4 + [2]}],
            "teacher_max_length=4",
        ),
        ([{**row(1, [1, 2]), "teacher_input_ids": [1, 2], "teacher_labels": [NONE, NONE]}], "different numbers"),
    ],
)
def test_rows_that_cannot_stand_beside_others_are_refused(rows: list[dict[str, Any]], said: str) -> None:
    with pytest.raises(DataError, match=said):
        pack(Dataset.from_list(rows), 4)


def test_nothing_else_is_packed_and_packed_rows_are_neither_packed_tested_nor_labelled(tmp_path: Path) -> None:
    rows = random_rows([3, 4])
    with pytest.raises(DataError, match="but got a list"):
        pack(rows.to_list(), 9)
    with pytest.raises(DataError, match="There must be a row"):
        pack(rows.select([]), 9)
    with pytest.raises(ConfigError, match="max_length must be at least 2"):
        pack(rows, 1)
    packed = pack(rows, 9)
    with pytest.raises(DataError, match="rows of tokenise once"):
        pack(packed, 9)
    with pytest.raises(DataError, match="test are packed"):
        limbeck.evaluate_language(model(), packed)
    with pytest.raises(DataError, match="these rows are packed"):
        limbeck.label(model(), packed, tmp_path / "labelled")


def test_packed_rows_to_evaluate_on_are_proven_too(tmp_path: Path) -> None:
    rows = random_rows([5, 9, 3, 12])
    config = DistillConfig(str(tmp_path), per_device_train_batch_size=2, disable_tqdm=True)
    worker = DistillTrainer(mamba(), None, None, config, train_dataset=rows, eval_dataset=pack(rows, 24))
    with pytest.raises(ConfigError, match="the student must read"):
        worker.check()
    with pytest.raises(ConfigError, match="the student must read"):
        DistillTrainer(mamba(), None, None, config, train_dataset=rows, eval_dataset=pack(rows, 24)).evaluate()
