"""Errors of the placer: one root, one class for each thing a caller can mend."""


class PlacerError(Exception):
    """Root of every error raised by `placer`."""


class InvalidProblemError(PlacerError, ValueError):
    """A placement problem breaks a rule.

    Parameters
    ----------
    field
        Path of the offending value, in the caller's terms (``adapters[3].rank``).
    message
        What was expected and what came, without the field's name.
    """

    def __init__(self, field: str, message: str) -> None:
        super().__init__(f"{field} {message}")
        self.field = field
        self.message = message
