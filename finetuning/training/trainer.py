"""One update of the parameters: forward, backward, clip and step; and updates in their order."""

from __future__ import annotations

import copy
import math
import time
from collections.abc import Iterator
from dataclasses import dataclass
from typing import NamedTuple

import mxnet as mx
import numpy as np
from mxnet import autograd

import optimizer
from bert.modeling import BERTClassifier
from bert.parameters import parameters_of
from dataset import NO_LINE, TokenizedExamples, training_batches
from finetuning.options import Options
from finetuning.training.inputs import NotFiniteError, logits_of, memory_for
from finetuning.training.workers import Workers

# As in MXNet's AMP: the scale of a float16 run's loss, and for how many updates it is kept.
_FIRST_LOSS_SCALE = 2.0**16
_UPDATES_PER_LOSS_SCALE = 2000


@dataclass(frozen=True)
class Progress:
    """An update that is done."""

    update: int  # from 1
    epoch: int  # from 1
    examples: int
    tokens: int
    loss: float  # mean over the update's examples
    lr: float
    gradient_norm: float  # global, before clipping
    samples_per_second: float  # since training began; evaluation and saving left out
    problem: str | None  # why the update has changed nothing, if it has not


class _Queued(NamedTuple):
    """An update that MXNet may still be computing asynchronously."""

    epoch: int
    update: int
    batches: list[np.ndarray]
    lr: float
    loss: mx.nd.NDArray  # [1], the sum over the examples
    norm: mx.nd.NDArray  # [1]
    loss_scale: float

    @property
    def examples(self) -> int:
        return sum(map(len, self.batches))


