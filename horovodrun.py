"""Start the processes of a job: Horovod's own ``horovodrun``, with all of its flags.

    python horovodrun.py -np 2 python finetune_classifier.py --comm_backend horovod ...

The command that Horovod installs imports MXNet with the NumPy that is there, fails, and says that
Gloo support was not built.
"""

from __future__ import annotations

import importlib.util
import sys

from bert import runtime


def main() -> int:
    if importlib.util.find_spec("horovod") is None:
        print("Horovod is not installed: make setup-distributed does it", file=sys.stderr)
        return 2
    runtime.restore_numpy_names()
    from horovod.runner.launch import run_commandline

    return run_commandline()


if __name__ == "__main__":
    sys.exit(main())
