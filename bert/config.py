"""The sizes of a BERT, and the shapes of the parameters that follow from them. Loads no MXNet."""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass

from bert.errors import UserError

# Far more than any published BERT has: a damaged config.json must not build layers for hours.
_MOST_LAYERS = 1000

Shapes = dict[str, tuple[int, ...]]  # by structural name


@dataclass(frozen=True)
class BERTConfig:
    """The sizes of a BERT, named as in gluonnlp.

    ``hidden_size`` is the width of the feed-forward layer (Hugging Face: intermediate_size),
    ``units`` the width of everything else (Hugging Face: hidden_size).

    Raises
    ------
    UserError
        A size is not positive and finite, or ``units`` is not divisible by ``num_heads``.
    """

    vocab_size: int
    num_layers: int = 12
    units: int = 768
    hidden_size: int = 3072
    num_heads: int = 12
    max_length: int = 512
    token_type_vocab_size: int = 2
    layer_norm_eps: float = 1e-12

    def __post_init__(self):
        for name, value in asdict(self).items():
            if not 0 < value < math.inf:
                raise UserError(f"{name} must be positive and finite, not {value!r}")
        if self.num_layers > _MOST_LAYERS:
            raise UserError(f"invalid number of layers: {self.num_layers}")
        if self.units % self.num_heads:
            raise UserError(f"{self.units} units are not divisible by {self.num_heads} heads")


def embedding_shapes(config: BERTConfig) -> Shapes:
    """Return the shapes of the embeddings and their LayerNorm."""
    return {
        "word_embed.0.weight": (config.vocab_size, config.units),
        "token_type_embed.0.weight": (config.token_type_vocab_size, config.units),
        "encoder.position_weight": (config.max_length, config.units),
        "encoder.layer_norm.gamma": (config.units,),
        "encoder.layer_norm.beta": (config.units,),
    }


def layer_shapes(config: BERTConfig) -> Shapes:
    """Return the shapes of one layer of the encoder."""
    units, hidden_size = config.units, config.hidden_size
    shapes: Shapes = {}
    for name in ("query", "key", "value"):
        shapes[f"attention_cell.proj_{name}.weight"] = (units, units)
        shapes[f"attention_cell.proj_{name}.bias"] = (units,)
    return shapes | {
        "proj.weight": (units, units),
        "proj.bias": (units,),
        "layer_norm.gamma": (units,),
        "layer_norm.beta": (units,),
        "ffn.ffn_1.weight": (hidden_size, units),
        "ffn.ffn_1.bias": (hidden_size,),
        "ffn.ffn_2.weight": (units, hidden_size),
        "ffn.ffn_2.bias": (units,),
        "ffn.layer_norm.gamma": (units,),
        "ffn.layer_norm.beta": (units,),
    }


def parameter_shapes(config: BERTConfig) -> Shapes:
    """Return the shapes of all parameters of a :class:`bert.modeling.BERTModel`."""
    shapes = embedding_shapes(config)
    for layer in range(config.num_layers):
        for name, shape in layer_shapes(config).items():
            shapes[f"encoder.transformer_cells.{layer}.{name}"] = shape
    return shapes | {
        "pooler.weight": (config.units, config.units),
        "pooler.bias": (config.units,),
    }
