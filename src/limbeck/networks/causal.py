"""Whether a language model predicts each token from those before it alone.

A model that reads later tokens too, such as BERT with is_decoder=False, sees what it is to predict.
What this file does not know: losses, data.
"""

import torch
from torch import Tensor

from limbeck.errors import ModelError
from limbeck.losses.numbers import NO_LABEL
from limbeck.networks.asking import device_of, logits_of, networks_of
from limbeck.networks.halves import base_of, is_language_model
from limbeck.networks.modes import evaluating

HALF = 4
"""Two texts of twice this many tokens are compared, whose first halves are the same."""
SHARE = {torch.float32: 1e-4, torch.float64: 1e-4}
"""How far the logits of the first half may change, as a share of the second half's change."""
SHARE_OF_OTHERS = 5e-2
"""The same in half precision, where experts of different numbers of tokens are rounded differently."""


def require_causal(model: object, labels: Tensor, who: str) -> None:
    """Raises ModelError where the logits of a causal language model depend on later tokens.

    model: a network or teacher; encoder-decoders, and what is no language model, pass.
    labels: tokens that the model may read, of any shape, NO_LABEL where there is none; nothing is compared if fewer
        than two are different.
    who: the role of the model for the message, such as "student".
    """
    known = torch.tensor(sorted(set(labels[labels != NO_LABEL].tolist())), dtype=torch.long)
    for network in networks_of(model) or []:
        inner = base_of(network)
        if len(known) > 1 and is_language_model(network) and not inner.config.is_encoder_decoder:
            share = _change_from_later_tokens(network, known)
            if share > SHARE.get(inner.dtype, SHARE_OF_OTHERS):
                raise ModelError(
                    f"The {who}, {type(inner).__name__}, is to predict each token from those before it, but its logits "
                    f"change with later tokens ({share:.1g} of the change of those at the tokens themselves), so it "
                    "would see what it predicts. Set is_decoder=True in the configuration of BERT and models like it, "
                    "causal=True for XLM and FlauBERT; for others take a causal model."
                )


def _change_from_later_tokens(network: torch.nn.Module, known: Tensor) -> float:
    """The change of the logits before the tokens that are replaced, as a share of the change at these; 0 if unknown."""
    ids = known[:1].repeat(1, 2 * HALF).to(device_of(network))
    other = torch.cat([ids[:, :HALF], torch.full_like(ids[:, HALF:], int(known[-1]))], 1)
    try:
        with torch.random.fork_rng(), evaluating([network]):
            first, second = (
                logits_of(network, {"input_ids": each, "attention_mask": torch.ones_like(each)})[0].float()
                for each in (ids, other)
            )
    except Exception:  # a model that needs more than ids: what it lacks is named where it is trained
        return 0.0
    changes = (first - second).norm(dim=-1)  # (2 HALF,)
    at, before = changes[HALF:].median(), changes[:HALF].median()
    return float(before / at) if float(at) > 0 else 0.0
