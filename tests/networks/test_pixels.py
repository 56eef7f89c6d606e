"""Image processors. The oracles are transformers' own processors, on PIL, and the arithmetic of mean and deviation."""

import copy
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import transformers
from PIL import Image
from torch import Tensor, nn

import limbeck
from limbeck.errors import DataError, ModelError
from limbeck.networks.asking import logits_of
from limbeck.networks.folder import load, save
from limbeck.networks.pixels import (
    TORCH_MODES,
    image_processor_of,
    processor_from_transformers,
    resize,
    resize_by_torch,
)
from limbeck.networks.processors import FILE
from limbeck.teachers import fingerprint_of
from limbeck.transfer import TransferSet, arrays, jitter
from limbeck.transfer.tables import table

DRAWN = np.random.default_rng(0)
VIT = {"hidden_size": 8, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 8, "patch_size": 4}


def image_processor(kind: str, **settings: Any) -> Any:
    module = {
        "ViT": "vit",
        "DeiT": "deit",
        "CLIP": "clip",
        "ConvNext": "convnext",
        "Siglip": "siglip",
        "EfficientNet": "efficientnet",
        "Levit": "levit",
        "Beit": "beit",
        "MobileNetV2": "mobilenet_v2",
    }[kind]
    found = getattr(transformers.models, module)
    return getattr(found, f"{kind}ImageProcessorPil")(**settings)


PROCESSORS = {
    "ViT to 24": ("ViT", {"size": {"height": 24, "width": 24}}),
    "ViT not resized": ("ViT", {"do_resize": False, "image_mean": [0.1, 0.2, 0.3], "image_std": [0.4, 0.5, 0.6]}),
    "ViT not normalised": ("ViT", {"do_normalize": False, "size": {"height": 16, "width": 20}}),
    "DeiT": ("DeiT", {"size": {"height": 20, "width": 20}, "crop_size": {"height": 16, "width": 16}}),
    "CLIP bicubic": ("CLIP", {"size": {"shortest_edge": 24}, "crop_size": {"height": 20, "width": 20}}),
    "CLIP padded": ("CLIP", {"size": {"shortest_edge": 9}, "crop_size": {"height": 14, "width": 17}}),
    "ConvNext crop": ("ConvNext", {"size": {"shortest_edge": 24}, "crop_pct": 0.875}),
    "ConvNext warp": ("ConvNext", {"size": {"shortest_edge": 384}}),
    "Siglip, another scale": ("Siglip", {"size": {"height": 16, "width": 16}, "rescale_factor": 1 / 127.5}),
    "no rescale": ("ViT", {"do_resize": False, "do_rescale": False, "image_mean": [127.5] * 3}),
    "nearest": ("ViT", {"size": {"height": 24, "width": 24}, "resample": 0}),
    "EfficientNet": ("EfficientNet", {"size": {"height": 24, "width": 24}, "rescale_offset": True}),
    "Levit": ("Levit", {"size": {"shortest_edge": 24}, "crop_size": {"height": 20, "width": 20}}),
    "Beit": ("Beit", {"size": {"height": 24, "width": 24}, "crop_size": {"height": 20, "width": 20}}),
    "MobileNetV2": ("MobileNetV2", {"size": {"shortest_edge": 24}, "crop_size": {"height": 20, "width": 20}}),
}


def photographs(height: int = 32, width: int = 32, count: int = 3) -> np.ndarray:
    """Images that are smooth in parts, `[n, H, W, 3]` uint8."""
    small = DRAWN.integers(0, 256, (count, 8, 8, 3), dtype=np.uint8)
    return np.stack([np.asarray(Image.fromarray(x).resize((width, height), Image.Resampling.BICUBIC)) for x in small])


def as_pixels(images: np.ndarray) -> Tensor:
    """Images as a batch has them, `[n, C, H, W]` in [0, 1]."""
    return torch.from_numpy(images).permute(0, 3, 1, 2).float() / 255


