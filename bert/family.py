"""BERT's family: the models whose layers are BERT's, and what else differs between them.

The members are listed by Hugging Face's ``model_type``. Loads no MXNet.

- Liu et al. 2019, RoBERTa (https://arxiv.org/abs/1907.11692), with XLM-RoBERTa and CamemBERT
- Sanh et al. 2019, DistilBERT (https://arxiv.org/abs/1910.01108)
- Clark et al. 2020, ELECTRA (https://arxiv.org/abs/2003.10555), the discriminator
- Sun et al. 2019, ERNIE 1.0 (https://arxiv.org/abs/1904.09223)
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

from bert.errors import UserError


@dataclass(frozen=True)
class Member:
    """What distinguishes a member of the family, besides its sizes and its activation.

    ``pooler`` and ``output`` are Hugging Face's names of the two dense layers on the first token's
    row. BERT's pooler was pretrained; the others' is new for each task, like the output.
    """

    classes: str  # how the names of Hugging Face's classes begin
    prefix: str = "bert."  # of the encoder's tensors in a classifier
    pooler: str = "classifier.dense"
    output: str = "classifier.out_proj"
    pooler_activation: str = "tanh"
    pretrained_pooler: bool = False
    dropout_before_pooler: bool = True
    segments: bool = True  # pretrained on pairs of token types 0 and 1
    from_padding: bool = False  # position ids begin behind that of the padding token
    tokenizer: str = "BertTokenizer"  # where the files name no class
    # Tensors of a checkpoint that are not read: heads, and buffers that old versions saved.
    ignored: tuple[str, ...] = ()


_BUFFERS = ("qa_outputs.", "classifier.", "embeddings.position_ids", "embeddings.token_type_ids")
_BERT: dict[str, Any] = {
    "pooler": "pooler.dense",
    "output": "classifier",
    "pretrained_pooler": True,
    "dropout_before_pooler": False,
    "ignored": ("cls.", *_BUFFERS),
}
_ROBERTA: dict[str, Any] = {
    "prefix": "roberta.",
    "segments": False,
    "from_padding": True,
    "ignored": ("lm_head.", "pooler.", *_BUFFERS),
}
MEMBERS = {
    "bert": Member("Bert", **_BERT),
    "ernie": Member("Ernie", **{**_BERT, "prefix": "ernie."}),
    "distilbert": Member(
        "DistilBert",
        prefix="distilbert.",
        pooler="pre_classifier",
        output="classifier",
        pooler_activation="relu",
        dropout_before_pooler=False,
        segments=False,
        ignored=("vocab_", "pre_classifier.", *_BUFFERS),
    ),
    "roberta": Member("Roberta", tokenizer="RobertaTokenizer", **_ROBERTA),
    "xlm-roberta": Member("XLMRoberta", tokenizer="XLMRobertaTokenizer", **_ROBERTA),
    "camembert": Member("Camembert", tokenizer="CamembertTokenizer", **_ROBERTA),
    "electra": Member(
        "Electra",
        prefix="electra.",
        pooler_activation="gelu",
        ignored=("discriminator_predictions.", "generator_", *_BUFFERS),
    ),
}
# Hugging Face's hidden_act -> the name used here. Some names are one function, written in another
# order of operations.
ACTIVATIONS = {
    "gelu": "gelu",
    "gelu_python": "gelu",
    "gelu_new": "gelu_new",
    "gelu_fast": "gelu_new",
    "gelu_accurate": "gelu_new",
    "gelu_pytorch_tanh": "gelu_new",
    "gelu_python_tanh": "gelu_new",
    "relu": "relu",
    "silu": "silu",
    "swish": "silu",
}
_ROBERTA_BASE = "RoBERTa (--bert_model roberta_12_768_12)"
_MULTILINGUAL = "XLM-RoBERTa (--bert_model FacebookAI/xlm-roberta-base)"
_SMALL = "DistilBERT (--bert_model distilbert_6_768_12) or MiniLM (bert_6_384_12)"
# What to use instead of a model outside of the family, by the beginning of its model_type.
_NEAREST = {
    "albert": _SMALL,
    "mobilebert": _SMALL,
    "squeezebert": _SMALL,
    "convbert": "ELECTRA (--bert_model google/electra-base-discriminator)",
    "ernie_m": _MULTILINGUAL,
    "xlm": _MULTILINGUAL,
    "xmod": _MULTILINGUAL,
    "rembert": _MULTILINGUAL,
    "mt5": _MULTILINGUAL,
    "flaubert": "CamemBERT (--bert_model almanach/camembert-base)",
    "nezha": "ERNIE 1.0 (--bert_model ernie_12_768_12)",
    **dict.fromkeys(
        (
            *("deberta", "modernbert", "mpnet", "xlnet", "longformer", "big_bird", "funnel"),
            *("roberta", "nomic", "eurobert", "gpt", "bart", "t5"),
        ),
        _ROBERTA_BASE,
    ),
}


def activate(F, data, name: str):
    """Return an activation of ``data``; ``name`` is a value of :data:`ACTIVATIONS`."""
    if name == "gelu":
        return F.LeakyReLU(data, act_type="gelu")  # x Φ(x) with the exact normal cdf Φ
    if name == "gelu_new":  # Φ approximated by tanh (Hendrycks and Gimpel 2016)
        inner = math.sqrt(2 / math.pi) * (data + 0.044715 * data * data * data)
        return 0.5 * data * (1 + F.tanh(inner))
    if name == "silu":
        return data * F.sigmoid(data)
    return F.relu(data)


def member(model_type: object) -> Member:
    """Return a member of the family; raises UserError for another model, with the nearest one."""
    if isinstance(model_type, str) and model_type in MEMBERS:
        return MEMBERS[model_type]
    found = str(model_type)
    nearest = (advice for start, advice in _NEAREST.items() if found.startswith(start))
    raise UserError(
        f"model_type is {model_type!r}, which is not supported: its layers are not BERT's; the "
        f"nearest model that works is {next(nearest, 'BERT (--bert_model bert_12_768_12)')}"
    )
