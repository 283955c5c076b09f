"""The classifier that training starts from: a pretrained BERT with a new head, or a trained one."""

from __future__ import annotations

import math

import mxnet as mx

from bert import pretrained
from bert.classifier import Classifier
from bert.errors import UserError
from bert.huggingface import config_to_huggingface
from bert.modeling import BERTClassifier
from bert.parameters import parameters_of
from finetuning.data.tasks import Task
from finetuning.flags import listed
from finetuning.options import Options
from finetuning.training.trainer import seed_of


def new_classifier(options: Options, task: Task, ctx: list[mx.Context]) -> Classifier:
    """Put a new head on the pretrained BERT that the options name."""
    source = find_pretrained(options)
    bert, tokenizer = pretrained.load(source, ctx, dropout=options.dropout, cls_only=True)
    if options.max_len > bert.config.max_length:
        raise UserError(
            f"--max_len {options.max_len}: this model has {bert.config.max_length} positions"
        )
    net = BERTClassifier(bert, task.outputs, options.dropout)
    initialize_head(net, options.seed, ctx)
    config = {
        **config_to_huggingface(bert.config),
        "architectures": [f"{bert.config.member.classes}ForSequenceClassification"],
        "hidden_dropout_prob": options.dropout,
        "attention_probs_dropout_prob": options.dropout,
        **tokenizer.in_config(),
        **options.in_config(),
        "bert_revision": source.revision,
    }
    return Classifier(net, tokenizer, config)


def find_pretrained(options: Options) -> pretrained.Pretrained:
    """Find the files of the pretrained BERT."""
    path = options.pretrained_bert_parameters
    if path and not path.is_dir():
        return pretrained.find_params(path, options.bert_model, options.bert_dataset)
    return pretrained.find(str(path or options.bert_model), options.bert_dataset, options.revision)


def freeze(net: BERTClassifier, what: int | str) -> None:
    """Freeze what ``--freeze`` names; UserError if the network has fewer layers."""
    layers = net.bert.config.num_layers
    if isinstance(what, int) and what > layers:
        raise UserError(f"--freeze {what}: this BERT has {layers} layers")
    if what == "all":  # a pooler that was not pretrained is part of the new head
        net.bert.freeze(layers, net.bert.config.member.pretrained_pooler)
    elif isinstance(what, str):
        net.bert.freeze(0)
    else:
        net.bert.freeze(what)


def frozen_text(net: BERTClassifier) -> str:
    """Return what is frozen of a network, and how many parameters are trained."""
    bert = net.bert
    names = ["the embeddings"]
    if bert.frozen_layers:
        some = f"{bert.frozen_layers} of {bert.config.num_layers} layers"
        names.append(some if bert.frozen_layers < bert.config.num_layers else "all layers")
    if bert.frozen_pooler:
        names.append("the pooler")
    parameters = parameters_of(net).values()
    trained = sum(math.prod(p.shape) for p in parameters if p.grad_req != "null")
    again = "" if bert.fused else "; MXNet's own operators compute the frozen part in every epoch"
    return f"{listed(names, 'and')}; {trained:,} parameters are trained{again}"


def initialize_head(net: BERTClassifier, seed: int, ctx: list[mx.Context]) -> None:
    """Draw a new head, which is a function of the seed; the pooler is part of some heads."""
    mx.random.seed(seed_of(seed, 0), mx.cpu())  # Gluon draws on the CPU, whatever the devices are
    net.classifier.initialize(ctx=ctx, force_reinit=True)
    if not net.bert.config.member.pretrained_pooler:
        net.bert.pooler.initialize(ctx=ctx, force_reinit=True)
