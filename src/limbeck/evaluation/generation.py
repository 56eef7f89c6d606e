"""Greedy completions of language models, and the speed-up of the teacher with the student as its draft.

What this file does not know: losses, statistics, how models were trained.
"""

import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from transformers import GenerationConfig, PreTrainedTokenizerBase

from limbeck.losses.numbers import NO_LABEL
from limbeck.networks.asking import TEACHER_PREFIX, device_of, networks_of
from limbeck.networks.decoding import is_encoder_decoder
from limbeck.networks.halves import base_of, position_limit
from limbeck.networks.modes import evaluating
from limbeck.results import Json, JsonView
from limbeck.teachers import as_teacher

PROMPT = 32
"""The prompt of a text that is learned from its beginning: at most this many tokens, and at most a quarter of it."""


def prompts_of(row: JsonView, encodes: bool = False) -> tuple[list[int], list[int], list[int]]:
    """`(the student's prompt, the teacher's, the reference that goes on)` of a row of `tokenise`, as token ids.

    encodes: whether it is a row for an encoder-decoder, whose prompt is the whole source.
    """
    if encodes:
        mine = np.asarray(row["input_ids"]).tolist()
        theirs = np.asarray(row.get(TEACHER_PREFIX + "input_ids", mine)).tolist()
        return mine, theirs, [token for token in np.asarray(row["labels"]).tolist() if token != NO_LABEL]
    ids, start = np.asarray(row["input_ids"]), _first_learned(row["labels"])
    if start <= 1:  # a text: the student continues it
        start = max(1, min(PROMPT, len(ids) // 4))
    theirs = ids[:start]
    if TEACHER_PREFIX + "input_ids" in row:
        theirs = np.asarray(row[TEACHER_PREFIX + "input_ids"])[: _first_learned(row[TEACHER_PREFIX + "labels"])]
    return ids[:start].tolist(), theirs.tolist(), ids[start:].tolist()


def written(model: object, prompt: Sequence[int], most: int, ends: Sequence[int], draft: object = None) -> list[int]:
    """The greedy completion of a prompt, as token ids without the prompt.

    most: the largest number of new tokens. ends: the token ids that end it. draft: another model that proposes tokens,
    which changes the speed and not the completion.
    """
    network, context = _network(model)
    ids = torch.tensor([prompt], device=device_of(network))
    encodes = is_encoder_decoder(network)
    if (room := _room([network], prompt, most)) < 1:
        return []
    config = GenerationConfig(
        do_sample=False, num_beams=1, max_new_tokens=room, eos_token_id=list(ends) or None, pad_token_id=(*ends, 0)[0]
    )
    more = {} if draft is None else {"assistant_model": _network(draft)[0]}
    with context(), _writing([network, *more.values()]):
        whole: Tensor = network.generate(
            input_ids=ids, attention_mask=torch.ones_like(ids), generation_config=config, **more
        )
    completion: list[int] = whole[0, 1 if encodes else len(prompt) :].tolist()
    return completion


def reason_of(error: Exception) -> str:
    """What went wrong while a model wrote, in a line."""
    text = str(error).strip()
    return text.splitlines()[0] if text else type(error).__name__


def speed_of_draft(
    teacher: object, student: object, prompts: Sequence[Sequence[int]], most: int, ends: Sequence[int]
) -> Json:
    """How fast the teacher writes alone and with the student as its draft (`generate(assistant_model=student)`).

    `{"prompts", "teacher_tokens_per_second", "assisted_tokens_per_second", "speed_up", "same", "reason"}`: greedy, one
    prompt at a time, both in turns; same is the share of prompts with the same completion from both. Where it cannot be
    measured, all values are None and reason is a sentence.
    """
    nothing = dict.fromkeys(("teacher_tokens_per_second", "assisted_tokens_per_second", "speed_up", "same"))
    found: Json = {"prompts": len(prompts), **nothing, "reason": None}
    networks = networks_of(teacher) or []
    if len(networks) != 1:
        return found | {"reason": "The teacher is not one network."}
    if networks[0] is student:
        return found | {"reason": "Teacher and student are one model."}
    both = [networks[0], _network(student)[0]]
    fitting = [(prompt, room) for prompt in prompts if (room := _room(both, prompt, most)) > 0]
    if not fitting:
        return found | {"reason": "Every prompt is longer than teacher and student can both read."}
    found["prompts"] = len(fitting)
    seconds: dict[str, float] = {"alone": 0.0, "assisted": 0.0}
    tokens, same = {"alone": 0, "assisted": 0}, 0
    try:
        for warming in (True, False):
            for prompt, room in fitting[:1] if warming else fitting:
                wrote = {}
                for how, draft in (("alone", None), ("assisted", student)):
                    began = time.perf_counter()
                    wrote[how] = written(teacher, prompt, room, ends, draft)
                    if not warming:
                        seconds[how] += time.perf_counter() - began
                        tokens[how] += len(wrote[how])
                same += not warming and wrote["alone"] == wrote["assisted"]
    except Exception as error:  # a model that takes no draft, other vocabularies: the measurements are not lost
        return found | {"reason": reason_of(error)}
    if not tokens["alone"]:
        return found | {"reason": "The teacher wrote nothing after these prompts."}
    alone, assisted = (tokens[how] / seconds[how] for how in ("alone", "assisted"))
    return found | {
        "teacher_tokens_per_second": alone,
        "assisted_tokens_per_second": assisted,
        "speed_up": assisted / alone,
        "same": same / len(fitting),
    }


def ends_of(model: object, tokenizer: PreTrainedTokenizerBase | None) -> list[int]:
    """The ids that end a completion: the model's, and the tokenizer's, which `tokenise` teaches."""
    networks = networks_of(model) or []
    configured = getattr(base_of(networks[0]).generation_config, "eos_token_id", None) if len(networks) == 1 else None
    ends = [configured] if isinstance(configured, int) else list(configured or [])
    if tokenizer is not None and tokenizer.eos_token_id is not None:
        ends.append(tokenizer.eos_token_id)
    return sorted(set(ends))


def _room(networks: Sequence[nn.Module], prompt: Sequence[int], most: int) -> int:
    """The number of tokens, `most` at most, for which all networks have room after a prompt."""
    room = [most]
    for network in networks:
        limit = position_limit(network)
        if limit is not None:  # a decoder with an encoder has read its start token alone
            room.append(limit - (1 if is_encoder_decoder(network) else len(prompt)))
    return min(room)


def _first_learned(labels: Any) -> int:
    return int(np.argmax(np.asarray(labels) != NO_LABEL))


def _network(model: Any) -> tuple[Any, Callable[[], AbstractContextManager[Any]]]:
    """The network of a model or teacher, which can generate, and its context: without adapter for a WithoutAdapter."""
    network: Any
    (network,) = networks_of(model) or [model]
    if not isinstance(model, nn.Module) and as_teacher(model).shares_student:
        return network, network.disable_adapter
    return network, nullcontext


@contextmanager
def _writing(models: Sequence[nn.Module]) -> Iterator[None]:
    """Eval mode, and the cache on, which training switches off."""
    caches = [(config, config.use_cache) for config in {id(c): c for c in map(_config, models)}.values()]
    try:
        for config, _ in caches:
            config.use_cache = True
        with evaluating(models):
            yield
    finally:
        for config, used in caches:
            config.use_cache = used


def _config(model: nn.Module) -> Any:
    return base_of(model).config.get_text_config()
