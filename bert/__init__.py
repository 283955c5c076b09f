"""BERT on MXNet/Gluon: the model, its tokenizer and the zoo of pretrained checkpoints.

    from bert import get_model, load_classifier

This loads MXNet with :func:`bert.runtime.prepare`; call that first to choose the number of threads.
"""

__version__ = "1.0.0"


def __getattr__(name):
    # Imported on first use, because both load MXNet.
    if name not in ("get_model", "load_classifier"):
        raise AttributeError(f"module 'bert' has no attribute {name!r}")
    import sys

    from bert import runtime

    if "mxnet" not in sys.modules:
        runtime.prepare()
    if name == "get_model":
        from bert.pretrained import get_model

        return get_model
    from bert.classifier import load_classifier

    return load_classifier
