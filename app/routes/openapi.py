"""Generates openapi.json: FastAPI's, plus the bodies that the routes parse themselves."""

from typing import Any

from fastapi import FastAPI
from fastapi.openapi.utils import get_openapi
from pydantic.json_schema import models_json_schema

from app.routes.error_schemas import ErrorReply
from app.routes.everything_fields import EverythingBody
from app.routes.schemas import DecodeBody, EmbedBody
from app.routes.stream_messages import SkippedReply, StreamErrorReply, StreamPrompt
from app.routes.track_fields import PropagateBody, PropagateOnceBody, TrackBody, TrackPromptBody

_KEY_SCHEMES = {
    "bearer": {"type": "http", "scheme": "bearer"},
    "key": {"type": "apiKey", "in": "header", "name": "X-API-Key"},
}
_BODIES = (
    EmbedBody, DecodeBody, EverythingBody, ErrorReply, StreamPrompt, SkippedReply, StreamErrorReply,
    TrackBody, TrackPromptBody, PropagateBody, PropagateOnceBody,
)  # fmt: skip


_TAGS = {
    "embed": "pictures", "images": "pictures",
    "decode": "masks", "segment": "masks", "everything": "masks",
    "videos": "videos",
    "tracks": "tracks", "propagate": "tracks",
}  # fmt: skip
"""Where /docs lists an operation, by the first word of its path; all others are about the server."""


def describe_api(app: FastAPI) -> dict[str, Any]:
    """Return openapi.json with the bodies that the routes parse themselves, for speed and clear errors."""
    if app.openapi_schema is None:
        document = get_openapi(title=app.title, version=app.version, summary=app.summary, routes=app.routes)
        _, definitions = models_json_schema(
            [(model, "validation") for model in _BODIES], ref_template="#/components/schemas/{model}"
        )
        document["servers"] = [{"url": "."}]  # where openapi.json is, also below the path of a proxy
        components = document.setdefault("components", {})
        components.setdefault("schemas", {}).update(definitions["$defs"])
        if app.state.keys:
            components["securitySchemes"] = _KEY_SCHEMES
            document["security"] = [{name: []} for name in _KEY_SCHEMES]
        for path, operations in document["paths"].items():
            for operation in operations.values():
                operation["tags"] = [_TAGS.get(path.split("/")[1], "server")]
                # The first sentence; FastAPI's summary is the function's name again.
                beginning = operation["description"].partition("\n\n")[0].replace("\n", " ")
                operation["summary"] = beginning.partition(". ")[0].rstrip(".")
        app.openapi_schema = document
    return app.openapi_schema
