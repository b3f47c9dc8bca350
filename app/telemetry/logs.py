"""Formatters that turn a log record into text for people or JSON for machines.

Records cannot be confused with each other, whatever is logged: control characters are escaped, and several lines
are indented in text and one field in JSON. Does not know about requests.
"""

import json
import logging
import time
from datetime import UTC, datetime
from typing import Literal

_MOST_CHARACTERS = 1000
"""Longest line, so that the message of an exception cannot put a whole picture into the log."""
_MOST_LINES = 200


class TextFormatter(logging.Formatter):
    """Time, level, request id and message; a traceback follows, each line indented."""

    def format(self, record: logging.LogRecord) -> str:
        """Return one line, or more if there is a traceback."""
        when = time.strftime("%Y-%m-%dT%H:%M:%S", time.localtime(record.created))
        message = _shorten(_escape(record.getMessage()))
        head = f"{when} {record.levelname:<7} {_request_id(record)} {message}"
        lines = [f"  {_escape(line)}" for line in [*_traceback(record), *_stack(record)]]
        return "\n".join([head, *lines])


class JsonFormatter(logging.Formatter):
    """One JSON object per line: time, level, logger, message, request_id, and the record's `fields`."""

    def format(self, record: logging.LogRecord) -> str:
        """Return one line. Its fields `exception` and `stack` hold tracebacks."""
        line: dict[str, object] = {
            "time": datetime.fromtimestamp(record.created, UTC).isoformat(timespec="milliseconds"),
            "level": record.levelname.lower(),
            "logger": record.name,
            "message": _shorten(record.getMessage()),
            "request_id": _request_id(record),
        }
        for name, value in getattr(record, "fields", {}).items():
            line[name] = _shorten(value) if isinstance(value, str) else value
        for name, lines in (("exception", _traceback(record)), ("stack", _stack(record))):
            if lines:
                line[name] = "\n".join(lines)
        # ASCII: json escapes all unprintable characters except DEL.
        return json.dumps(line, ensure_ascii=True, default=str).replace("\x7f", "\\u007f")


def formatter(name: Literal["text", "json"]) -> logging.Formatter:
    """Return the formatter that SAM2_LOG_FORMAT names."""
    return JsonFormatter() if name == "json" else TextFormatter()


def _request_id(record: logging.LogRecord) -> str:
    return getattr(record, "request_id", "-")


def _traceback(record: logging.LogRecord) -> list[str]:
    if not record.exc_info:
        return []
    return _limit(logging.Formatter().formatException(record.exc_info))


def _stack(record: logging.LogRecord) -> list[str]:
    return _limit(record.stack_info) if record.stack_info else []


def _limit(text: str) -> list[str]:
    lines = text.split("\n")
    if len(lines) > _MOST_LINES:
        half = _MOST_LINES // 2
        lines = [*lines[:half], f"({len(lines) - 2 * half} lines left out)", *lines[-half:]]
    return [_shorten(line) for line in lines]


def _shorten(text: str) -> str:
    if len(text) <= _MOST_CHARACTERS:
        return text
    return f"{text[:_MOST_CHARACTERS]}... ({len(text) - _MOST_CHARACTERS} characters more)"


def _escape(text: str) -> str:
    """Escape what a terminal would not show as it is: control characters, line breaks, reversed writing."""
    if text.isprintable():
        return text
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in text)
