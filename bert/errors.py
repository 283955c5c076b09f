"""The exceptions whose messages are shown to the user, and what to do about the system's."""

from __future__ import annotations

import errno


class UserError(ValueError):
    """A flag or a file is wrong. The message is one sentence: which one, and what to do.

    The commands print it without a traceback and exit with code 2.
    """


class RunError(RuntimeError):
    """A run failed for a reason its user can act on. The message is one sentence.

    The commands print it without a traceback and exit with code 1.
    """


_ADVICE = {
    errno.EISDIR: "a file belongs there: move the folder away",
    errno.EEXIST: "move away what is in its place",
    errno.ENOTDIR: "a folder belongs where there is a file: move it away, or choose another folder",
    errno.EACCES: "choose another path, or ask its owner for access",
    errno.EPERM: "choose another path, or ask its owner for access",
    errno.EROFS: "choose a folder on another disk",
    errno.ENOSPC: "make room, or choose another disk",
    errno.EDQUOT: "make room, or choose another disk",
    errno.EMFILE: "raise the limit of open files (ulimit -n)",
    errno.ENAMETOOLONG: "choose a shorter name",
}


def reason(error: OSError) -> str:
    """Return why an operation on a file failed and, where it is known, what to do."""
    why = error.strerror or str(error)
    advice = _ADVICE.get(error.errno or 0)
    return f"{why}; {advice}" if advice else why


# What MXNet, oneDNN ("primitive"), C++, Python, Rust and the loader say where memory is lacking.
_OUT_OF_MEMORY = (
    "Failed to allocate",
    "AlignedMallocPitch",
    "bad_alloc",
    "out of memory",
    "not execute a primitive",
    "can't start new thread",
    "ThreadPoolBuildError",
    "failed to map segment",
    "Cannot allocate memory",
)


def lacks_memory(error: BaseException) -> bool:
    """Tell whether an error of Python, MXNet or the system means that memory is lacking."""
    return isinstance(error, MemoryError) or any(words in str(error) for words in _OUT_OF_MEMORY)
