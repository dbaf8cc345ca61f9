"""Errors of the twin: one root, one class for each thing a caller can mend."""


class TwinError(Exception):
    """Root of every error raised by `twin`."""


class InvalidInputError(TwinError, ValueError):
    """A value breaks a rule of the domain.

    Parameters
    ----------
    field
        Path of the offending value, in the caller's terms (``adapters[3].rate_rps``).
    message
        What was expected and what came, without the field's name.
    """

    def __init__(self, field: str, message: str) -> None:
        super().__init__(f"{field} {message}")
        self.field = field
        self.message = message


class UnknownCalibrationError(TwinError, LookupError):
    """No calibration of that name is known."""


class UnidentifiableError(TwinError):
    """The measurements cannot tell a coefficient; its name is in the message."""
