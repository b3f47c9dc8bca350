"""Strings of megabytes in the pieces in which they were read: pictures in base64, above all.

A string of 30 MB is copied in one call, which holds the interpreter lock for 4 ms or more, so the pieces are not
joined. Does not know what the text says.
"""

from dataclasses import dataclass
from typing import Annotated, Any, TypeAlias

from pydantic import GetCoreSchemaHandler
from pydantic_core import CoreSchema


@dataclass(frozen=True, slots=True)
class Pieces:
    """A long string: its pieces in order, at least one."""

    parts: tuple[str, ...]

    def __str__(self) -> str:
        """Return it as one, however long that takes."""
        return "".join(self.parts)


class _ReadAsString:
    """Makes pydantic read and describe a field as a string; json_bodies.py puts Pieces there afterwards."""

    def __get_pydantic_core_schema__(self, source: Any, handler: GetCoreSchemaHandler) -> CoreSchema:
        return handler(str)


LongText: TypeAlias = Annotated[str | Pieces, _ReadAsString()]
"""The type of a field for such strings. It may have no constraints, because Pieces are not checked."""


def beginning(text: str | Pieces) -> str:
    """Return the first piece; all of a plain string."""
    return text if isinstance(text, str) else text.parts[0]
