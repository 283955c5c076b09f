"""BERT on MXNet/Gluon: the model, its tokenizer and the zoo of pretrained checkpoints.

    from bert import get_model, load_classifier

The networks load MXNet with :func:`bert.runtime.prepare`; call that first to choose the number of
threads.
"""

__version__ = "1.0.0"


def __getattr__(name):
    # Imported on first use, so that importing a part of the package is quick.
    if name not in ("get_model", "load_classifier"):
        raise AttributeError(f"module 'bert' has no attribute {name!r}")
    import sys

    from bert import runtime

    if name == "load_classifier":
        if "mxnet" not in sys.modules:
            runtime.set_threads()
        from bert.classifier import load_classifier

        return load_classifier
    if "mxnet" not in sys.modules:
        runtime.prepare()
    from bert.pretrained import get_model

    return get_model
