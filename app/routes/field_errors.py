"""What is wrong with a field, in words: where, what, and the value if it is short."""

from pydantic import ValidationError

from app.errors import BadRequest, Detail, ValidationFailed

_MOST_DETAILS = 256


def invalid(where: str, what: str) -> ValidationFailed:
    """An error of one field."""
    return ValidationFailed(f"{where}: {what}.", details=[{"where": where, "what": what}])


def explain(error: ValidationError) -> BadRequest | ValidationFailed:
    """An error of pydantic in words: where, what, and the value where it is short."""
    if error.error_count() > _MOST_DETAILS:  # spelling them out would take a hundred times the body's memory
        return ValidationFailed(f"{error.error_count()} things are wrong with the fields of this body.")
    details: list[Detail] = []
    for problem in error.errors(include_url=False, include_context=False):
        if problem["type"] == "json_invalid":
            return BadRequest(f"The body is not JSON: {problem['msg'].removeprefix('Invalid JSON: ')}.")
        where = "".join(f"[{part}]" if isinstance(part, int) else f".{part}" for part in problem["loc"])
        value = repr(problem["input"])
        shown = f" (got {value})" if len(value) <= 40 and problem["type"] != "missing" else ""
        is_unknown = problem["type"] == "extra_forbidden"
        what = "there is no such field; /docs lists those there are" if is_unknown else problem["msg"]
        details.append({"where": where.lstrip(".") or "body", "what": what + shown})
    first = details[0]
    more = f" And {len(details) - 1} more." if len(details) > 1 else ""
    return ValidationFailed(f"{first['where']}: {first['what']}.{more}", details=details)
