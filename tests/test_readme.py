"""The README's Python runs as it stands; oracle: its own claims, that the student learns and opens again."""

import re
from pathlib import Path

import pytest
import torch

README = Path(__file__).parent.parent / "README.md"


@pytest.fixture
def examples(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> list[str]:
    monkeypatch.chdir(tmp_path)
    return re.findall(r"```python\n(.*?)```", README.read_text(encoding="utf-8"), flags=re.DOTALL)


def test_the_examples_run_and_the_student_learns(examples: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    names: dict[str, object] = {}
    exec(compile(examples[0], str(README), "exec"), names)
    accuracy, agreement = map(float, capsys.readouterr().out.splitlines()[-1].split())
    assert accuracy > 0.9
    assert agreement > 0.9
    pairs = zip(names["small"].state_dict().values(), names["again"].state_dict().values(), strict=True)
    assert all(torch.equal(a, b) for a, b in pairs)


def test_the_losses_fit_into_a_loop(examples: list[str]) -> None:
    import limbeck

    logits = torch.zeros(4, 3, requires_grad=True)
    given = {"student_logits": logits, "teacher_logits": torch.eye(4, 3), "labels": torch.tensor([0, 1, 2, 0])}
    exec(compile(examples[1], str(README), "exec"), given | {"Objective": limbeck.Objective})
    expected = torch.zeros(4, 3, dtype=torch.float64, requires_grad=True)
    soft = torch.nn.functional.kl_div(
        (expected / 4).log_softmax(-1), (torch.eye(4, 3).double() / 4).softmax(-1), reduction="batchmean"
    )
    (16 * soft + 0.1 * torch.nn.functional.cross_entropy(expected, given["labels"])).backward()
    assert torch.allclose(logits.grad.double(), expected.grad, atol=1e-6)


def test_the_loss_without_logits_is_that_of_the_logits(examples: list[str]) -> None:
    import limbeck

    g = torch.Generator().manual_seed(0)
    shapes = {"teacher_hidden": (5, 6), "teacher_weight": (9, 6), "student_hidden": (5, 4), "student_weight": (9, 4)}
    given = {name: torch.randn(*shape, generator=g) for name, shape in shapes.items()}
    given["student_hidden"].requires_grad_()
    found: dict[str, object] = {"Objective": limbeck.Objective, **given}
    exec(compile(examples[2], str(README), "exec"), found)
    z, v = (given[f"{who}_hidden"] @ given[f"{who}_weight"].T for who in ("student", "teacher"))
    expected = 4 * torch.nn.functional.kl_div(
        (z / 2).log_softmax(-1), (v / 2).log_softmax(-1), reduction="batchmean", log_target=True
    )
    torch.testing.assert_close(found["loss"].mean.detach(), expected.detach())
    assert given["student_hidden"].grad.abs().sum() > 0
