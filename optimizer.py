"""BERTAdam, its warm-up and decay, and the clipping of gradients by their global norm."""

from __future__ import annotations

import itertools
import math

import mxnet as mx
import numpy as np
from mxnet.ndarray import NDArray
from mxnet.ndarray.contrib import multi_adamw_update

# Parameters a fused update takes at once: 4 measured fastest on CPUs (0.26 s a step of BERT base
# against 0.57 s with 50).
_GROUP = 4


def learning_rate(update: int, total: int, warmup_ratio: float, lr: float) -> float:
    """Return the learning rate of an update.

    It rises linearly to ``lr`` over the first ``warmup_ratio`` of all updates, then falls linearly
    to the value 0, which the update after the last one would have (gluonnlp's schedule gives it to
    the last one, so that a run of one update learns nothing). Without warm-up it is
    transformers' ``get_linear_schedule_with_warmup``.

    Parameters
    ----------
    update : int
        From 1 to ``total``.
    """
    warmup = int(total * warmup_ratio)
    if update < warmup:
        return lr * update / warmup
    return lr * (total + 1 - update) / (total + 1 - max(warmup, 1))


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
        scale, epsilon = 1.0, self.epsilon
        if self.correct_bias:
            scale, epsilon = self.correction(self.num_update)
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

    def correction(self, t):
        """Return the factor of m and the epsilon that the bias correction of step t amounts to.

        m/(1-beta1^t) / (sqrt(v/(1-beta2^t)) + e)  =  scale m / (sqrt(v) + e sqrt(1-beta2^t))

        ``t``, from 1, and so what is returned, may be a number or an NDArray.
        """
        root = (1 - self.beta2**t) ** 0.5
        return root / (1 - self.beta1**t), self.epsilon * root


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
        By structural name. Biases and LayerNorm parameters are not decayed. Each one's learning
        rate is multiplied by its ``lr_mult``.
    optimizer : mx.optimizer.Optimizer
    ctx : mx.Context, optional
        Where to update them; needed where they are on several.
    max_norm : float
        The global norm above which the gradient is scaled down to it; 0: never.
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
        max_norm: float = 1.0,
        fused: bool = False,
    ):
        self._optimizer = optimizer
        self._max_norm = max_norm or math.inf
        self._names = list(parameters)
        self._weights = [parameter.data(ctx) for parameter in parameters.values()]
        self._grads = [parameter.grad(ctx) for parameter in parameters.values()]
        optimizer.set_wd_mult(
            {i: 0.0 for i, n in enumerate(self._names) if n.endswith(("bias", "gamma", "beta"))}
        )
        optimizer.set_lr_mult({i: p.lr_mult for i, p in enumerate(parameters.values())})
        states = [optimizer.create_state(i, weight) for i, weight in enumerate(self._weights)]
        self.states = dict(zip(self._names, states, strict=True))
        self._fused = fused and isinstance(optimizer, BERTAdam)
        # Of the fused operator: how many of its updates have changed something. On the device, as
        # only the device knows in time.
        self._steps = mx.nd.zeros((1,), ctx or mx.cpu(), dtype="float64")

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
            return self._update_fused(examples)
        # One pass over the gradients; the clipping itself costs none, it is part of rescale_grad.
        squares = mx.nd.multi_sum_sq(*self._grads, num_arrays=len(self._grads))
        norm = mx.nd.sqrt(squares.sum()) / examples
        # "+ 0 norm" is nan where norm is inf or nan, and tells the operator to do nothing.
        rescale = 1.0 / (examples * mx.nd.maximum(norm / self._max_norm, 1.0)) + 0.0 * norm
        corrected = getattr(self._optimizer, "correct_bias", True)
        if not corrected:
            self._optimizer.rescale_grad = rescale
        else:  # the optimizer counts its updates, so here the loop waits to see if this is one
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
        steps = int(self._steps.asscalar()) if self._fused else self._optimizer.num_update
        arrays = {"count": np.array([steps], np.int64)}
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
        steps = int(arrays["count"][0])
        self._optimizer.begin_num_update = self._optimizer.num_update = steps
        self._steps[:] = steps
        for name, state in self.states.items():
            for i, array in enumerate(_as_tuple(state)):
                array[:] = arrays[f"{i}:{name}"]

    def _update_fused(self, examples: float) -> NDArray:
        optimizer, indices = self._optimizer, list(range(len(self._names)))
        # The largest float32 stands for no clipping.
        largest = min(self._max_norm, float(np.finfo(np.float32).max))
        hyper = mx.nd.array([1.0, optimizer.epsilon, 1.0 / examples, largest])
        if optimizer.correct_bias:
            scale, epsilon = optimizer.correction(self._steps + 1)
            hyper[0:1], hyper[1:2] = scale.astype("float32"), epsilon.astype("float32")
        means, variances = zip(*self.states.values(), strict=True)
        arrays = zip(self._weights, self._grads, means, variances, strict=True)
        norm = mx.nd.bert_adam(
            hyper,
            mx.nd.array(optimizer._get_lrs(indices)),
            mx.nd.array(optimizer._get_wds(indices)),
            *itertools.chain.from_iterable(arrays),
            parameters=len(indices),
            beta1=optimizer.beta1,
            beta2=optimizer.beta2,
        )
        self._steps += mx.nd.contrib.isfinite(norm).astype("float64")
        return norm


def _as_tuple(state: NDArray | tuple[NDArray, ...] | None) -> tuple[NDArray, ...]:
    """Return an optimizer's state of one parameter as a tuple, as BERTAdam's is anyway."""
    return () if state is None else state if isinstance(state, tuple) else (state,)
