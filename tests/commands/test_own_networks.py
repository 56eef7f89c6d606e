"""--network: a network of the user's, trained by the command, in every command that opens its folder.

The oracle is the network itself: built in Python, filled with the weights of its folder.
"""

import json
import shutil
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

import limbeck
from limbeck.transfer import digits

NETS = """
import torch

built = []

def net(width=16):
    built.append(width)
    return torch.nn.Sequential(
        torch.nn.Flatten(), torch.nn.Linear(64, width), torch.nn.ReLU(), torch.nn.Linear(width, 10)
    )

def wide():
    return net(24)

def number():
    return 7
"""
SHORT = ["--max_steps", "6", "--save_strategy", "no", "--learning_rate", "0.01"]


@pytest.fixture(autouse=True)
def _own_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.delitem(sys.modules, "nets", raising=False)
    Path("nets.py").write_text(NETS)


@pytest.fixture
def trained(limbeck_says: Any) -> str:
    """The folder of a student that was trained as nets:net."""
    code, _, err = limbeck_says("distill", "--student", "nets:net", *SHORT, "--output_dir", "run")
    assert (code, err) == (0, "")
    return "run/student"


def accuracy(network: torch.nn.Module) -> float:
    test = digits().split(0.2, seed=0)[1]
    with torch.no_grad():
        right: Any = (network(test.__getitems__(range(len(test)))["inputs"]).argmax(-1) == test.labels).double().mean()
    return float(right)


def test_every_command_opens_it_with_the_weights_of_its_folder(trained: str, limbeck_says: Any) -> None:
    network = limbeck.load(trained, into=sys.modules["nets"].net())
    with_net = ["--network", "nets:net"]
    assert limbeck_says("evaluate", "--student", trained, *with_net)[0] == 0
    roles = json.loads(Path("results.json").read_text())["roles"]
    assert roles["student"]["accuracy"]["mean"] == pytest.approx(accuracy(network))

    assert limbeck_says("label", "--teacher", trained, *with_net, "--kind", "dense", "--output_dir", "said")[0] == 0
    assert limbeck_says("verify", "said", "--teacher", trained, *with_net)[0] == 0

    words = ["distill", "--student", "nets:wide", "--teacher", trained, *with_net, *SHORT, "--output_dir", "second"]
    assert limbeck_says(*words)[0] == 0
    results = json.loads(Path("second/results.json").read_text())
    assert results["roles"]["teacher"]["accuracy"]["mean"] == pytest.approx(accuracy(network))
    assert results["settings"]["network"] == ["nets:net"]

    code, _, err = limbeck_says("export", "run", *with_net, "--data", "digits")
    assert (code, Path("run/student.onnx").exists()) == (0, True), err
    words = ["distill", "--student", trained, *with_net, *SHORT, "--learning_rate", "0", "--output_dir", "third"]
    assert limbeck_says(*words)[0] == 0
    same = load_file("third/student/model.safetensors")
    assert all(torch.equal(same[name], value) for name, value in network.state_dict().items())
    assert json.loads(Path("third/student/config.json").read_text())["limbeck"]["network"] == "nets:net"


def test_a_folder_names_its_network_and_never_imports_it(trained: str, limbeck_says: Any) -> None:
    del sys.modules["nets"]
    for words in (
        ["evaluate", "--student", trained],
        ["evaluate", "--student", "mlp", "--teacher", trained],
        ["label", "--teacher", trained],
        ["export", "run"],
        ["inspect", "digits", "--student", trained],
        ["distill", "--teacher", trained, *SHORT],
    ):
        code, _, err = limbeck_says(*words)
        assert code == 1
        assert "run/student holds only the weights of its network. It was trained as nets:net;" in err or "mlp" in words
        assert "pass --network nets:net" in err or "mlp" in words
    assert "nets" not in sys.modules


def test_of_several_networks_each_folder_takes_its_own(trained: str, limbeck_says: Any) -> None:
    assert limbeck_says("distill", "--student", "nets:wide", *SHORT, "--output_dir", "wide")[0] == 0
    words = ["evaluate", "--student", trained, "--teacher", "wide/student", "--network", "nets:wide", "nets:net"]
    assert limbeck_says(*words)[0] == 0
    roles = json.loads(Path("results.json").read_text())["roles"]
    assert (roles["student"]["parameters"], roles["teacher"]["parameters"]) == (64 * 16 + 16 + 170, 64 * 24 + 24 + 250)
    Path("other.py").write_text("from nets import net\n")
    code, _, err = limbeck_says("evaluate", "--student", trained, "--network", "nets:wide", "other:net")
    assert (code, "run/student was trained as nets:net, which is none of them" in err) == (1, True)
    assert limbeck_says("evaluate", "--student", trained, "--network", "other:net")[0] == 0  # a module that was renamed


def test_what_does_not_fit_is_named(trained: str, limbeck_says: Any) -> None:
    code, _, err = limbeck_says("evaluate", "--student", trained, "--network", "nets:wide")
    assert code == 1
    assert "size mismatch for 1.weight" in err
    assert "run/student was trained as nets:net, not as nets:wide" in err
    shutil.copytree(trained, "cut")
    Path("cut/limbeck_model.json").unlink()
    weights = load_file("cut/model.safetensors")
    save_file({name: value for name, value in weights.items() if name != "3.bias"}, "cut/model.safetensors")
    code, _, err = limbeck_says("evaluate", "--student", "cut", "--network", "nets:net")
    assert (code, "3.bias" in err) == (1, True)
    code, _, err = limbeck_says("evaluate", "--student", trained, "--network", "nets:number")
    assert (code, "nets:number must return a torch.nn.Module, but returned a int" in err) == (1, True)
    code, _, err = limbeck_says("evaluate", "--student", trained, "--network", "nets.py")
    assert (code, "--network must be package.module:callable, but is 'nets.py'" in err) == (1, True)


def test_a_path_that_is_no_model_is_what_the_message_is_about(trained: str, limbeck_says: Any) -> None:
    code, _, err = limbeck_says("evaluate", "--student", "run", "--network", "nets:net")
    assert (code, "run is not a model" in err, "Did you mean run/student?" in err) == (1, True, True)
    code, _, err = limbeck_says("evaluate", "--student", "run/studnt", "--network", "nets:net")
    assert (code, "run/studnt is not a folder" in err) == (1, True)


def test_a_network_that_no_folder_needs_is_refused(limbeck_says: Any) -> None:
    limbeck.save(limbeck.mlp([64, 10]), "plain")
    code, _, err = limbeck_says("evaluate", "--student", "plain", "--network", "nets:net")
    assert (code, "only its weights, but plain is none; remove it" in err) == (1, True)
    limbeck.save(torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(64, 10)), "saved")
    code, _, err = limbeck_says("evaluate", "--student", "saved")
    assert (code, "It is a 'Sequential' of your own; pass --network package.module:callable" in err) == (1, True)
    assert "nets" not in sys.modules
