"""Requests for tests of POST /decode, and a parser of the reply."""

from typing import Any

HEIGHT, WIDTH = 40, 60
CLICK = {"point_coords": [[30, 20]], "point_labels": [1]}


def masks_in(response: Any) -> list[dict[str, Any]]:
    """Return the masks of a reply with one prediction."""
    assert response.status_code == 200, response.text
    (prediction,) = response.json()["predictions"]
    return prediction["masks"]
