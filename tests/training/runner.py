"""A process that runs the script again and again, each time as if from the shell.

Reads a JSON object a line: ``argv``; ``fsize``, a limit for the size of files; ``fail_sync``, the
number of the call of os.fsync that finds the disk full. Answers with ``code``, ``out`` and
``err``. Starting Python and MXNet takes seconds, a tiny run does not.
"""

from __future__ import annotations

import contextlib
import errno
import io
import json
import os
import pathlib
import resource
import sys
import traceback

sys.path.insert(0, str(pathlib.Path.cwd()))

import finetune_classifier


@contextlib.contextmanager
def faults(fsize, fail_sync):
    unlimited = (resource.RLIM_INFINITY, resource.RLIM_INFINITY)
    sync, calls = os.fsync, 0

    def failing(descriptor):
        nonlocal calls
        calls += 1
        if calls == fail_sync:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        sync(descriptor)

    os.fsync = failing
    if fsize is not None:
        resource.setrlimit(resource.RLIMIT_FSIZE, (fsize, resource.RLIM_INFINITY))
    try:
        yield
    finally:
        os.fsync = sync
        resource.setrlimit(resource.RLIMIT_FSIZE, unlimited)


def run(argv, fsize=None, fail_sync=None):
    out, err = io.StringIO(), io.StringIO()
    with (
        contextlib.redirect_stdout(out),
        contextlib.redirect_stderr(err),
        faults(fsize, fail_sync),
    ):
        try:
            code = finetune_classifier.main(argv)
        except SystemExit as exit:
            code = exit.code
        except BaseException:
            code = "traceback"
            traceback.print_exc()
    return {"code": code, "out": out.getvalue(), "err": err.getvalue()}


for line in sys.stdin:
    print(json.dumps(run(**json.loads(line))), flush=True)
