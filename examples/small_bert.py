"""A text classifier distilled from the command line: SST-2, with a small BERT as teacher and a smaller one as student.

    python small_bert.py                     # a WordPiece vocabulary from the training sentences, into TOKENIZER
    limbeck distill --data small_bert:sst2 --student small_bert:teacher ...

$LIMBECK_DATA holds sst2: train.tsv and dev.tsv, a sentence and 0 or 1 a line, without a header line.
The commands and their results are in docs/own_networks.md.
"""

import os
from pathlib import Path

from sklearn.feature_extraction.text import TfidfVectorizer
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import Pipeline, make_pipeline
from tokenizers import BertWordPieceTokenizer
from transformers import AutoTokenizer, BertConfig, BertForSequenceClassification, BertTokenizer

import limbeck

TOKENIZER = "runs/sst2/tokenizer"
VOCABULARY = 4000


def teacher() -> BertForSequenceClassification:
    """Returns a new BERT of two layers and 128 channels."""
    return _bert(layers=2, channels=128)


def student() -> BertForSequenceClassification:
    """Returns a new BERT of one layer and 32 channels."""
    return _bert(layers=1, channels=32)


def pipeline() -> Pipeline:
    """Fits another kind of teacher on the training sentences: logistic regression on TF-IDF, which reads texts."""
    rows = [line.partition("\t") for line in (_folder() / "train.tsv").read_text("utf-8").splitlines()]
    model = make_pipeline(
        TfidfVectorizer(ngram_range=(1, 2), sublinear_tf=True), LogisticRegression(C=10, max_iter=500)
    )
    return model.fit([sentence for sentence, _, _ in rows], [int(label) for _, _, label in rows])


def sst2() -> dict[str, limbeck.TransferSet]:
    """Returns the transfer sets "train" and "validation"."""
    tokenizer = AutoTokenizer.from_pretrained(TOKENIZER)
    return limbeck.table(_folder(), column_names=("sentence", "label"), tokenizer=tokenizer)


def make_tokenizer(folder: str = TOKENIZER) -> None:
    """Learns a vocabulary from the training sentences, and saves the tokenizer in a folder."""
    sentences = [line.partition("\t")[0] for line in (_folder() / "train.tsv").read_text("utf-8").splitlines()]
    learned = BertWordPieceTokenizer()
    learned.train_from_iterator(sentences, vocab_size=VOCABULARY, show_progress=False)
    Path(folder).mkdir(parents=True, exist_ok=True)
    learned.save_model(folder)
    BertTokenizer(vocab=learned.get_vocab()).save_pretrained(folder)


def _bert(layers: int, channels: int) -> BertForSequenceClassification:
    shape = {"hidden_size": channels, "num_hidden_layers": layers, "num_attention_heads": channels // 32}
    size = {"vocab_size": VOCABULARY, "intermediate_size": 2 * channels, "max_position_embeddings": 128}
    return BertForSequenceClassification(BertConfig(**shape, **size, hidden_dropout_prob=0.3, num_labels=2))


def _folder() -> Path:
    return Path(os.environ["LIMBECK_DATA"], "sst2")


if __name__ == "__main__":
    make_tokenizer()