class Trainer:
    """Trains a network, update by update; its position is one number, ``updates``.

    What an update does is a function of the seed, the update's number and the parameters: the
    order of the batches and the dropout are drawn from seed and number each time.

    Parameters
    ----------
    net : BERTClassifier
    examples : TokenizedExamples
    loss_function : gluon.loss.Loss
        Returns one loss per example.
    workers : Workers
        The devices that share each batch.
    options : Options
        ``batch_size`` and ``accumulate``: an update sees ``accumulate`` batches, and equals that of
        one batch as large as all of them. ``epochs``, or ``training_steps`` where given.
        ``optimizer``, ``weight_decay``, ``epsilon``, ``lr``, ``warmup_ratio``, ``max_grad_norm``:
        see :mod:`optimizer`. ``seed``. ``skip_nonfinite``: how many updates may be skipped because
        their loss or gradient is not finite. ``dtype``: with float16 the loss is multiplied by a
        scale, so that gradients do not vanish (Micikevicius et al. 2017,
        https://arxiv.org/abs/1710.03740); the scale is halved where a gradient is not finite (that
        update is skipped), and doubled after 2000 updates without one.

    Attributes
    ----------
    updates, total_updates, updates_per_epoch : int
    seconds : float
        Time spent in updates.
    samples, skipped : int
        Examples seen, updates skipped.
    """

    def __init__(
        self,
        net: BERTClassifier,
        examples: TokenizedExamples,
        loss_function: mx.gluon.loss.Loss,
        workers: Workers,
        options: Options,
    ):
        self._net = net
        self._examples = examples
        self._loss_function = loss_function
        self._workers = workers
        self._options = options
        # Those that are not frozen.
        self._parameters = {n: p for n, p in parameters_of(net).items() if p.grad_req != "null"}
        rule = optimizer.create(options.optimizer, options.weight_decay, options.epsilon)
        self._updaters = [
            optimizer.Updater(
                self._parameters,
                copy.deepcopy(rule),
                ctx,
                max_norm=options.max_grad_norm,
                fused=net.bert.fused,
            )
            for ctx in workers.ctx
        ]
        self.total_updates, self.updates_per_epoch = count_updates(len(examples), options)
        self.updates = 0
        self.seconds = 0.0
        self.samples = 0
        self.skipped = 0
        self._scale_loss = options.dtype == "float16"
        self.loss_scale = _FIRST_LOSS_SCALE if self._scale_loss else 1.0
        self.good_updates = 0  # since the scale was changed
        self._pausing = False

    def update(self, batches: list[np.ndarray]) -> tuple[float, mx.nd.NDArray, mx.nd.NDArray]:
        """Make one update: forward, backward, sum over devices, clip and step.

        MXNet may still be computing it when this returns. The clipping and the step are in
        :class:`optimizer.Updater`, for the fused operators in ``bert/native/bert_adam.cc``.

        Parameters
        ----------
        batches : list of int arrays
            Indices of the examples; their gradients are summed.

        Returns
        -------
        lr : float
        loss : NDArray ``[1]``
            The sum over the examples.
        norm : NDArray ``[1]``
            The global norm of the mean gradient, before clipping.
        """
        options = self._options
        losses = self._forward_backward(batches)
        if self._workers.count > 1:
            gradients = [parameter.list_grad() for parameter in self._parameters.values()]
            self._workers.add_up("update", [*gradients, losses])
        lr = optimizer.learning_rate(
            self.updates, self.total_updates, options.warmup_ratio, options.lr
        )
        # The gradients are those of the summed, scaled loss; this makes them a mean.
        divisor = sum(map(len, batches)) * self.loss_scale
        norms = [updater.update(lr, divisor) for updater in self._updaters]
        return lr, losses[0], norms[0]

    def _forward_backward(self, batches: list[np.ndarray]) -> list[mx.nd.NDArray]:
        """Leave the summed gradients on every device; returns each device's summed loss ``[1]``."""
        parameters, contexts = self._parameters.values(), self._workers.ctx
        losses = [mx.nd.zeros((1,), ctx) for ctx in contexts]
        sums: list[list[mx.nd.NDArray]] = [[] for _ in contexts]
        seeds = [self._dropout_seed(device) for device in range(len(contexts))]
        for seed, ctx in zip(seeds, contexts, strict=True):
            mx.random.seed(seed, ctx)
        for number, indices in enumerate(batches):
            shares = self._workers.shares(indices)
            for device, (ctx, share) in enumerate(zip(contexts, shares, strict=True)):
                if len(share):
                    losses[device] += self._backward(share, ctx, seeds[device] + number)
                else:
                    for parameter in parameters:
                        parameter.grad(ctx)[:] = 0
                if len(batches) == 1:
                    continue
                # Backward overwrites the gradients: the fused operators cannot add to them.
                for i, parameter in enumerate(parameters):
                    if number == 0:
                        sums[device].append(parameter.grad(ctx).copy())
                    else:
                        sums[device][i] += parameter.grad(ctx)
        for ctx, found in zip(contexts, sums, strict=True):
            for parameter, gradient in zip(parameters, found, strict=False):
                parameter.grad(ctx)[:] = gradient
        return losses

    def _backward(self, indices: np.ndarray, ctx: mx.Context, dropout_seed: int) -> mx.nd.NDArray:
        """Leave the gradients of a batch's summed loss on a device; returns that loss ``[1]``."""
        examples = self._examples.of_epoch((self.updates - 1) // self.updates_per_epoch + 1)
        label = mx.nd.array(examples.label[indices], ctx)
        with autograd.record():
            logits = logits_of(self._net, examples, indices, ctx, dropout_seed)
            loss = self._loss_function(logits, label).sum()
        # The scale (1), or nan where the loss is not finite: the gradients are then not finite
        # either, and the update changes nothing.
        loss.backward(self.loss_scale + 0 * loss)
        return loss

    def _dropout_seed(self, device: int) -> int:
        """Return the seed of this update's dropout mask, a different one on each device."""
        number = self._workers.number(device)
        seed = self._options.seed
        return seed_of(seed, self.updates, number) if number else seed_of(seed, self.updates)

    def updates_until(self, stop: int) -> Iterator[Progress]:
        """Make updates until ``stop`` have been made, and yield each as soon as it is computed.

        The next update is already queued by then, so that MXNet never waits for Python; after
        :meth:`pause` that one is still yielded, and no other.

        Raises
        ------
        NotFiniteError
            Names update, learning rate, batch and what was not finite. The update has changed
            nothing, but the one after it may have been made.
        OutOfMemoryError
            Names the flag to lower.
        """
        self._pausing = False
        start = time.perf_counter() - self.seconds
        queued: _Queued | None = None
        for epoch, batches in self._batches_until(stop):
            with memory_for(self._examples, batches, "--batch_size"):
                scale = self.loss_scale
                now = _Queued(epoch, self.updates, batches, *self.update(batches), scale)
            before, queued = queued, now
            if before:
                yield self._check(before, start)
                if self._pausing:
                    break
        if queued:
            with memory_for(self._examples, queued.batches, "--batch_size"):
                mx.nd.waitall()
            yield self._check(queued, start)

    def pause(self) -> None:
        """End :meth:`updates_until` after the update that is already queued."""
        self._pausing = True

    def _batches_until(self, stop: int) -> Iterator[tuple[int, list[np.ndarray]]]:
        """Count ``updates`` up to ``stop``; yields each one's epoch, from 1, and its batches."""
        size = self._options.batch_size
        while self.updates < stop:
            epoch, done = divmod(self.updates, self.updates_per_epoch)
            all_of_update = training_batches(
                len(self._examples), size * self._options.accumulate, self._options.seed, epoch + 1
            )
            for indices in all_of_update[done:]:
                self.updates += 1
                yield epoch + 1, [indices[i : i + size] for i in range(0, len(indices), size)]
                if self.updates == stop:
                    return

    def _check(self, queued: _Queued, start: float) -> Progress:
        """Wait for an update and check that it is finite; training began at ``start``."""
        examples = queued.examples
        with memory_for(self._examples, queued.batches, "--batch_size"):
            norm = float(queued.norm.asscalar())
            loss = float(queued.loss.asscalar()) / examples
        problem = None
        overflow = math.isfinite(loss) and not math.isfinite(norm) and queued.loss_scale > 1
        if self._scale_loss and overflow:
            # The update queued behind this one has the same scale, and must not halve it again.
            self.loss_scale = min(self.loss_scale, queued.loss_scale / 2)
            self.good_updates = 0
            problem = (
                f"update {queued.update}: a gradient was too large for float16; the loss is now "
                f"scaled by {self.loss_scale:g}"
            )
        elif not (math.isfinite(norm) and math.isfinite(loss)):
            problem = self._skip(queued, loss, norm)
        elif self._scale_loss:
            self.good_updates += 1
            if self.good_updates == _UPDATES_PER_LOSS_SCALE:
                self.loss_scale, self.good_updates = 2 * self.loss_scale, 0
        self.samples += examples
        self.seconds = time.perf_counter() - start
        speed = self.samples / self.seconds
        tokens = sum(len(self._examples.tokens_of(indices)) for indices in queued.batches)
        return Progress(
            queued.update, queued.epoch, examples, tokens, loss, queued.lr, norm, speed, problem
        )

    def _skip(self, queued: _Queued, loss: float, norm: float) -> str:
        """Count an update that is not finite; returns what is wrong with it."""
        self.skipped += 1
        origin = self._examples.origin
        indices = np.sort(np.concatenate(queued.batches))
        if origin is None:
            where, numbers = "training examples", indices + 1
        else:
            where, numbers = "lines of the training file", origin["line"][indices]
            if NO_LINE in numbers:
                where, numbers = "rows of the training file (from 0)", origin["row"][indices]
        problem = (
            f"update {queued.update} (epoch {queued.epoch}, learning rate {queued.lr:.3g}) is not "
            f"finite: loss {loss}, gradient norm {norm}, {where} "
            f"{', '.join(map(str, numbers))}"
        )
        if self.skipped > self._options.skip_nonfinite:
            raise NotFiniteError(
                f"{problem}; it has changed nothing, and the last checkpoint is complete; a lower "
                "--lr or a longer --warmup_ratio may help, --skip_nonfinite N skips up to N such "
                "updates"
            )
        return problem

    def position(self) -> dict[str, int | float]:
        """Return where training stands, in the data and in time."""
        epoch, update = divmod(self.updates, self.updates_per_epoch)
        return {
            "updates": self.updates,
            "epochs_done": epoch,
            "batches_done_in_epoch": update * self._options.accumulate,
            "seconds": self.seconds,
            "samples": self.samples,
            "skipped": self.skipped,
            "loss_scale": self.loss_scale,
            "good_updates": self.good_updates,
        }

    def parameter_arrays(self) -> dict[str, np.ndarray]:
        """Return a copy of the parameters that are trained."""
        return {name: p.list_data()[0].asnumpy() for name, p in self._parameters.items()}

    def all_parameter_arrays(self, trained: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
        """Return :meth:`parameter_arrays` of some moment and copies of the frozen ones."""
        return {
            name: trained[name] if name in trained else parameter.list_data()[0].asnumpy()
            for name, parameter in parameters_of(self._net).items()
        }

    def optimizer_arrays(self) -> dict[str, np.ndarray]:
        """Return a copy of the optimizer's state."""
        return self._updaters[0].state_arrays()

    def restore(
        self,
        position: dict[str, int | float],
        parameters: dict[str, np.ndarray],
        optimizer_state: dict[str, np.ndarray],
    ) -> None:
        """Continue where another Trainer stood when these were taken from it."""
        for name in ("updates", "seconds", "samples", "skipped", "loss_scale", "good_updates"):
            setattr(self, name, position[name])
        for name, parameter in self._parameters.items():
            parameter.set_data(mx.nd.array(parameters[name]))
        for updater in self._updaters:
            updater.set_state_arrays(optimizer_state)


def count_updates(examples: int, options: Options) -> tuple[int, int]:
    """Return how many updates a training on so many examples makes, and how many an epoch."""
    batches = math.ceil(examples / options.batch_size)
    per_epoch = math.ceil(batches / options.accumulate)
    return options.training_steps or options.epochs * per_epoch, per_epoch


def seed_of(*numbers: int) -> int:
    """Mix non-negative integers into one seed for MXNet's generator."""
    return int(np.random.SeedSequence(numbers).generate_state(1)[0] >> 1)
