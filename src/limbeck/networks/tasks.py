"""The tasks that a network can be distilled for; all others are refused by name.

What this file does not know: losses, data, how a network is trained.
"""

from collections.abc import Sequence

from limbeck.errors import ModelError, ShapeError
from limbeck.networks.halves import base_of, is_language_model

UNSUPPORTED: dict[str, str] = {
    "ForCTC": "speech recognition by CTC",
    "ForXVector": "speaker verification",
    "ForAudioFrameClassification": "the classification of audio frames",
    "ObjectDetection": "object detection",
    "ForInstanceSegmentation": "instance segmentation",
    "ForUniversalSegmentation": "universal segmentation",
    "ForImageSegmentation": "panoptic segmentation",
    "ForSegmentation": "panoptic segmentation",
    "ForMaskGeneration": "the segmentation of prompted objects",
    "ForDepthEstimation": "depth estimation",
    "ForKeypointDetection": "keypoint detection",
    "ForMaskedImageModeling": "masked image modelling",
    "ForMaskedLM": "masked language modelling",
    "ForPreTraining": "pretraining with several losses",
    "ForQuestionAnswering": "extractive question answering",
    "ForMultipleChoice": "multiple choice",
    "ForNextSentencePrediction": "next sentence prediction",
    "ForPrediction": "the prediction of time series",
    "ForRegression": "the regression of time series",
}
"""The end of a transformers class's name, and the task of such a model."""


def require_supported_task(model: object, who: str) -> None:
    """Raises ModelError where a network's task is not supported, naming the task, or where it returns tuples.

    A network is supported if it classifies examples, tokens or pixels, gives numbers, or is a language model. Of a
    network that is not transformers' nothing is known here, and it passes.

    model: any object. who: the role of the model for the message, such as "student".
    """
    if getattr(getattr(base_of(model), "config", None), "return_dict", True) is False:
        raise ModelError(
            f"The {who}, {type(base_of(model)).__name__}, returns tuples, whose items have no names "
            "(config.return_dict is False); set model.config.return_dict = True."
        )
    task = unsupported_task(model)
    if task is not None:
        raise ModelError(
            f"The {who}, {type(base_of(model)).__name__}, is a model for {task}, which Limbeck does not support. "
            "Supported are classifiers of examples, of tokens and of pixels, also with several labels each, and models "
            "for regression (ForSequenceClassification, ForImageClassification, ForAudioClassification, "
            "ForTokenClassification, ForSemanticSegmentation), and language models (ForCausalLM, "
            "ForConditionalGeneration); load the weights into one of these."
        )


def unsupported_task(model: object) -> str | None:
    """The name of a network's task where it is not supported; None otherwise."""
    inner = base_of(model)
    config = getattr(inner, "config", None)
    if config is None:
        return None
    if is_language_model(model):
        reads = getattr(inner, "main_input_name", "input_ids")
        return f"writing text about {reads}" if config.is_encoder_decoder and reads != "input_ids" else None
    name = type(inner).__name__
    return next((task for ending, task in UNSUPPORTED.items() if name.endswith(ending)), None)


def require_several_classes(classes: int, who: str) -> None:
    """Raises ShapeError for a model of classes with one output, whose softmax is 1 whatever it computes.

    classes: the size of the model's output. who: for the message, such as "student".
    """
    if classes < 2:
        raise ShapeError(
            f"The {who} has {classes} output, but needs one per class, so 2 or more: the softmax of one output is "
            "always 1, and no weight would change. A network with one logit for two classes is read as such; a teacher "
            "of another kind must give two."
        )


def require_supported_tasks(networks: Sequence[object], who: str) -> None:
    """`require_supported_task` of every network."""
    for network in networks:
        require_supported_task(network, who)
