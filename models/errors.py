"""Errors of the surrogates: one root, one class for each thing a caller can mend."""


class ModelsError(Exception):
    """Root of every error raised by `models`."""


class ArtefactError(ModelsError):
    """An artefact is refused; the message says which file and why."""


class UnknownSurrogateError(ModelsError, LookupError):
    """No surrogate is shipped for that calibration."""


class DatasetError(ModelsError):
    """A data set is refused; the message says which column and why."""


class RemoteError(ModelsError):
    """A file at a URL cannot be read or written; the message says which and why."""
