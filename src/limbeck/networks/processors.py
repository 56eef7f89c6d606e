"""The image processor of a network in files: preprocessor_config.json in its folder or on the hub.

What this file does not know: how pixels are processed, weights.
"""

import importlib.util
import json
import logging
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from torch import nn

from limbeck.errors import ModelError
from limbeck.networks.halves import base_of, is_language_model
from limbeck.networks.pixels import (
    PIXELS,
    ImageProcessor,
    image_processor_of,
    innermost,
    processor_from_transformers,
)

log = logging.getLogger(__name__)

FILE = "preprocessor_config.json"
MOST_EDGE = 2**14
PLAIN = "ViTImageProcessor"
"""The transformers class that does the steps of ImageProcessor and no others."""


def reads_pixels(model: object) -> bool:
    """Whether a model is a transformers model that classifies images."""
    return getattr(innermost(model), "main_input_name", None) == PIXELS and not is_language_model(model)


def attach_processor(model: nn.Module, name: str) -> None:
    """Gives a transformers image model the image processor of its folder or hub name, if it has one there.

    ModelError where there is a processor that cannot be built.
    """
    if reads_pixels(model) and (found := read_processor(name)) is not None:
        innermost(model).image_processor = found


def read_processor(name: str) -> ImageProcessor | None:
    """The image processor of a transformers folder, or of a name on the hub; None where it has none."""
    from transformers import AutoImageProcessor
    from transformers.utils import cached_file

    folder = Path(name)
    try:
        if not (folder / FILE).is_file() and (
            folder.is_dir() or cached_file(name, FILE, _raise_exceptions_for_missing_entries=False) is None
        ):
            return None
    except OSError:  # offline, and never loaded before
        return None
    if (folder / FILE).is_file():
        _read_settings(folder)
    try:
        found: Any = AutoImageProcessor.from_pretrained(name, trust_remote_code=False, **_on_pil())
    except Exception as error:  # its file may hold anything
        raise ModelError(
            f"The image processor of {name} ({FILE}) could not be built, and without it the model would read other "
            f"pixels than it was trained with: {error}"
        ) from error
    return processor_from_transformers(found)


def read_saved_processor(folder: Path) -> ImageProcessor | None:
    """The image processor that `write_processor` left in a folder; None where there is none."""
    if not (folder / FILE).is_file():
        return None
    settings = _read_settings(folder)
    return ImageProcessor(settings) if settings.get("image_processor_type") == PLAIN else read_processor(str(folder))


def _read_settings(folder: Path) -> dict[str, Any]:
    """The content of preprocessor_config.json; ModelError where it is no object, or a field cannot be used."""
    try:
        settings = json.loads((folder / FILE).read_text(encoding="utf-8"))
    except (ValueError, RecursionError, OSError) as error:
        raise ModelError(f"{folder / FILE} is not JSON: {error}.") from error
    if not isinstance(settings, dict):
        raise ModelError(f"{folder / FILE} must hold an object with the settings of an image processor.")
    for name, value in settings.items():
        expected, holds = FIELDS.get(name, ("", None))
        if holds is not None and value is not None and not holds(value):
            raise ModelError(f"{folder / FILE}: {name} must be {expected}, but is {value!r:.80}.")
    needed = [("do_resize", "size"), ("do_resize", "resample"), ("do_rescale", "rescale_factor")]
    for flag, name in [*needed, ("do_normalize", "image_mean"), ("do_normalize", "image_std")]:
        if settings.get(flag) and name in settings and settings[name] is None:
            raise ModelError(f"{folder / FILE}: {flag} needs {name}, but it is null.")
    return settings


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and abs(value) < 1e6


def _are_numbers(value: Any) -> bool:
    return _is_number(value) or (isinstance(value, list) and len(value) > 0 and all(map(_is_number, value)))


def _is_length(value: Any) -> bool:
    return type(value) is int and 0 < value <= MOST_EDGE


def _is_size(value: Any) -> bool:
    """A number, `[height, width]`, or an object of such numbers by name."""
    if isinstance(value, dict):
        edges = [edge for edge in value.values() if edge is not None]
        return (
            len(edges) > 0
            and all(type(edge) is int and 0 < edge < 2**31 for edge in edges)
            and all(value.get(name) is None or _is_length(value[name]) for name in ("height", "width", "shortest_edge"))
        )
    return _is_length(value) or (isinstance(value, list) and len(value) == 2 and all(map(_is_length, value)))


_FLAG: tuple[str, Callable[[Any], bool]] = ("true or false", lambda value: isinstance(value, bool))
_SIZE: tuple[str, Callable[[Any], bool]] = (f"a size of 1 to {MOST_EDGE:,} pixels a side", _is_size)
FIELDS: Mapping[str, tuple[str, Callable[[Any], bool]]] = {
    "image_processor_type": ("the name of a class", lambda value: isinstance(value, str)),
    "feature_extractor_type": ("the name of a class", lambda value: isinstance(value, str)),
    **dict.fromkeys(("do_resize", "do_center_crop", "do_rescale", "do_normalize"), _FLAG),
    **dict.fromkeys(("size", "crop_size"), _SIZE),
    "resample": (
        "a whole number from 0 to 5, one of PIL's filters",
        lambda value: type(value) is int and 0 <= value < 6,
    ),
    "rescale_factor": ("a number above 0 and at most 1,000", lambda value: _is_number(value) and 0 < value <= 1000),
    "image_mean": ("a number or a list of them", _are_numbers),
    "image_std": (
        "a number above 0 or a list of them",
        lambda value: _are_numbers(value) and min(value if isinstance(value, list) else [value]) > 0,
    ),
    "crop_pct": ("a number above 0 and at most 1", lambda value: _is_number(value) and 0 < value <= 1),
}
"""Field of preprocessor_config.json -> what it must be, in words, and whether a value is that; null is left alone."""


def write_processor(model: object, folder: Path) -> None:
    """Writes the image processor of a model beside it, as transformers does; nothing where it has none."""
    processor = image_processor_of(model)
    if processor is None:
        return
    if processor.special is not None:
        processor.special.save_pretrained(str(folder))
        return
    text = json.dumps({"image_processor_type": PLAIN, **processor.settings}, indent=2)
    (folder / FILE).write_text(text + "\n", encoding="utf-8")


def find_processor(model: object, examples: object, who: str) -> None:
    """Gives a model that came from a folder or the hub without Limbeck its image processor, where it needs one.

    It does where the examples hold images as they are (a TransferSet or a stored set), the model is a transformers
    model of images, and nobody gave it a processor or set `image_processor` to None.

    who: the role of the model for the log, such as "student".
    """
    inner = innermost(model)
    if not getattr(examples, "pixel_columns", ()) or not reads_pixels(model):
        return
    if "image_processor" in vars(inner) or hasattr(inner, "image_mean"):
        return
    name = getattr(base_of(inner).config, "_name_or_path", "")
    if name:
        attach_processor(inner, name)
    if image_processor_of(inner) is None:
        inner.image_processor = None  # not looked for again
    else:
        log.warning("The %s reads images through the image processor of %s.", who, name)


def _on_pil() -> dict[str, Any]:
    """The argument that has transformers use PIL, whose results do not depend on whether torchvision is installed."""
    has_backends = importlib.util.find_spec("transformers.image_processing_backends") is not None
    return {"backend": "pil"} if has_backends else {"use_fast": False}
