"""What tests of POST /decode ask, and how they read the reply."""

from typing import Any

HEIGHT, WIDTH = 40, 60
CLICK = {"point_coords": [[30, 20]], "point_labels": [1]}


def masks_in(response: Any) -> list[dict[str, Any]]:
    """The masks of the one prediction of a reply."""
    assert response.status_code == 200, response.text
    (prediction,) = response.json()["predictions"]
    return prediction["masks"]
