"""BERTAdam, its warm-up and decay, and the clipping of gradients by their global norm."""

from __future__ import annotations

import itertools
import math

import mxnet as mx
import numpy as np
from mxnet.ndarray import NDArray
from mxnet.ndarray.contrib import multi_adamw_update

# The largest global norm of an update's gradients, as in google-research/bert.
MAX_GRADIENT_NORM = 1.0
# Parameters a fused update takes at once: 4 measured fastest on CPUs (0.26 s a step of BERT base
# against 0.57 s with 50).
_GROUP = 4


def learning_rate(update: int, total: int, warmup_ratio: float, lr: float) -> float:
    """Return the learning rate of an update (gluonnlp's schedule for BERT).

    It rises linearly to ``lr`` over the first ``warmup_ratio`` of all updates, then falls linearly
    to 0 at the last one.

    Parameters
    ----------
    update : int
        From 1 to ``total``.
    """
    warmup = int(total * warmup_ratio)
    if update < warmup:
        return lr * update / warmup
    return lr * (total - update) / (total - warmup)


class BERTAdam(mx.optimizer.Optimizer):
    """Adam with decoupled weight decay and without bias correction, as BERT was trained.

    With gradient g (already rescaled and clipped), decay wd and learning rate lr::

        m = beta1 m + (1 - beta1) g
        v = beta2 v + (1 - beta2) g²
        w = w - lr (m / (sqrt(v) + epsilon) + wd w)

    Decay acts on the weight itself and not through m and v, where an L2 term in the gradient
    would be divided by sqrt(v) and so spare exactly the weights with large gradients
    (google-research/bert, optimization.py).

    Parameters
    ----------
    correct_bias : bool
        Divide m and v by 1 - beta^t (Adam, algorithm 1; AdamW): larger first steps.

    Notes
    -----
    ``rescale_grad`` may be a one-element NDArray, so that the clipping factor never leaves the
    device; where it is not finite, the operator leaves weight, m and v as they are.
    """

    def __init__(
        self,
        learning_rate=5e-5,
        beta1=0.9,
        beta2=0.999,
        epsilon=1e-6,
        correct_bias=False,
        **kwargs,
    ):
        super().__init__(learning_rate=learning_rate, **kwargs)
        self.beta1 = beta1
        self.beta2 = beta2
        self.epsilon = epsilon
        self.correct_bias = correct_bias
        self.aggregate_num = _GROUP

    def create_state(self, index, weight):
        return (
            mx.nd.zeros(weight.shape, weight.context, dtype=weight.dtype),  # m
            mx.nd.zeros(weight.shape, weight.context, dtype=weight.dtype),  # v
        )

    def update(self, index, weight, grad, state):
        if not isinstance(index, (list, tuple)):
            index, weight, grad, state = [index], [weight], [grad], [state]
        self._update_count(index)
        rescale = self.rescale_grad
        if not isinstance(rescale, NDArray):
            rescale = mx.nd.full((1,), rescale, ctx=weight[0].context)
        scale, epsilon = self.correction()
        means, variances = zip(*state, strict=True)
        multi_adamw_update(
            weight,
            grad,
            means,
            variances,
            rescale_grad=rescale,
            lrs=[scale] * len(weight),
            etas=self._get_lrs(index),
            wds=self._get_wds(index),
            beta1=self.beta1,
            beta2=self.beta2,
            epsilon=epsilon,
            size=len(weight),
            out=weight,
        )

    update_multi_precision = update

    def correction(self) -> tuple[float, float]:
        """Return the factor of m and the epsilon that this update's bias correction amounts to.

        m/(1-beta1^t) / (sqrt(v/(1-beta2^t)) + e)  =  scale m / (sqrt(v) + e sqrt(1-beta2^t))
        """
        if not self.correct_bias:
            return 1.0, self.epsilon
        root = math.sqrt(1 - self.beta2**self.num_update)
        return root / (1 - self.beta1**self.num_update), self.epsilon * root


def create(name: str, weight_decay: float, epsilon: float) -> mx.optimizer.Optimizer:
    """Return the optimizer that ``--optimizer`` names: bertadam, adamw, adam or sgd.

    ``adam`` and ``sgd`` (without momentum) are MXNet's, with weight decay as an L2 term.
    """
    if name == "sgd":
        return mx.optimizer.SGD(wd=weight_decay)
    if name == "adam":
        return mx.optimizer.Adam(epsilon=epsilon, wd=weight_decay)
    return BERTAdam(epsilon=epsilon, wd=weight_decay, correct_bias=name == "adamw")


