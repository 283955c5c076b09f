"""BERT's forward pass in NumPy and float64, from the paper; on Hugging Face's tensors.

Also that of its family, under BERT's names: with another activation, with fewer embeddings or
narrower ones.

Devlin et al. 2018 (https://arxiv.org/abs/1810.04805), section 3, and Vaswani et al. 2017
(https://arxiv.org/abs/1706.03762), section 3.2, for the layers.
"""

from __future__ import annotations

import numpy as np
from scipy.special import erf, softmax

ACTIVATIONS = {
    "gelu": lambda x: x * (1 + erf(x / np.sqrt(2))) / 2,
    "gelu_new": lambda x: x / 2 * (1 + np.tanh(np.sqrt(2 / np.pi) * (x + 0.044715 * x**3))),
    "relu": lambda x: np.maximum(x, 0),
    "silu": lambda x: x / (1 + np.exp(-x)),
    "tanh": np.tanh,
}


class NumpyBERT:
    """Parameters: ``tensors`` by Hugging Face's names without "bert.", the sizes, epsilon.

    ``activations`` are those of the feed-forward layers and of the pooler.
    """

    def __init__(
        self,
        tensors: dict[str, np.ndarray],
        num_layers: int,
        num_heads: int,
        eps: float,
        activations: tuple[str, str] = ("gelu", "tanh"),
    ):
        self._tensors = tensors
        self._num_layers, self._num_heads, self._eps = num_layers, num_heads, eps
        self._activate, self._activate_pooled = (ACTIVATIONS[name] for name in activations)

    def _get(self, name: str) -> np.ndarray:
        return self._tensors[name].astype(np.float64)

    def _dense(self, x: np.ndarray, name: str) -> np.ndarray:
        return x @ self._get(f"{name}.weight").T + self._get(f"{name}.bias")

    def _norm(self, x: np.ndarray, name: str) -> np.ndarray:
        centred = x - x.mean(-1, keepdims=True)
        scale = np.sqrt((centred**2).mean(-1, keepdims=True) + self._eps)
        return centred / scale * self._get(f"{name}.weight") + self._get(f"{name}.bias")

    def _heads(self, x: np.ndarray) -> np.ndarray:
        """[L, units] -> [heads, L, units / heads]"""
        return x.reshape(len(x), self._num_heads, -1).transpose(1, 0, 2)

    def __call__(
        self, input_ids: np.ndarray, token_types: np.ndarray
    ) -> tuple[np.ndarray, np.ndarray]:
        """Return hidden ``[L, units]`` and pooled ``[units]`` of one pair, without padding."""
        x = self._get("embeddings.word_embeddings.weight")[input_ids]
        x = x + self._get("embeddings.position_embeddings.weight")[: len(input_ids)]
        if "embeddings.token_type_embeddings.weight" in self._tensors:
            table = self._get("embeddings.token_type_embeddings.weight")
            x = x + (table[token_types] if len(table) > 1 else table)
        x = self._norm(x, "embeddings.LayerNorm")
        if "embeddings_project.weight" in self._tensors:
            x = self._dense(x, "embeddings_project")
        for layer in range(self._num_layers):
            at = f"encoder.layer.{layer}."
            query, key, value = (
                self._heads(self._dense(x, f"{at}attention.self.{name}"))
                for name in ("query", "key", "value")
            )
            scores = query @ key.transpose(0, 2, 1) / np.sqrt(query.shape[-1])
            context = (softmax(scores, axis=-1) @ value).transpose(1, 0, 2).reshape(x.shape)
            attended = x + self._dense(context, f"{at}attention.output.dense")
            x = self._norm(attended, f"{at}attention.output.LayerNorm")
            inner = self._activate(self._dense(x, f"{at}intermediate.dense"))
            outer = x + self._dense(inner, f"{at}output.dense")
            x = self._norm(outer, f"{at}output.LayerNorm")
        return x, self._activate_pooled(self._dense(x[0], "pooler.dense"))
