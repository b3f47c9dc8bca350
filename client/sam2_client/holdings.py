"""Stories (see asking.py) about stored pictures and the model. They upload nothing."""

from urllib.parse import quote

from sam2_client.asking import Call, Story, ask
from sam2_client.images import Model
from sam2_client.masks import Embedded
from sam2_client.replies import read_embedded, read_model, read_page
from sam2_client.retries import Retries

_PER_PAGE = 1000


def find(image_id: str, *, retries: Retries) -> Story[Embedded]:
    """Look up a stored picture."""
    response = yield from ask(Call("GET", image_path(image_id)), retries)
    return read_embedded(response, None)


def find_all(*, retries: Retries) -> Story[list[Embedded]]:
    """Look up all stored pictures, newest first."""
    found: list[Embedded] = []
    query = {"limit": str(_PER_PAGE)}
    while True:
        response = yield from ask(Call("GET", "images", query=query), retries)
        page, after = read_page(response)
        found += page
        if after is None:
            return found
        query = {"limit": str(_PER_PAGE), "after": after}


def delete(image_id: str, *, retries: Retries) -> Story[None]:
    """Delete a stored picture."""
    yield from ask(Call("DELETE", image_path(image_id)), retries)


def model(*, retries: Retries) -> Story[Model]:
    """Look up the model."""
    response = yield from ask(Call("GET", "model"), retries)
    return read_model(response)


def image_path(image_id: str) -> str:
    """Return the path of a stored picture. Raises ValueError for an id that no path can carry."""
    check_id(image_id)
    return f"images/{quote(image_id, safe='')}"


def check_id(image_id: str) -> None:
    """Raise ValueError for an id that is not itself any more in a URL: such a request would go elsewhere.

    All other ids are the service's to refuse.
    """
    if image_id in ("", ".", ".."):
        raise ValueError(f"{image_id!r} cannot be an id, because it is lost in a URL: use another name")
