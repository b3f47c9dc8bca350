"""What a request finds in its application, and where it notes its stages.

Knows nothing of the endpoints.
"""

from fastapi import Request

from app.remote_pictures import RemotePictures
from app.service import SegmentationService
from app.stages import StageTimes
from app.uploads import BodyBudget


def service_of(request: Request) -> SegmentationService:
    """The one service."""
    service: SegmentationService = request.app.state.service
    return service


def budget_of(request: Request) -> BodyBudget:
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
