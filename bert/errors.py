"""The exceptions whose messages are shown to the user."""


class UserError(ValueError):
    """A flag or a file is wrong. The message is one sentence: which one, and what to do.

    The commands print it without a traceback and exit with code 2.
    """


class RunError(RuntimeError):
    """A run failed for a reason its user can act on. The message is one sentence.

    The commands print it without a traceback and exit with code 1.
    """
