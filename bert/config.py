"""The sizes of a BERT, and the shapes of the parameters that follow from them. Loads no MXNet."""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass

from bert.errors import UserError
from bert.family import ACTIVATIONS, MEMBERS, Member

# Far more than any published BERT has: a damaged config.json must not build layers for hours.
_MOST_LAYERS = 1000

Shapes = dict[str, tuple[int, ...]]  # by structural name


@dataclass(frozen=True)
class BERTConfig:
    """The sizes of a BERT, named as in gluonnlp.

    ``hidden_size`` is the width of the feed-forward layer (Hugging Face: intermediate_size),
    ``units`` the width of everything else (Hugging Face: hidden_size). The other members of BERT's
    family need the fields after ``layer_norm_eps``, whose defaults are BERT's:

    ``token_type_vocab_size``
        May be 0: DistilBERT has no token types.
    ``hidden_act``
        One of the values of :data:`bert.family.ACTIVATIONS`.
    ``unused_positions``
        Hugging Face's position table has so many rows more than ``max_length``, in front: RoBERTa's
        position ids begin with 2.
    ``embedding_size``
        The embeddings' width, if it is not ``units``: they are then projected (small ELECTRA).

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
    model_type: str = "bert"
    hidden_act: str = "gelu"
    unused_positions: int = 0
    embedding_size: int | None = None

    def __post_init__(self):
        if self.model_type not in MEMBERS or self.hidden_act not in ACTIVATIONS.values():
            raise ValueError("there is no such model or activation")
        for name, value in asdict(self).items():
            if name in ("token_type_vocab_size", "unused_positions") and value == 0:
                continue
            if isinstance(value, (int, float)) and not 0 < value < math.inf:
                raise UserError(f"{name} must be positive and finite, not {value!r}")
        if self.num_layers > _MOST_LAYERS:
            raise UserError(f"invalid number of layers: {self.num_layers}")
        if self.units % self.num_heads:
            raise UserError(f"{self.units} units are not divisible by {self.num_heads} heads")

    @property
    def member(self) -> Member:
        """What distinguishes this member of BERT's family."""
        return MEMBERS[self.model_type]

    @property
    def embedding_units(self) -> int:
        """The width of the embeddings."""
        return self.embedding_size or self.units

    @property
    def reads_token_types(self) -> bool:
        """Whether the output depends on token types; if not, Hugging Face's gets none."""
        return self.token_type_vocab_size > 1

    @property
    def is_plain(self) -> bool:
        """Whether :mod:`bert.inference` can compute it: as BERT does, with token types or one."""
        pooler = self.member.pooler_activation == "tanh" and self.token_type_vocab_size > 0
        return pooler and self.hidden_act == "gelu" and self.embedding_size is None


def embedding_shapes(config: BERTConfig) -> Shapes:
    """Return the shapes of the embeddings, their LayerNorm and their projection."""
    units = config.embedding_units
    shapes: Shapes = {
        "word_embed.0.weight": (config.vocab_size, units),
        "token_type_embed.0.weight": (config.token_type_vocab_size, units),
        "encoder.position_weight": (config.max_length, units),
        "encoder.layer_norm.gamma": (units,),
        "encoder.layer_norm.beta": (units,),
    }
    if not config.token_type_vocab_size:
        del shapes["token_type_embed.0.weight"]
    if config.embedding_size is not None:
        shapes["embed_project.weight"] = (config.units, units)
        shapes["embed_project.bias"] = (config.units,)
    return shapes


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
