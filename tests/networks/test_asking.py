"""The logits and the networks of any model. Oracle: the same network, called by hand."""

from dataclasses import dataclass
from types import SimpleNamespace

import pytest
import torch
from torch import Tensor, nn

from limbeck.errors import ModelError
from limbeck.networks.asking import label_names_of, logits_of, networks_of, teacher_view
from limbeck.teachers import Ensemble

X = torch.randn(4, 3, generator=torch.Generator().manual_seed(0))
SCALE = torch.arange(1.0, 5.0).unsqueeze(1)
ABOUT = {"labels": torch.zeros(4, dtype=torch.int64), "row_id": torch.arange(4)}
ABOUT |= {"mask": torch.ones(4, dtype=torch.bool), "weights": torch.ones(4)}


class Scaled(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Linear(3, 2)

    def forward(self, pixels: Tensor, scale: Tensor | None = None) -> Tensor:
        said = self.layer(pixels)
        return said if scale is None else said * scale


class Keywords(Scaled):
    def forward(self, **columns: Tensor) -> Tensor:
        return self.layer(columns["pixels"]) * columns["scale"]


class PixelsAndKeywords(Scaled):
    def forward(self, pixels: Tensor, **others: Tensor) -> Tensor:
        return self.layer(pixels) * others["scale"]


class CallsItsPartModule(nn.Module):
    """A user's network that happens to keep its layers in `self.module`."""

    def __init__(self) -> None:
        super().__init__()
        self.module = nn.Linear(3, 2)

    def forward(self, pixels: Tensor, scale: Tensor) -> Tensor:
        return self.module(pixels) * scale


class Wrapper(nn.Module):
    """As DistributedDataParallel: passes everything on to `self.module`."""

    def __init__(self, module: nn.Module) -> None:
        super().__init__()
        self.module = module

    def forward(self, *args: Tensor, **kwargs: Tensor) -> Tensor:
        return self.module(*args, **kwargs)


def test_one_input_column_goes_in_first_place_whatever_its_name() -> None:
    model = nn.Linear(3, 2)
    assert torch.equal(logits_of(model, {"pixels": X, **ABOUT}), model(X))
    assert torch.equal(logits_of(model, {"features": X}), model(X))


def test_columns_go_by_name_where_forward_names_them() -> None:
    model = Scaled()
    assert torch.equal(logits_of(model, {"scale": SCALE, "pixels": X, **ABOUT}), model(X, SCALE))
    assert torch.equal(logits_of(model, {"pixels": X}), model(X))


def test_columns_about_the_examples_are_never_inputs() -> None:
    def greedy(pixels: Tensor, labels: Tensor | None = None, weights: Tensor | None = None, mask=None) -> Tensor:
        assert labels is None
        assert weights is None
        assert mask is None
        return pixels

    assert torch.equal(logits_of(greedy, {"pixels": X, "teacher_pixels": -X, **ABOUT}), X)
    model = nn.Linear(3, 2)
    assert torch.equal(logits_of(model, {"teacher_pixels": -X, "features": X, **ABOUT}), model(X))


@pytest.mark.parametrize("model", [Keywords(), PixelsAndKeywords()], ids=lambda model: type(model).__name__)
def test_a_forward_of_keywords_gets_every_column(model: nn.Module) -> None:
    assert torch.equal(logits_of(model, {"pixels": X, "scale": SCALE, **ABOUT}), model(pixels=X, scale=SCALE))


def test_functions_and_objects_are_models_too() -> None:
    @dataclass
    class Callable:
        factor: float

        def __call__(self, pixels: Tensor, scale: Tensor) -> Tensor:
            return self.factor * pixels * scale

    batch = {"pixels": X, "scale": SCALE}
    assert torch.equal(logits_of(lambda pixels, scale: pixels + scale, batch), X + SCALE)
    assert torch.equal(logits_of(Callable(2.0), batch), 2 * X * SCALE)
    assert torch.equal(logits_of(torch.nn.functional.relu, {"pixels": X}), X.relu())


@pytest.mark.parametrize(
    "wrap",
    [Wrapper, lambda model: torch.compile(model, backend="eager"), lambda model: Wrapper(Wrapper(model))],
    ids=["as DistributedDataParallel", "torch.compile", "twice"],
)
def test_wrapped_models_are_read_through(wrap) -> None:
    model = Scaled()
    said = logits_of(wrap(model), {"pixels": X, "scale": SCALE})
    torch.testing.assert_close(said, model(X, SCALE))


def test_an_attribute_called_module_does_not_make_a_wrapper() -> None:
    model = CallsItsPartModule()
    assert torch.equal(logits_of(model, {"pixels": X, "scale": SCALE}), model(X, SCALE))


def test_a_forward_replaced_on_the_instance_is_the_one_that_is_read() -> None:
    model = nn.Linear(3, 2)
    model.forward = lambda pixels, scale: pixels * scale
    assert torch.equal(logits_of(model, {"pixels": X, "scale": SCALE}), X * SCALE)


@pytest.mark.parametrize("tokens", [False, True], ids=["sequence", "token"])
def test_transformers_models(tokens: bool) -> None:
    from transformers import BertConfig, BertForSequenceClassification, BertForTokenClassification

    config = BertConfig(vocab_size=20, hidden_size=8, num_hidden_layers=1, num_attention_heads=2, intermediate_size=8)
    config.num_labels = 3
    torch.manual_seed(0)
    model = (BertForTokenClassification if tokens else BertForSequenceClassification)(config).eval()
    ids = torch.randint(0, 20, (4, 6), generator=torch.Generator().manual_seed(0))
    attended = torch.ones(4, 6, dtype=torch.int64)
    attended[1, 3:] = 0
    said = logits_of(model, {"attention_mask": attended, "input_ids": ids, **ABOUT})
    assert said.shape == ((4, 6, 3) if tokens else (4, 3))
    torch.testing.assert_close(said, model(input_ids=ids, attention_mask=attended).logits)
    assert not torch.allclose(said[1], model(input_ids=ids).logits[1])  # the mask was not dropped on the way


def test_an_output_with_logits() -> None:
    assert torch.equal(logits_of(lambda x: SimpleNamespace(logits=x, loss=None), {"x": X}), X)


@pytest.mark.parametrize("wrong", [(X,), [1.0], {"logits": X}, None, SimpleNamespace(logits=None)], ids=str)
def test_what_is_no_logits_is_refused(wrong) -> None:
    with pytest.raises(ModelError, match=r"must return logits, .* but returned"):
        logits_of(lambda x: wrong, {"x": X})


def test_columns_that_nobody_can_place_are_refused_and_both_sides_named() -> None:
    with pytest.raises(ModelError) as refusal:
        logits_of(nn.Linear(3, 2), {"pixels": X, "scale": SCALE})
    assert all(word in str(refusal.value) for word in ("pixels", "scale", "Linear", "'input'"))
    assert "self" not in str(refusal.value)


def test_a_batch_without_inputs_is_refused() -> None:
    with pytest.raises(ModelError, match=r"columns \[\]"):
        logits_of(nn.Linear(3, 2), ABOUT)


def test_the_teachers_view() -> None:
    batch = {"pixels": X, "teacher_pixels": -X, **ABOUT}
    seen = teacher_view(batch)
    assert set(seen) == {"pixels", *ABOUT}
    assert torch.equal(seen["pixels"], -X)
    assert torch.equal(logits_of(lambda pixels: pixels, seen), -X)
    assert torch.equal(logits_of(lambda pixels: pixels, batch), X)


def test_without_a_view_of_its_own_the_teacher_sees_the_batch() -> None:
    batch = {"pixels": X, **ABOUT}
    assert teacher_view(batch) is batch


@pytest.mark.parametrize(
    ("model", "names"),
    [
        (SimpleNamespace(label_names=["cat", "dog"]), ("cat", "dog")),
        (SimpleNamespace(config=SimpleNamespace(id2label={0: "cat", 1: "dog"})), ("cat", "dog")),
        (SimpleNamespace(config=SimpleNamespace(id2label={1: "dog", 0: "cat"})), ("cat", "dog")),
        (SimpleNamespace(config=SimpleNamespace(id2label={0: "LABEL_0", 1: "LABEL_1"})), None),
        (SimpleNamespace(config=SimpleNamespace(id2label={1: "LABEL_1", 0: "LABEL_0"})), None),
        (SimpleNamespace(config=SimpleNamespace(id2label=None)), None),
        (nn.Linear(3, 2), None),
    ],
    ids=["its own", "transformers", "by id, not by place", "numbers only", "numbers in disorder", "none", "plain"],
)
def test_the_names_of_the_classes(model, names: tuple[str, ...] | None) -> None:
    assert label_names_of(model) == names


class Holder:
    """A user's class, which lists nothing."""

    def __init__(self, **attributes: object) -> None:
        vars(self).update(attributes)


def test_the_networks_of_modules_teachers_and_users_classes() -> None:
    a, b = nn.Linear(2, 3), nn.Linear(2, 3)
    assert networks_of(a) == [a]
    both = Ensemble([a, Ensemble([b])])
    assert networks_of(both) == both.networks == [a, b]
    assert networks_of(both.cut(2)) == [a, b]
    assert networks_of(Ensemble([a, lambda batch: batch["inputs"]])) is None
    assert networks_of(Holder(model=a)) == networks_of(Holder(teacher=Holder(model=a))) == [a]
    assert networks_of(Holder(members=[a, Holder(model=b)])) == [a, b]
    assert networks_of(Holder(members=[a, Holder()])) is None
    assert networks_of(Holder()) is None


class Holder:
    """A user's class, which lists nothing."""

    def __init__(self, **attributes: object) -> None:
        vars(self).update(attributes)


def test_the_networks_of_modules_teachers_and_users_classes() -> None:
    a, b = nn.Linear(2, 3), nn.Linear(2, 3)
    assert networks_of(a) == [a]
    both = Ensemble([a, Ensemble([b])])
    assert networks_of(both) == both.networks == [a, b]
    assert networks_of(both.cut(2)) == [a, b]
    assert networks_of(Ensemble([a, lambda batch: batch["inputs"]])) is None
    assert networks_of(Holder(model=a)) == networks_of(Holder(teacher=Holder(model=a))) == [a]
    assert networks_of(Holder(members=[a, Holder(model=b)])) == [a, b]
    assert networks_of(Holder(members=[a, Holder()])) is None
    assert networks_of(Holder()) is None


class Holder:
    """A user's class, which lists nothing."""

    def __init__(self, **attributes: object) -> None:
        vars(self).update(attributes)


def test_the_networks_of_modules_teachers_and_users_classes() -> None:
    a, b = nn.Linear(2, 3), nn.Linear(2, 3)
    assert networks_of(a) == [a]
    both = Ensemble([a, Ensemble([b])])
    assert networks_of(both) == both.networks == [a, b]
    assert networks_of(both.cut(2)) == [a, b]
    assert networks_of(Ensemble([a, lambda batch: batch["inputs"]])) is None
    assert networks_of(Holder(model=a)) == networks_of(Holder(teacher=Holder(model=a))) == [a]
    assert networks_of(Holder(members=[a, Holder(model=b)])) == [a, b]
    assert networks_of(Holder(members=[a, Holder()])) is None
    assert networks_of(Holder()) is None
