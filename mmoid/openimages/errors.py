"""The error for bad annotation and prediction files."""


class AnnotationError(ValueError):
    """A file that cannot be used as it is.

    The message names the file and line or element, the value found, and what is expected.
    """
