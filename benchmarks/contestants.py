"""Who is measured, and which ratios are to be shown."""

from __future__ import annotations

from pathlib import Path
from typing import NamedTuple

ROOT = Path(__file__).resolve().parent.parent
OURS = ROOT / ".venv" / "bin" / "python"
PEERS = ROOT / ".venv-bench" / "bin" / "python"


class Contestant(NamedTuple):
    """A script of this folder, and how it is run."""

    python: Path
    script: str
    variant: str = ""
    dtype: str = "float32"
    as_on_intel: bool = False  # see MKL_AS_ON_INTEL


US = "this project, float32"
US_BFLOAT16 = "this project, bfloat16"
GROUPED = "Hugging Face, length-grouped, float32"
GROUPED_INTEL = "Hugging Face, length-grouped, float32, MKL as on Intel"
GROUPED_BFLOAT16 = "Hugging Face, length-grouped, bfloat16"
PADDED = "Hugging Face, padded to 128, float32"
TORCH, TORCH_BFLOAT16 = "Hugging Face, float32", "Hugging Face, bfloat16"
TORCH_INTEL = "Hugging Face, float32, MKL as on Intel"
DYNAMIC = "Hugging Face, float32, file's order"
OPENVINO, OPENVINO_BFLOAT16 = "OpenVINO, float32", "OpenVINO, bfloat16"
ONNX, INT8 = "ONNX Runtime, float32", "ONNX Runtime, int8"
GLUONNLP = "gluonnlp, as its script ships"

_ENGINES = {
    US: Contestant(OURS, "ours.py"),
    TORCH: Contestant(PEERS, "engines.py", "huggingface"),
    TORCH_INTEL: Contestant(PEERS, "engines.py", "huggingface", as_on_intel=True),
    OPENVINO: Contestant(PEERS, "engines.py", "openvino"),
    ONNX: Contestant(PEERS, "engines.py", "onnxruntime"),
    US_BFLOAT16: Contestant(OURS, "ours.py", dtype="bfloat16"),
    TORCH_BFLOAT16: Contestant(PEERS, "engines.py", "huggingface", "bfloat16"),
    OPENVINO_BFLOAT16: Contestant(PEERS, "engines.py", "openvino", "bfloat16"),
    INT8: Contestant(PEERS, "engines.py", "onnxruntime", "int8"),
}
CONTESTANTS = {
    "training": {
        US: Contestant(OURS, "ours.py"),
        GROUPED: Contestant(PEERS, "huggingface.py", "grouped"),
        GROUPED_INTEL: Contestant(PEERS, "huggingface.py", "grouped", as_on_intel=True),
        US_BFLOAT16: Contestant(OURS, "ours.py", dtype="bfloat16"),
        GROUPED_BFLOAT16: Contestant(PEERS, "huggingface.py", "grouped", "bfloat16"),
        "this project, --no_native": Contestant(OURS, "ours.py", "stock"),
        PADDED: Contestant(PEERS, "huggingface.py", "padded"),
        "Hugging Face, dynamic padding, float32": Contestant(PEERS, "huggingface.py", "dynamic"),
        "Hugging Face, torch.compile, float32": Contestant(PEERS, "huggingface.py", "compiled"),
        GLUONNLP: Contestant(OURS, "gluonnlp_script.py", "plain"),
        "gluonnlp, threads set": Contestant(OURS, "gluonnlp_script.py", "threads"),
    },
    "inference": {
        **_ENGINES,
        "this project, --no_native": Contestant(OURS, "ours.py", "stock"),
        DYNAMIC: Contestant(PEERS, "engines.py", "dynamic"),
    },
    "latency": _ENGINES,
}


class Goal(NamedTuple):
    """A ratio to be shown: ours over the best of some peers."""

    mode: str
    key: str
    ours: str
    peers: tuple[str, ...]
    targets: tuple[float, float]  # for MiniLM and BERT base
    with_amx: tuple[float, float] | None = None  # where they are others


_ANY_FLOAT32, _ANY_BFLOAT16 = (OPENVINO, ONNX, TORCH), (OPENVINO_BFLOAT16, TORCH_BFLOAT16)
SPEED = "pairs_per_second"
GOALS = [
    Goal("training", SPEED, US_BFLOAT16, (GROUPED_BFLOAT16,), (2.2, 1.6), (1.8, 1.5)),
    Goal("training", SPEED, US, (GROUPED,), (2.0, 1.6), (1.8, 1.5)),
    Goal("training", SPEED, US, (GROUPED_INTEL,), (1.45, 1.3)),
    Goal("training", SPEED, US, (PADDED,), (3.6, 2.8)),
    Goal("training", SPEED, US, (GLUONNLP,), (2.5, 2.4)),
    Goal("inference", SPEED, US_BFLOAT16, _ANY_BFLOAT16, (1.25, 1.15)),
    Goal("inference", SPEED, US, _ANY_FLOAT32, (1.2, 1.1)),
    Goal("inference", SPEED, US, (TORCH_INTEL,), (1.2, 1.1)),
    Goal("inference", SPEED, US_BFLOAT16, (INT8,), (1.3, 1.3)),
    Goal("latency", "ms_16", US, _ANY_FLOAT32, (0.9, 0.9)),
    Goal("latency", "ms_128", US, _ANY_FLOAT32, (0.9, 0.9)),
    Goal("latency", "ms_16", US_BFLOAT16, _ANY_BFLOAT16, (0.9, 0.9)),
    Goal("latency", "ms_128", US_BFLOAT16, _ANY_BFLOAT16, (0.9, 0.9)),
    Goal("training", "peak_mb", US, (GROUPED,), (1.0, 1.0)),
    Goal("training", "peak_mb", US_BFLOAT16, (US,), (1.0, 1.0)),
    Goal("training", "first_step_seconds", US, (GROUPED,), (0.5, 0.7)),
]
# Of the processor's bfloat16 products, in training.
PEAK_GOAL, PEAK_GOAL_WITH_AMX = (0.65, 0.72), (0.3, 0.4)
