"""The activations of the feed-forward layers, as MXNet's operators."""

from __future__ import annotations

import math


def activate(F, data, name: str):
    """Return an activation of ``data``; the names are the values of family.ACTIVATIONS."""
    if name == "gelu":
        return F.LeakyReLU(data, act_type="gelu")  # x Φ(x) with the exact normal cdf Φ
    if name == "gelu_new":  # Φ approximated by tanh (Hendrycks and Gimpel 2016)
        inner = math.sqrt(2 / math.pi) * (data + 0.044715 * data * data * data)
        return 0.5 * data * (1 + F.tanh(inner))
    if name == "silu":
        return data * F.sigmoid(data)
    return F.relu(data)
