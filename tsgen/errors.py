"""What tsgen raises: every error names the argument, what was wanted and what came."""


class TsgenError(Exception):
    """Every error that tsgen raises on purpose."""


class ArgumentError(TsgenError, ValueError):
    """An argument has a value that cannot be used."""


class ArgumentTypeError(TsgenError, TypeError):
    """An argument is of a kind that cannot be used."""


class FileError(TsgenError, OSError):
    """A file is missing, damaged, hostile or cannot be written."""


class RunError(TsgenError, RuntimeError):
    """Something went wrong while running that no argument explains."""


def bad_value(argument: str, wanted: str, got: object) -> ArgumentError:
    """The error for an unusable value; raise what it returns."""
    return ArgumentError(f"{argument}: wanted {wanted}, got {got}")


def bad_type(argument: str, wanted: str, got: object) -> ArgumentTypeError:
    """The error for a value of the wrong type; raise what it returns."""
    return ArgumentTypeError(f"{argument}: wanted {wanted}, got {type(got).__name__}")
