"""What a client accepts and how much, as in Accept (RFC 9110, 12.4.2). Does not know the replies."""

from collections.abc import Mapping

from starlette.datastructures import Headers


def weights(headers: Headers, name: str) -> dict[str, float]:
    """Return the weights, 0..1, of what a header names, in small letters and without parameters.

    The highest of what is named twice; 0, not acceptable, where the weight is no number.
    """
    found: dict[str, float] = {}
    for part in ",".join(headers.getlist(name)).split(","):
        named, *parameters = (each.strip().lower() for each in part.split(";"))
        quality = next((each[2:] for each in parameters if each.startswith("q=")), "1")
        try:
            weight = float(quality)
        except ValueError:
            weight = 0.0
        if named:
            found[named] = max(found.get(named, 0.0), weight)
    return found


def weight_of(media_type: str, accepted: Mapping[str, float]) -> float:
    """Return the weight of a media type. The closest range counts: itself, its kind (image/*), anything (*/*)."""
    kind = media_type.partition("/")[0]
    return next((accepted[each] for each in (media_type, f"{kind}/*", "*/*") if each in accepted), 0.0)
