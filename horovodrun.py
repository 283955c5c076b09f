#!/usr/bin/env python3
"""Start the processes of a job: Horovod's own ``horovodrun``, with all of its flags.

    python3 horovodrun.py -np 2 python3 finetune_classifier.py --comm_backend horovod ...

The command that Horovod installs imports MXNet before NumPy has the names that MXNet needs, and
then reports that Gloo support was not built.

Exit codes: 0 done; 1 a process of the job failed; 2 a flag is wrong, or Horovod is not installed.
"""

from __future__ import annotations

if __name__ == "__main__":
    import finetuning.early  # noqa: F401

import importlib.util
import sys

from bert import runtime, terminal
from bert.errors import RunError, UserError
from finetuning import command


def main() -> None:
    if importlib.util.find_spec("horovod") is None:
        if {"-h", "--help"} & set(sys.argv):
            print(__doc__)
            return
        raise UserError("Horovod is not installed; make setup-distributed does it")
    runtime.restore_numpy_names()
    from horovod.runner.launch import run_commandline

    try:
        run_commandline()
    except (RuntimeError, ValueError) as error:  # whichever rank failed has said why
        raise RunError(" ".join(str(error).split())) from None


if __name__ == "__main__":
    terminal.start(lambda: command.run("horovodrun.py", main))
