"""`limbeck label`, `verify` and `info`: what they leave, what they say, and the exit codes.

Oracle: limbeck.label with the objects that the words stand for.
"""

from collections.abc import Callable
from pathlib import Path

import datasets
import pytest
import torch
from store.small import contents, llama, words
from store.test_damage import rewrite

import limbeck
from limbeck.networks.folder import save
from limbeck.networks.mlp import mlp
from limbeck.transfer import digits

Says = Callable[..., tuple[int, str, str]]


@pytest.fixture
def teacher(tmp_path: Path) -> str:
    torch.manual_seed(0)
    return str(save(mlp([64, 20, 10]), tmp_path / "teacher", label_names=digits().label_names))


def test_label_is_limbeck_label(tmp_path: Path, teacher: str, limbeck_says: Says) -> None:
    command = ["label", "--data", "digits", "--teacher", teacher, "--kind", "top_k", "--k", "3"]
    command += ["--rows_per_shard", "500", "--output_dir", str(tmp_path / "set")]
    code, said, _ = limbeck_says(*command)
    assert code == 0
    assert "1,438 examples" in said
    limbeck.label(limbeck.load(teacher), digits().split(0.2, seed=0)[0], tmp_path / "own", k=3, rows_per_shard=500)
    assert contents(tmp_path / "set") == contents(tmp_path / "own")
    assert limbeck_says(*command)[0] == 0  # finished: nothing to do
    code, _, wrong = limbeck_says(*command, "--k", "4")
    assert code == 1
    assert "kind.k: stored 3, given 4" in wrong


def test_jitter_labels_views(tmp_path: Path, teacher: str, limbeck_says: Says) -> None:
    views = ["--jitter", "1", "--views", "2", "--seed", "5", "--kind", "dense", "--dtype", "float32"]
    code, said, _ = limbeck_says("label", "--teacher", teacher, "--output_dir", str(tmp_path / "set"), *views)
    assert code == 0
    assert "jitter(pixels=1, seed=5), 2 views" in said
    assert limbeck.open(tmp_path / "set").manifest.views == 2
    for jittered in ([], ["--jitter", "2"]):
        code, _, wrong = limbeck_says("distill", "--transfer_set", str(tmp_path / "set"), *jittered)
        assert code == 1
        assert "pass the same one (--jitter)" in wrong


def test_verify_and_info(tmp_path: Path, teacher: str, limbeck_says: Says) -> None:
    path = str(tmp_path / "set")
    limbeck.label(limbeck.load(teacher), digits(), path, k=3)
    code, said, _ = limbeck_says("verify", path, "--teacher", teacher)
    assert code == 0
    assert "every file, row and target and what the teacher says of some rows is as it was written" in said
    assert limbeck_says("verify", path) == (0, f"{path}: every file, row and target is as it was written.", "")
    code, said, _ = limbeck_says("info", path)
    assert code == 0
    for fact in ("1,797", "kind top_k, k 3, bits 8", limbeck.open(path).manifest.teacher[:20]):
        assert fact in said
    (shard,) = Path(path).glob("*.parquet")
    content = bytearray(shard.read_bytes())
    content[100] ^= 1
    shard.write_bytes(content)
    code, said, wrong = limbeck_says("verify", path)
    assert code == 1
    assert f"{shard} has other bytes" in said.replace(" part", "part")
    assert "1 finding, listed above" in wrong
    assert limbeck_says("info", str(tmp_path))[0] == 1


def test_verify_and_info_refuse_the_same_manifest(tmp_path: Path, teacher: str, limbeck_says: Says) -> None:
    limbeck.label(limbeck.load(teacher), digits(), tmp_path / "set", k=3)
    rewrite(tmp_path / "set", kind={"kind": "top_k", "k": 3, "bits": 8, "temperature": "x"})
    for command in ("verify", "info"):
        code, said, wrong = limbeck_says(command, str(tmp_path / "set"))
        assert code == 1
        assert "Temperature of top_k is a finite number above 0, but is 'x'" in " ".join((said + wrong).split())


def test_a_language_model_labels_records(tmp_path: Path, limbeck_says: Says) -> None:
    teacher = llama(vocabulary=64)
    teacher.config.bos_token_id = teacher.config.eos_token_id = 60
    teacher.save_pretrained(tmp_path / "teacher")
    words(size=61, eos_token="w60", bos_token="w59", pad_token="w58").save_pretrained(tmp_path / "teacher")
    records = [{"prompt": "w5 w6", "completion": f"w{i} w{i + 1}"} for i in range(10, 40)]
    datasets.Dataset.from_list(records).to_json(tmp_path / "train.jsonl")
    command = ["label", "--data", str(tmp_path / "train.jsonl"), "--teacher", str(tmp_path / "teacher")]
    code, said, wrong = limbeck_says(*command, "--kind", "hidden", "--output_dir", str(tmp_path / "set"))
    assert (code, wrong) == (0, "")
    labelled = limbeck.open(tmp_path / "set")
    assert labelled.manifest.classes == 61
    assert labelled.manifest.tokenizer is not None
    assert len(labelled) == 27  # a tenth is the test
    assert labelled.manifest.positions == 27 * 3  # two words and the end
    assert "81 next tokens" in said
    code, _, wrong = limbeck_says(*command, "--jitter", "1", "--output_dir", str(tmp_path / "views"))
    assert (code, wrong) == (
        1,
        "limbeck label: --jitter applies only to classifiers, but the model is a language model; remove it.",
    )


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ([], "pass --teacher"),
        (["--kind", "dense", "--k", "3"], "dense takes dtype, but got k"),
        (["--split", "validation"], "no split 'validation'"),
        (["--packing"], "--packing applies only to language models"),
        (["--views", "2"], "pass one (--jitter), or --views 1"),
    ],
)
def test_what_makes_no_sense_is_refused(
    tmp_path: Path, teacher: str, limbeck_says: Says, given: list[str], message: str
) -> None:
    command = ["label", "--output_dir", str(tmp_path / "set"), *(["--teacher", teacher] if given else []), *given]
    code, _, wrong = limbeck_says(*command)
    assert code == 1
    assert message in wrong
    assert not (tmp_path / "set").exists()
