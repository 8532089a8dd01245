"""The errors that a user can mend, each with the exit code that the command line gives it."""


class AurevoirError(Exception):
    """The work could not be done: the data or the machine, not the call, is at fault."""

    exit_code = 1


class UsageError(AurevoirError, ValueError):
    """An argument is wrong; the message names it, its value and what would be right."""

    exit_code = 2


class DataError(AurevoirError, ValueError):
    """The data cannot be learnt from; the message says what is wrong with them."""


class MissingPackageError(AurevoirError, ImportError):
    """A runtime or package is not installed; the message holds the line that installs it."""

    exit_code = 3


class MissingDeviceError(AurevoirError):
    """The device that the work is for is not in this machine, or cannot be used."""

    exit_code = 3


class ThresholdMissedError(AurevoirError):
    """The work is done, but a threshold that the caller set was not reached."""

    exit_code = 4


class BudgetError(AurevoirError, MemoryError):
    """The problem does not fit the memory budget; nothing was allocated."""
