"""Access to the application's objects from a request.

Does not know about the endpoints.
"""

from collections.abc import Callable

from fastapi import Request, Response
from fastapi.requests import HTTPConnection

from app.errors import ServiceError
from app.middleware.keys import ApiKeys
from app.middleware.rates import InFlight, LoopTime
from app.routes.body_budget import BodyBudget
from app.routes.remote_pictures import RemotePictures
from app.service.segmentation import Segmentation
from app.telemetry.stages import StageTimes


def service_of(request: HTTPConnection) -> Segmentation:
    """The service."""
    service: Segmentation = request.app.state.service
    return service


def budget_of(request: HTTPConnection) -> BodyBudget:
    """The memory budget for request bodies."""
    budget: BodyBudget = request.app.state.body_budget
    return budget


def strangers_budget_of(request: HTTPConnection) -> BodyBudget:
    """The memory budget for bodies that are read to find a key in them."""
    budget: BodyBudget = request.app.state.strangers_budget
    return budget


def begin_stages(request: Request) -> StageTimes:
    """Return the request's stage times. access.py finds them in the scope, even if the request fails."""
    request.scope["stages"] = times = StageTimes()
    return times


def remote_pictures_of(request: Request) -> RemotePictures:
    """The fetcher of pictures by URL."""
    pictures: RemotePictures = request.app.state.remote_pictures
    return pictures


def keys_of(connection: HTTPConnection) -> ApiKeys:
    """The API keys."""
    keys: ApiKeys = connection.app.state.keys
    return keys


def in_flight_of(connection: HTTPConnection) -> InFlight:
    """The number of concurrent requests of each client."""
    in_flight: InFlight = connection.app.state.in_flight
    return in_flight


def refusal_of(connection: HTTPConnection, error: ServiceError) -> Response:
    """Return the reply to an error and count it. For errors outside of FastAPI's handlers."""
    refuse: Callable[[ServiceError], Response] = connection.app.state.refuse
    return refuse(error)


def loop_time_of(connection: HTTPConnection) -> LoopTime:
    """The event loop's time that each client's messages take."""
    loop_time: LoopTime = connection.app.state.loop_time
    return loop_time
