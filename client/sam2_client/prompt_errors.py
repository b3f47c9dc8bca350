"""Which prompt of a call an error is about. Does not know about requests and their sizes."""

import re

from sam2_client.errors import Sam2Error

_PROMPT = re.compile(r"prompts\[(\d+)\]")


def count_prompts_from(error: Sam2Error, first: int) -> None:
    """Number prompts as the caller does: the request that failed began with prompt `first` of the call."""

    def counted(words: str) -> str:
        found = _PROMPT.match(words)
        return f"prompts[{first + int(found[1])}]{words[found.end() :]}" if found else words

    error.message = counted(error.message)
    error.args = (error.message,)
    error.details = [{**each, "where": counted(each["where"])} for each in error.details]


def is_of_a_prompt(error: Sam2Error) -> bool:
    """Whether single prompts are wrong, so that the others of the request may be right."""
    return any(_PROMPT.match(each["where"]) for each in error.details)
