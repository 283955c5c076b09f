"""How every command ends: an exit code, and one sentence for a failure that can be foreseen."""

from __future__ import annotations

import sys
from collections.abc import Callable

from bert.errors import RunError, UserError
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
    except (RunError, OSError) as error:
        return _say(program, error, FAILED)
    except Interrupted as error:
        return _say(program, error, error.exit_code)
    except KeyboardInterrupt:
        return 130
    except Exception as error:
        if type(error).__name__ != "MXNetError":  # by name: most commands do not load MXNet
            raise
        return _say(program, f"MXNet: {str(error).splitlines()[-1]}", FAILED)
    return DONE


def _say(program: str, error: object, code: int) -> int:
    print(f"{program}: {error}", file=sys.stderr)
    return code
