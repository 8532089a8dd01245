"""The errors that a user can fix, each with its exit code on the command line, and the warning."""

from .printable import one_line


class _OneLine:
    """A message on one line that commands no terminal, whatever the names, texts and errors that it quotes hold."""

    def __str__(self) -> str:
        return one_line(super().__str__())


class AurevoirError(_OneLine, Exception):
    """The operation failed because of the data or the machine, not because of the call."""

    exit_code = 1


class UsageError(AurevoirError, ValueError):
    """An argument is invalid; the message gives the argument, its value and the valid values."""

    exit_code = 2


class DataError(AurevoirError, ValueError):
    """The data cannot be used for training; the message explains why."""


class MissingPackageError(AurevoirError, ImportError):
    """A runtime or package is not installed; the message contains the command that installs it."""

    exit_code = 3


class MissingDeviceError(AurevoirError):
    """The requested device is missing from this machine or cannot be used."""

    exit_code = 3


class ThresholdMissedError(AurevoirError):
    """The operation completed, but did not reach a threshold that the caller set."""

    exit_code = 4


class SaveError(AurevoirError, OSError):
    """A file or folder could not be written; what was there before is unchanged."""


class BudgetError(AurevoirError, MemoryError):
    """The problem does not fit the memory budget; nothing was allocated."""


class AurevoirWarning(_OneLine, UserWarning):
    """The result may not be what the user wants; the command line shows the message as a note on stderr."""