class Updater:
    """Applies an optimizer to a network's parameters, clipping by their global norm.

    Parameters
    ----------
    parameters : dict of str to Parameter
        By structural name. Biases and LayerNorm parameters are not decayed.
    optimizer : mx.optimizer.Optimizer
    ctx : mx.Context, optional
        Where to update them; needed where they are on several.
    fused : bool
        Where the optimizer is BERTAdam, use the operator of :mod:`bert.native`.

    Attributes
    ----------
    states : dict of str to tuple of NDArray
        What the optimizer keeps for each parameter (m and v).
    """

    def __init__(
        self,
        parameters: dict[str, mx.gluon.Parameter],
        optimizer: mx.optimizer.Optimizer,
        ctx: mx.Context | None = None,
        fused: bool = False,
    ):
        self._optimizer = optimizer
        self._names = list(parameters)
        self._weights = [parameter.data(ctx) for parameter in parameters.values()]
        self._grads = [parameter.grad(ctx) for parameter in parameters.values()]
        optimizer.set_wd_mult(
            {i: 0.0 for i, n in enumerate(self._names) if n.endswith(("bias", "gamma", "beta"))}
        )
        states = [optimizer.create_state(i, weight) for i, weight in enumerate(self._weights)]
        self.states = dict(zip(self._names, states, strict=True))
        self._fused = fused and isinstance(optimizer, BERTAdam)

    def update(self, lr: float, examples: float) -> NDArray:
        """Clip gradients that are summed over ``examples`` examples, and step.

        ``bert/native/bert_adam.cc`` does the same for the fused operators.

        Returns
        -------
        NDArray ``[1]`` float32
            The global norm of the mean gradient before clipping. Where it is not finite, the
            update has changed nothing.
        """
        self._optimizer.set_learning_rate(lr)
        if self._fused:
            return self._update_fused(lr, examples)
        # One pass over the gradients; the clipping itself costs none, it is part of rescale_grad.
        squares = mx.nd.multi_sum_sq(*self._grads, num_arrays=len(self._grads))
        norm = mx.nd.sqrt(squares.sum()) / examples
        # "+ 0 norm" is nan where norm is inf or nan, and tells the operator to do nothing.
        rescale = 1.0 / (examples * mx.nd.maximum(norm / MAX_GRADIENT_NORM, 1.0)) + 0.0 * norm
        if isinstance(self._optimizer, BERTAdam):
            self._optimizer.rescale_grad = rescale
        else:  # MXNet's own optimizers take a number, so here the loop waits for it
            self._optimizer.rescale_grad = float(rescale.asscalar())
            if not math.isfinite(self._optimizer.rescale_grad):
                return norm
        states = list(self.states.values())
        group = max(1, self._optimizer.aggregate_num)
        for start in range(0, len(states), group):
            chunk = slice(start, start + group)
            indices = list(range(len(states)))[chunk]
            lists = (indices, self._weights[chunk], self._grads[chunk], states[chunk])
            arguments = [parts[0] for parts in lists] if group == 1 else lists
            self._optimizer.update_multi_precision(*arguments)
        return norm

    def state_arrays(self) -> dict[str, np.ndarray]:
        """Return a copy of all that the next update depends on, beside weights and gradients."""
        arrays = {"count": np.array([self._optimizer.num_update], np.int64)}
        for name, state in self.states.items():
            for i, array in enumerate(_as_tuple(state)):
                arrays[f"{i}:{name}"] = array.asnumpy()
        return arrays

    def set_state_arrays(self, arrays: dict[str, np.ndarray]) -> None:
        """Continue where another Updater's :meth:`state_arrays` were taken.

        Raises
        ------
        KeyError
            They are of another optimizer.
        """
        # The optimizer counts the updates of each parameter from begin_num_update on.
        self._optimizer.begin_num_update = self._optimizer.num_update = int(arrays["count"][0])
        for name, state in self.states.items():
            for i, array in enumerate(_as_tuple(state)):
                array[:] = arrays[f"{i}:{name}"]

    def _update_fused(self, lr: float, examples: float) -> NDArray:
        optimizer, indices = self._optimizer, list(range(len(self._names)))
        optimizer._update_count(indices)
        scale, epsilon = optimizer.correction()
        hyper = [lr, scale, epsilon, 1.0 / examples, MAX_GRADIENT_NORM]
        means, variances = zip(*self.states.values(), strict=True)
        arrays = zip(self._weights, self._grads, means, variances, strict=True)
        return mx.nd.bert_adam(
            mx.nd.array(hyper),
            mx.nd.array(optimizer._get_wds(indices)),
            *itertools.chain.from_iterable(arrays),
            parameters=len(indices),
            beta1=optimizer.beta1,
            beta2=optimizer.beta2,
        )


def _as_tuple(state: NDArray | tuple[NDArray, ...] | None) -> tuple[NDArray, ...]:
    """Return an optimizer's state of one parameter as a tuple, as BERTAdam's is anyway."""
    return () if state is None else state if isinstance(state, tuple) else (state,)
