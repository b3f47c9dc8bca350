"""What a number on a training command line may be, for argparse. Does not know which options there are."""

import math
from argparse import ArgumentTypeError
from collections.abc import Callable


def whole(least: int) -> Callable[[str], int]:
    """Read whole numbers of at least `least`; argparse prints the message of the error that others raise."""

    def read(text: str) -> int:
        try:
            number = int(text)
        except ValueError:
            number = least - 1
        if number < least:
            raise ArgumentTypeError(f"{text!r} is not a whole number of at least {least}")
        return number

    return read


def rate(text: str) -> float:
    """Read a finite number of at least 0."""
    number = _number(text)
    if not 0 <= number < math.inf:
        raise ArgumentTypeError(f"{text!r} is not a finite number of at least 0")
    return number


def minutes(text: str) -> float:
    """Read a number of at least 0; "inf" is never."""
    number = _number(text)
    if not number >= 0:
        raise ArgumentTypeError(f"{text!r} is not a number of minutes of at least 0, or inf")
    return number


def _number(text: str) -> float:
    try:
        return float(text)
    except ValueError:
        return math.nan
