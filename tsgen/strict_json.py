"""JSON from a stranger: one object of finite numbers, each key once, nested no deeper than asked.

Python's parser takes NaN, Infinity, 1e999 and repeated keys, of which the last one wins: two
readers of one file may then disagree on what it says.
"""

import json
import math
from typing import Any

from tsgen.errors import FileError


def parse(raw: bytes, where: str) -> dict[str, Any]:
    """The object that `raw` spells.

    raw: UTF-8 text. It may take 30 times its size in memory: bound it first.
    where: the file, for errors.
    raises:  FileError
    """
    try:
        value = json.loads(
            raw.decode("utf-8"),
            object_pairs_hook=unique,
            parse_constant=finite,
            parse_float=finite,
        )
    except RecursionError as error:
        raise FileError(f"{where}: wanted JSON, got values nested too deep") from error
    except ValueError as error:  # not UTF-8, not JSON, or refused below
        raise FileError(f"{where}: wanted JSON, got {error}") from error
    if not isinstance(value, dict):
        raise FileError(f"{where}: wanted a JSON object, got {type(value).__name__}")
    return value


def check_depth(value: dict[str, Any], most: int, where: str) -> None:
    """Refuse values nested deeper than `most`; the object itself counts as 1."""
    level: list[Any] = [value]
    for _ in range(most):
        level = [child for item in level for child in children(item)]
        if not level:
            return
    if any(isinstance(item, dict | list) for item in level):
        raise FileError(f"{where}: wanted values nested at most {most} deep, got deeper ones")


def children(value: object) -> list[Any]:
    """What is directly inside an object or list."""
    if isinstance(value, dict):
        return list(value.values())
    return value if isinstance(value, list) else []


def unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """The pairs as a dict; ValueError for a key that comes twice."""
    out = dict(pairs)
    if len(out) != len(pairs):
        seen: set[str] = set()
        twice = next(key for key, _ in pairs if key in seen or seen.add(key))  # type: ignore[func-returns-value]
        raise ValueError(f"the key {twice[:60]!r} twice")
    return out


def finite(text: str) -> float:
    """The number; ValueError for NaN, Infinity and what is too large for a float."""
    number = float(text)
    if not math.isfinite(number):
        raise ValueError(f"the number {text[:60]}, which is not finite")
    return number
