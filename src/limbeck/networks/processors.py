"""The image processor of a network in files: preprocessor_config.json in its folder or on the hub.

What this file does not know: how pixels are processed, weights.
"""

import importlib.util
import json
import logging
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
    try:
        found: Any = AutoImageProcessor.from_pretrained(name, trust_remote_code=False, **_on_pil())
    except (OSError, ValueError, TypeError, ImportError) as error:
        raise ModelError(
            f"The image processor of {name} ({FILE}) could not be built, and without it the model would read other "
            f"pixels than it was trained with: {error}"
        ) from error
    return processor_from_transformers(found)


def read_own_processor(folder: Path) -> ImageProcessor | None:
    """The image processor that `write_processor` left in a folder; None where there is none."""
    if not (folder / FILE).is_file():
        return None
    try:
        settings = json.loads((folder / FILE).read_text(encoding="utf-8"))
    except ValueError as error:
        raise ModelError(f"{folder / FILE} is not JSON: {error}.") from error
    if not isinstance(settings, dict):
        raise ModelError(f"{folder / FILE} must hold an object with the settings of an image processor.")
    return ImageProcessor(settings) if settings.get("image_processor_type") == PLAIN else read_processor(str(folder))


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
