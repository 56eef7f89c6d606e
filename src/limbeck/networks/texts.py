"""Texts that a model cannot read: longer than its positions, or with tokens that its embedding does not have.

What this file does not know: tokenizers, how texts become tokens.
"""

from typing import Any

from torch import nn

from limbeck.errors import DataError
from limbeck.networks.asking import TEACHER_PREFIX, networks_of
from limbeck.networks.halves import base_of

TOKENS = "input_ids"


def check_texts(student: object, teacher: object, examples: object) -> None:
    """DataError unless the networks of student and teacher can read every text of a set.

    student, teacher: networks, teachers or None. examples: a TransferSet or a stored set; others are not read here.
    """
    columns = getattr(examples, "column_names", ())
    for who, model in (("student", student), ("teacher", teacher)):
        own = TEACHER_PREFIX + TOKENS if who == "teacher" else TOKENS
        column = own if own in columns else TOKENS
        extent = examples.token_extent(column) if hasattr(examples, "token_extent") else None
        if extent is not None:
            for network in networks_of(model) or []:
                _require_readable(network, who, column, *extent)


def text_limit(*models: object) -> int | None:
    """The longest text in tokens that all networks of these models can read; None where none has a limit.

    Only a table of learned positions is a limit: rotary and relative positions go on.
    """
    limits = (_limit_of(network) for model in models for network in networks_of(model) or [])
    return min((limit for limit in limits if limit is not None), default=None)


def embedded_tokens(network: object) -> int | None:
    """The number of token ids in a network's input embedding; None where it has none."""
    inner = base_of(network)
    if not hasattr(inner, "get_input_embeddings"):
        return None
    try:
        embedding = inner.get_input_embeddings()
    except NotImplementedError:
        return None
    return embedding.num_embeddings if isinstance(embedding, nn.Embedding) else None


def require_tokens(network: object, who: str, highest: int) -> None:
    """DataError unless a network's embedding has the token id `highest`. who: its role for the message."""
    known = embedded_tokens(network)
    if known is not None and highest >= known:
        raise DataError(
            f"A text has the token {highest}, and the {who}'s embedding has {known} tokens, 0 to {known - 1}: the "
            "tokenizer has tokens that were added to it or is another model's. Give the model's own tokenizer "
            "(--tokenizer), or call model.resize_token_embeddings(len(tokenizer)) in Python and train the new rows."
        )


def _require_readable(network: object, who: str, column: str, longest: int, highest: int) -> None:
    limit = _limit_of(network)
    if limit is not None and longest > limit:
        raise DataError(
            f"A text has {longest} tokens in {column}, and the {who} reads {limit}; make the set by table with "
            f"max_length={limit} (the command: --max_length {limit})."
        )
    require_tokens(network, who, highest)


def _limit_of(network: object) -> int | None:
    """The number of positions of a network with a table of learned positions."""
    inner: Any = base_of(network)
    if not isinstance(inner, nn.Module) or not hasattr(inner, "config"):
        return None
    config: Any = inner.config
    if not hasattr(config, "get_text_config"):
        return None
    tables = [
        module
        for name, module in inner.named_modules()
        if isinstance(module, nn.Embedding) and name.rpartition(".")[2] in _TABLES
    ]
    if not tables:
        return None
    rows = min(table.num_embeddings - (0 if table.padding_idx is None else table.padding_idx + 1) for table in tables)
    configured = getattr(config.get_text_config(), "max_position_embeddings", None)
    return rows if configured is None else min(rows, configured)


_TABLES = {"position_embeddings", "embed_positions", "wpe"}
"""What transformers' models call their tables of learned positions, counted from the pad token's id + 1 in some."""
