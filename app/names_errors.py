"""The error of names that several servers share. Does not know where they are kept."""

from app.errors import RetryableError


class NamesUnreachable(RetryableError):
    """The database of names cannot be reached, and the request needs it. What the server knows is served."""

    status = 503
    code = "names_unreachable"
