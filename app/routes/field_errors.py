"""What is wrong with a field, in words: where, what, and the value if it is short."""

from collections import Counter

from fastapi.requests import HTTPConnection
from pydantic import ValidationError

from app.errors import BadRequest, Detail, ValidationFailed

_MOST_DETAILS = 256
_MOST_PARAMETERS = 64
_MOST_SHOWN = 40
"""Characters of a value that an error quotes."""


def invalid(where: str, what: str) -> ValidationFailed:
    """Return the error for one field."""
    return ValidationFailed(f"{where}: {what}.", details=[{"where": where, "what": what}])


def given_twice(where: str, how: str = "more than once") -> ValidationFailed:
    """Return the error for a field with two values, one of which would be dropped."""
    return invalid(where, f"it is given {how}; give it once")


async def check_query(connection: HTTPConnection) -> None:
    """A dependency of all endpoints: no query parameter is given twice, and few are. Raises ValidationFailed."""
    parameters = connection.query_params.multi_items()
    if len(parameters) > _MOST_PARAMETERS:  # FastAPI would write an error for each, on the event loop
        raise invalid(
            "query", f"it has {len(parameters)} parameters, where at most {_MOST_PARAMETERS} are expected"
        )
    for name, times in Counter(name for name, _ in parameters).items():
        if times > 1:
            raise given_twice(name)


def explain(error: ValidationError) -> BadRequest | ValidationFailed:
    """Turn pydantic's error into ours: where, what, and the value if it is short."""
    if error.error_count() > _MOST_DETAILS:  # the details would take a hundred times the body's memory
        return ValidationFailed(f"{error.error_count()} errors in the fields of this body.")
    details: list[Detail] = []
    for problem in error.errors(include_url=False, include_context=False):
        if problem["type"] == "json_invalid":
            why = problem["msg"].removeprefix("Invalid JSON: ")
            if "control character" in why:  # base64 that a shell has put into a string
                why += ": write a line break within a string as \\n (base64 -w0 writes none)"
            return BadRequest(f"The body is not JSON: {why}.")
        where = "".join(f"[{part}]" if isinstance(part, int) else f".{part}" for part in problem["loc"])
        shown = _shown(problem["input"]) if problem["type"] != "missing" else ""
        is_unknown = problem["type"] == "extra_forbidden"
        msg = problem["msg"].removeprefix("Value error, ")  # pydantic's, before the words of our own checks
        what = "unknown field; /docs lists all fields" if is_unknown else msg
        details.append({"where": where.lstrip(".") or "body", "what": what + shown})
    first = details[0]
    more = f" And {len(details) - 1} more." if len(details) > 1 else ""
    return ValidationFailed(f"{first['where']}: {first['what']}.{more}", details=details)


def _shown(value: object) -> str:
    if not _may_be_short(value):
        return ""
    text = repr(value)
    return f" (got {text})" if len(text) <= _MOST_SHOWN else ""


def _may_be_short(value: object) -> bool:
    """Whether it is worth writing a value: a million numbers, or megabytes of text, take 100 ms in one call."""
    if isinstance(value, (str, dict, list)) and len(value) > _MOST_SHOWN:
        return False
    if isinstance(value, dict):
        return all(map(_may_be_short, value.values()))
    return all(map(_may_be_short, value)) if isinstance(value, list) else True
