"""How every command ends: an exit code, and one sentence for a failure that can be foreseen."""

from __future__ import annotations

import sys
from collections.abc import Callable

from bert.errors import RunError, UserError, lacks_memory, reason
from bert.terminal import say, shown
from finetuning.signals import Interrupted

DONE, FAILED, MISTAKE = 0, 1, 2


def run(program: str, work: Callable[[], None]) -> int:
    """Do the work of a command; returns its exit code.

    0: done. 1: it failed (the disk is full, a loss is not finite). 2: a flag or a file is wrong.
    128 and the signal's number: interrupted. What went wrong is one sentence on standard error.
    """
    try:
        work()
    except UserError as error:
        return _say(program, error, MISTAKE)
    except RunError as error:
        return _say(program, error, FAILED)
    except Interrupted as error:
        return _say(program, error, error.exit_code)
    except KeyboardInterrupt:
        return 130
    except BaseException as error:  # also the panic of a library in Rust
        sentence = _sentence(error)
        if sentence is None:
            raise
        return _say(program, sentence, FAILED)
    return DONE


def _sentence(error: BaseException) -> str | None:
    """Return what an error that is not the program's own means; None: it is a fault in it."""
    if lacks_memory(error):
        return (
            "there is not enough memory: end other programs, or choose a smaller model, batch size "
            "or --max_len"
        )
    if type(error).__name__ == "MXNetError":  # by name: most commands do not load MXNet
        return f"MXNet: {(str(error).splitlines() or ['no message'])[-1]}"
    if isinstance(error, ImportError):
        return (
            f"{error}: was the program changed while it ran? The same command again, of a training "
            "with --resume, continues; otherwise install it anew (make setup)"
        )
    if isinstance(error, OSError):
        if type(error).__str__ is not OSError.__str__ or error.errno is None:
            return str(error)  # a sentence already
        return f"{error.filename}: {reason(error)}" if error.filename else reason(error)
    return None


def _say(program: str, error: object, code: int) -> int:
    say(shown(f"{program}: {error}"), sys.stderr)
    return code
