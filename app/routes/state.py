"""What a request finds in its application, and where it notes its stages.

Knows nothing of the endpoints.
"""

from collections.abc import Callable

from fastapi import Request, Response
from fastapi.requests import HTTPConnection

from app.errors import ServiceError
from app.middleware.keys import ApiKeys
from app.middleware.rates import InFlight, LoopTime
from app.routes.remote_pictures import RemotePictures
from app.routes.uploads import BodyBudget
from app.service.service import SegmentationService
from app.telemetry.stages import StageTimes


def service_of(request: HTTPConnection) -> SegmentationService:
    """The one service."""
    service: SegmentationService = request.app.state.service
    return service


def budget_of(request: HTTPConnection) -> BodyBudget:
    """The memory for bodies of requests."""
    budget: BodyBudget = request.app.state.body_budget
    return budget


def begin_stages(request: Request) -> StageTimes:
    """Where a request notes its stages: access.py finds them in the scope, also where it fails."""
    request.scope["stages"] = times = StageTimes()
    return times


def remote_pictures_of(request: Request) -> RemotePictures:
    """What fetches pictures by URL."""
    pictures: RemotePictures = request.app.state.remote_pictures
    return pictures


def keys_of(connection: HTTPConnection) -> ApiKeys:
    """Who may call."""
    keys: ApiKeys = connection.app.state.keys
    return keys


def in_flight_of(connection: HTTPConnection) -> InFlight:
    """What each client has under way."""
    in_flight: InFlight = connection.app.state.in_flight
    return in_flight


def refusal_of(connection: HTTPConnection, error: ServiceError) -> Response:
    """The reply to an error, counted; for what is answered outside of FastAPI's handlers."""
    refuse: Callable[[ServiceError], Response] = connection.app.state.refuse
    return refuse(error)


def loop_time_of(connection: HTTPConnection) -> LoopTime:
    """The event loop's time that each client's messages took."""
    loop_time: LoopTime = connection.app.state.loop_time
    return loop_time
