"""BERT on MXNet/Gluon: the model, its tokenizer and the zoo of pretrained checkpoints.

``bert.get_model`` loads MXNet. Whatever must happen before that (threads, names for NumPy) is in
:mod:`bert.runtime`, which can be imported alone; that is why the name below is looked up lazily.
"""

__version__ = "1.0.0"


def __getattr__(name):
    if name == "get_model":
        from bert.zoo import get_model

        return get_model
    raise AttributeError(f"module 'bert' has no attribute {name!r}")
