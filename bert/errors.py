"""The one exception that a user is meant to read."""


class UserError(ValueError):
    """A flag or a file is wrong. Its text is one sentence that says which, and what to do.

    The scripts print it without a traceback and exit with code 2.
    """
