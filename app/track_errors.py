"""The errors of tracks, each with its HTTP status and its code.

Does not know about FastAPI, as errors.py.
"""

from app.errors import ServiceError


class TrackNotFound(ServiceError):
    """There is no track under this id."""

    status = 404
    code = "track_not_found"

    @classmethod
    def for_id(cls, track_id: str) -> "TrackNotFound":
        """An id that no track has."""
        return cls(f"No track has the track_id {track_id!r}. POST its frames to /tracks first.")

    @classmethod
    def deleted_meanwhile(cls, track_id: str) -> "TrackNotFound":
        """A DELETE arrived during a propagation."""
        return cls(f"track_id {track_id!r} was deleted, or has expired, while it was worked on.")


class TrackIdConflict(ServiceError):
    """The id already belongs to another track."""

    status = 409
    code = "track_id_conflict"

    @classmethod
    def for_id(cls, track_id: str) -> "TrackIdConflict":
        """An id that is taken."""
        return cls(f"track_id {track_id!r} is taken. DELETE /tracks/{track_id} first, or use another id.")


class TrackBusy(ServiceError):
    """The track is being propagated, and nothing else can change it meanwhile."""

    status = 409
    code = "track_busy"

    @classmethod
    def for_id(cls, track_id: str) -> "TrackBusy":
        """A track that is propagated."""
        return cls(
            f"track_id {track_id!r} is being propagated. Read that reply to its end, or close its connection; what "
            f"is done by then is kept. DELETE /tracks/{track_id} ends it too."
        )

    @classmethod
    def elsewhere(cls, track_id: str) -> "TrackBusy":
        """A track that another server has changed at the same time."""
        return cls(
            f"track_id {track_id!r} was changed by another request at the same time, and that change counts. "
            f"GET /tracks/{track_id} shows its prompts; send yours again."
        )


class TrackingUnavailable(ServiceError):
    """The weights of this server cannot follow objects, or its settings say that it does not."""

    status = 501
    code = "tracking_unavailable"

    @classmethod
    def switched_off(cls) -> "TrackingUnavailable":
        """By a setting."""
        return cls(
            "This server takes pictures only: SAM2_VIDEO is off. Its operator can set it to auto; or ask another "
            "server, or send the frames to /embed and /decode one by one."
        )
