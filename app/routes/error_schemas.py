"""The body of every error, as it is on the wire. Does not know the errors."""

from pydantic import BaseModel, Field


class ErrorDetail(BaseModel):
    """One thing that is wrong with a request."""

    where: str
    what: str


class ErrorBody(BaseModel):
    """What is wrong, and what to do."""

    code: str = Field(examples=["image_not_found"])
    message: str
    details: list[ErrorDetail] | None = None


class ErrorReply(BaseModel):
    """The body of every reply that is not 2xx."""

    error: ErrorBody
