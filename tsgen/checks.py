"""Checks of a setting's value: each refuses, naming it, what was wanted and what came."""

import math
from typing import Any

from tsgen.errors import bad_value

LARGEST = 2**24  # of every size: far beyond use, and no file makes us loop or allocate for ever


def whole(name: str, value: object, *, at_least: int = 1, at_most: int = LARGEST) -> None:
    """Refuse what is not a whole number in this range."""
    if isinstance(value, bool) or not isinstance(value, int) or not at_least <= value <= at_most:
        raise bad_value(name, f"a whole number from {at_least} to {at_most}", repr(value))


def number(
    name: str,
    value: object,
    *,
    at_least: float = 0,
    more: bool = False,
    at_most: float = 1e300,
    below: float = math.inf,
) -> None:
    """Refuse what is not a finite number in this range; `more`: the lower end is left out."""
    fits = isinstance(value, int | float) and not isinstance(value, bool)
    fits = fits and at_least <= value <= at_most and value < below  # type: ignore[operator]
    if not fits or (more and value == at_least):
        low = f"above {at_least}" if more else f"from {at_least}"
        high = f" and below {below}" if below < math.inf else ""
        high = f" to {at_most}" if at_most < 1e300 else high
        raise bad_value(name, f"a finite number {low}{high}", repr(value))


def each(name: str, values: object, n: int, what: str = "one a band") -> tuple[Any, ...]:
    """Refuse what is not a tuple of n."""
    if not isinstance(values, tuple) or len(values) != n:
        raise bad_value(name, f"a tuple of {n}, {what}", repr(values))
    return values


def one_of(name: str, value: object, choices: tuple[object, ...]) -> None:
    """Refuse what is not among `choices`."""
    if not any(type(value) is type(choice) and value == choice for choice in choices):
        raise bad_value(name, f"one of {', '.join(map(repr, choices))}", repr(value))
