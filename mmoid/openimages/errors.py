"""The one error that bad input raises."""


class AnnotationError(ValueError):
    """Input that cannot be used as it is.

    The message names the file and line (or the argument), the value found, and what would be right.
    """