@pytest.mark.parametrize("size", [(32, 32), (40, 30), (30, 45)], ids=str)
@pytest.mark.parametrize("name", PROCESSORS)
def test_pixels_are_those_of_transformers(name: str, size: tuple[int, int]) -> None:
    kind, settings = PROCESSORS[name]
    theirs, images = image_processor(kind, **settings), photographs(*size)
    expected = theirs(images=[Image.fromarray(image) for image in images], return_tensors="pt")["pixel_values"]
    found = processor_from_transformers(theirs)(as_pixels(images))
    assert found.shape == expected.shape
    torch.testing.assert_close(found, expected.float(), rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("resample", TORCH_MODES)
@pytest.mark.parametrize("size", [(24, 24), (50, 41), (17, 60)], ids=str)
def test_torch_resizes_as_pil_to_one_level(size: tuple[int, int], resample: int) -> None:
    pixels = as_pixels(photographs(40, 30))
    difference = (resize(pixels, *size, resample) - resize_by_torch(pixels, *size, TORCH_MODES[resample])).abs()
    assert difference.max() <= 6.1 / 255  # where PIL begins with the columns
    assert difference.mean() < 0.3 / 255


def test_gray_images_become_rgb_for_a_processor_of_three_channels() -> None:
    gray = photographs()[..., :1]
    theirs = image_processor("ViT", size={"height": 24, "width": 24})
    colour = [Image.fromarray(image[..., 0]).convert("RGB") for image in gray]
    expected = theirs(images=colour, return_tensors="pt")["pixel_values"]
    found = processor_from_transformers(theirs)(as_pixels(gray))
    torch.testing.assert_close(found, expected, rtol=1e-5, atol=1e-5)


def vit(image_size: int, seed: int = 0) -> Any:
    torch.manual_seed(seed)
    config = transformers.ViTConfig(**VIT, image_size=image_size, num_labels=3)
    return transformers.ViTForImageClassification(config).eval()


def folder_of(path: Path, image_size: int, mean: float = 0.5, seed: int = 0) -> Path:
    """The folder of a ViT with its processor, as the hub has it."""
    vit(image_size, seed).save_pretrained(path)
    processor = image_processor("ViT", size={"height": image_size, "width": image_size}, image_mean=[mean] * 3)
    processor.save_pretrained(path)
    return path


def direct(folder: Path, images: np.ndarray) -> Tensor:
    """The logits of a folder's model and processor, by transformers alone."""
    model = transformers.ViTForImageClassification.from_pretrained(folder).eval()
    processor = transformers.models.vit.ViTImageProcessorPil.from_pretrained(folder)
    with torch.no_grad():
        pixels = processor(images=[Image.fromarray(image) for image in images], return_tensors="pt")["pixel_values"]
        logits: Tensor = model(pixel_values=pixels).logits
        return logits


def photo_folder(root: Path, images: np.ndarray) -> Path:
    for i, image in enumerate(images):
        path = root / f"class{i % 3}"
        path.mkdir(parents=True, exist_ok=True)
        Image.fromarray(image).save(path / f"{i:02}.png")
    return root


@pytest.fixture(scope="module")
def photos(tmp_path_factory: pytest.TempPathFactory) -> tuple[TransferSet, np.ndarray]:
    """A set of images from files, and the images in its order."""
    images = photographs(count=9)
    root = photo_folder(tmp_path_factory.mktemp("photos"), images)
    order = [int(path.stem) for path in sorted(root.rglob("*.png"))]
    return table(str(root))["train"], images[order]


def test_a_loaded_model_answers_as_with_transformers(tmp_path: Path, photos: tuple[TransferSet, np.ndarray]) -> None:
    examples, images = photos
    folder = folder_of(tmp_path / "vit", 16)
    batch = examples.__getitems__(list(range(9)))
    with torch.no_grad():
        found = logits_of(load(folder), batch)
    torch.testing.assert_close(found, direct(folder, images), rtol=1e-4, atol=1e-5)
    plain = load(folder)
    plain.image_processor = None  # type: ignore[assignment]
    assert image_processor_of(plain) is None


def test_teacher_and_student_of_other_sizes_see_one_augmented_view(
    tmp_path: Path, photos: tuple[TransferSet, np.ndarray]
) -> None:
    """The view is shifted in the set's own pixels; what each model reads of it is transformers' processing."""
    examples, _ = photos
    student, teacher = load(folder_of(tmp_path / "s", 16)), load(folder_of(tmp_path / "t", 24, mean=0.2, seed=1))
    seen: dict[str, Tensor] = {}
    for name, model in (("student", student), ("teacher", teacher)):
        model.register_forward_pre_hook(
            lambda _, args, inputs, name=name: seen.update({name: (inputs.get("pixel_values"), *args)[0]}),
            with_kwargs=True,
        )
    views: list[Tensor] = []

    def augment(batch: Any, epoch: int) -> Any:
        shifted = jitter(2, column="pixel_values")(batch, epoch)
        views.append(shifted["pixel_values"].clone())
        return shifted

    config = limbeck.DistillConfig(output_dir=str(tmp_path / "run"), max_steps=1, disable_tqdm=True)
    trainer = limbeck.DistillTrainer(student, teacher, args=config, train_dataset=examples, augment=augment)
    trainer.train()
    for name, model in (("student", student), ("teacher", teacher)):
        processor = transformers.models.vit.ViTImageProcessorPil.from_pretrained(tmp_path / name[0])
        shown = [Image.fromarray((x.permute(1, 2, 0) * 255).round().byte().numpy()) for x in views[-1].cpu()]
        expected = processor(images=shown, return_tensors="pt")["pixel_values"]
        torch.testing.assert_close(seen[name].cpu(), expected, rtol=1e-5, atol=1e-5)
        assert model.image_processor is not None


def test_evaluate_and_label_use_the_processors(tmp_path: Path, photos: tuple[TransferSet, np.ndarray]) -> None:
    examples, images = photos
    folder = folder_of(tmp_path / "vit", 16)
    expected = direct(folder, images).log_softmax(-1)
    results = limbeck.evaluate(load(folder), examples, teacher=load(folder), latency=False, resamples=10)
    nll = -expected[torch.arange(9), examples.labels].mean()
    for role in ("student", "teacher"):
        assert results["roles"][role]["nll"]["mean"] == pytest.approx(float(nll), rel=1e-4)
    stored = limbeck.label(load(folder), examples, tmp_path / "stored", kind="dense", dtype="float32")
    said = stored.teacher(stored.__getitems__(list(range(9)))).all_log_probs(1.0)
    torch.testing.assert_close(said, expected, rtol=1e-4, atol=1e-5)
    assert stored.pixel_columns == ("pixel_values",)


def test_an_onnx_file_reads_processed_pixels(tmp_path: Path, photos: tuple[TransferSet, np.ndarray]) -> None:
    runtime = pytest.importorskip("onnxruntime")
    examples, images = photos
    folder = folder_of(tmp_path / "vit", 16)
    report = limbeck.export_onnx(load(folder), tmp_path / "vit.onnx", examples.__getitems__(list(range(9))))
    assert report["inputs"]["pixel_values"]["shape"][-2:] == [16, 16]
    processor = transformers.models.vit.ViTImageProcessorPil.from_pretrained(folder)
    pixels = processor(images=[Image.fromarray(image) for image in images], return_tensors="np")["pixel_values"]
    session = runtime.InferenceSession(str(tmp_path / "vit.onnx"))
    (found,) = session.run(None, {"pixel_values": np.asarray(pixels, np.float32)})
    np.testing.assert_allclose(found, direct(folder, images).numpy(), rtol=1e-3, atol=1e-4)


def test_the_command_trains_measures_and_exports_with_the_processors(
    tmp_path: Path, limbeck_says: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    photo_folder(tmp_path / "photos", photographs(count=30))
    folder_of(tmp_path / "t", 24, mean=0.2, seed=1)
    student = folder_of(tmp_path / "s", 16, mean=0.3)
    words = ("--data", "photos", "--batch_size", "4", "--output", "measured/results.json")
    code, said, wrong = limbeck_says("evaluate", "--student", "s", "--teacher", "t", "--split", "train", *words)
    assert code == 0, said + wrong
    examples = table("photos")["train"].split(0.2, seed=0)[0]
    files = [Path(path) for path in sorted(map(str, Path("photos").rglob("*.png")))]
    shown = np.stack([np.asarray(Image.open(files[row])) for row in examples.row_ids])
    nll = -direct(student, shown).log_softmax(-1)[torch.arange(len(shown)), examples.labels].mean()
    measured = limbeck.read_results("measured/results.json")
    assert measured["roles"]["student"]["nll"]["mean"] == pytest.approx(float(nll), rel=1e-4)
    words = ("--data", "photos", "--max_steps", "1", "--output_dir", "run", "--report_to", "none")
    code, said, wrong = limbeck_says("distill", "--student", "s", "--teacher", "t", *words)
    assert code == 0, said + wrong
    kept = image_processor_of(load("run/student"))
    assert kept is not None
    assert kept.settings["image_mean"] == [0.3] * 3


def test_a_model_of_from_pretrained_gets_its_processor_where_the_images_are_raw(
    tmp_path: Path, photos: tuple[TransferSet, np.ndarray]
) -> None:
    examples, images = photos
    folder = folder_of(tmp_path / "vit", 16)
    model = transformers.ViTForImageClassification.from_pretrained(folder)
    stored = limbeck.label(model, examples, tmp_path / "stored", kind="dense", dtype="float32")
    said = stored.teacher(stored.__getitems__(list(range(9)))).all_log_probs(1.0)
    torch.testing.assert_close(said, direct(folder, images).log_softmax(-1), rtol=1e-4, atol=1e-5)
    untouched = transformers.ViTForImageClassification.from_pretrained(folder)
    processed = arrays(torch.randn(4, 3, 16, 16), column="pixel_values")  # by the user
    limbeck.label(untouched, processed, tmp_path / "other", kind="dense")
    assert image_processor_of(untouched) is None


def test_a_saved_student_keeps_its_processor(tmp_path: Path) -> None:
    model = load(folder_of(tmp_path / "vit", 16, mean=0.3))
    save(model, tmp_path / "copy")
    again = load(tmp_path / "copy")
    pixels = as_pixels(photographs())
    for other in (again, copy.deepcopy(model), limbeck.take_layers(model, 1)):
        found, expected = image_processor_of(other), image_processor_of(model)
        assert found is not None
        assert expected is not None
        assert torch.equal(found(pixels), expected(pixels))
    theirs = transformers.AutoImageProcessor.from_pretrained(tmp_path / "copy", backend="pil")
    assert list(theirs.image_mean) == [0.3] * 3
    special = transformers.models.efficientnet.EfficientNetImageProcessorPil(size={"height": 8, "width": 8})
    model.image_processor = special  # type: ignore[assignment]
    save(model, tmp_path / "special")
    assert type(transformers.AutoImageProcessor.from_pretrained(tmp_path / "special", backend="pil")) is type(special)


class Own(nn.Module):
    """A network that says which mean and deviation its pixels have."""

    image_mean, image_std = (0.4, 0.5, 0.6), (0.2, 0.3, 0.4)

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.layer = nn.Linear(3 * 32 * 32, 3)

    def forward(self, x: Tensor) -> Tensor:
        found: Tensor = self.layer(x.flatten(1))
        return found


def test_a_network_of_ones_own_names_mean_and_deviation(tmp_path: Path) -> None:
    model, images = Own(), photographs()
    normalised = (as_pixels(images) - torch.tensor([0.4, 0.5, 0.6]).view(3, 1, 1)) / torch.tensor([0.2, 0.3, 0.4]).view(
        3, 1, 1
    )
    batch = arrays(torch.from_numpy(images).permute(0, 3, 1, 2)).__getitems__([0, 1, 2])
    torch.testing.assert_close(logits_of(model, batch), model(normalised), rtol=1e-5, atol=1e-5)
    gray = nn.Flatten()
    gray.image_mean, gray.image_std = 0.13, 0.31  # type: ignore[assignment]
    pixels = torch.rand(2, 5, 5)
    torch.testing.assert_close(logits_of(gray, {"inputs": pixels}), ((pixels - 0.13) / 0.31).flatten(1))
    save(model, tmp_path / "own")
    assert json.loads((tmp_path / "own" / FILE).read_text())["image_std"] == [0.2, 0.3, 0.4]
    torch.testing.assert_close(logits_of(load(tmp_path / "own", into=Own()), batch), model(normalised))
    del gray.image_std
    with pytest.raises(ModelError, match="both image_mean and image_std"):
        logits_of(gray, {"inputs": pixels})


def test_pixels_that_were_processed_before_are_refused(tmp_path: Path) -> None:
    model = load(folder_of(tmp_path / "vit", 16))
    processed = torch.linspace(-1, 1, 3 * 16 * 16).view(1, 3, 16, 16)
    with pytest.raises(DataError, match=r"reads pixels in \[0, 1\], but the batch has values from -1 to 1, which were"):
        logits_of(model, {"pixel_values": processed})


def test_a_processor_changes_the_fingerprint_and_its_absence_does_not(tmp_path: Path) -> None:
    bare = vit(16)
    bare.save_pretrained(tmp_path / "bare")
    one, other = (load(folder_of(tmp_path / str(mean), 16, mean=mean)) for mean in (0.3, 0.5))
    assert len({fingerprint_of(model) for model in (bare, one, other)}) == 3
    assert fingerprint_of(load(tmp_path / "bare")) == fingerprint_of(bare)


def test_a_folder_without_a_processor_reads_pixels_as_they_are(tmp_path: Path) -> None:
    model = vit(32)
    model.save_pretrained(tmp_path)
    pixels = as_pixels(photographs())
    with torch.no_grad():
        found = logits_of(load(tmp_path), {"pixel_values": pixels})
        torch.testing.assert_close(found, model(pixel_values=pixels).logits)


def test_a_processor_that_cannot_be_built_is_refused(tmp_path: Path) -> None:
    vit(16).save_pretrained(tmp_path)
    (tmp_path / FILE).write_text('{"image_processor_type": "NoSuchProcessor"}')
    with pytest.raises(ModelError, match="could not be built, and without it the model would read other pixels"):
        load(tmp_path)
