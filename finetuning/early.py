"""Imported by every script before anything else: from here on Ctrl-C ends it without a traceback.

Python would raise KeyboardInterrupt in the middle of an import. :func:`bert.terminal.start` gives
SIGINT back to Python. Where it was ignored, it stays ignored.
"""

import signal

if signal.getsignal(signal.SIGINT) is signal.default_int_handler:
    signal.signal(signal.SIGINT, signal.SIG_DFL)
