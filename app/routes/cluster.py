"""GET /cluster: the devices that do the work, their health and their load. No logic."""

from fastapi import Request
from pydantic import BaseModel, Field

from app.routes.endpoints import new_router
from app.routes.state import service_of
from app.service.segmentation import FrontState

router = new_router()


class DeviceReply(BaseModel):
    """One device."""

    id: str = Field(description="Identifies it in this reply, and in the label `device` of metrics.")
    node: str = Field(description="The name of its machine.")
    pid: int = Field(description="Its process on that machine.")
    device: str | None = Field(description="As torch names it; null before the model is loaded.")
    ready: bool
    problem: str | None = Field(description="The reason why it is not ready.")
    waiting: int = Field(description="Prompts and pictures in its queues.")
    images: int = Field(description="Embeddings in its memory.")
    model: str | None = Field(description="null before it is loaded.")
    fingerprint: str | None = Field(description="Of the model; null before it is loaded.")
    version: str = Field(description="Of the service.")


class FrontReply(BaseModel):
    """A server that takes requests."""

    node: str
    pid: int


class ClusterReply(BaseModel):
    """All devices that answer, and the servers before them."""

    devices: list[DeviceReply]
    fronts: list[FrontReply] = Field(description="The first one is the server that was asked.")


@router.get("/cluster", response_model=ClusterReply)
async def cluster(request: Request) -> ClusterReply:
    """The devices behind this server, one or those of a cluster as they were a second ago; and all its servers."""
    states = await service_of(request).devices()
    devices = [
        DeviceReply(
            id=state.name,
            node=state.node,
            pid=state.pid,
            device=state.model and state.model.device_name,
            ready=not state.problem,
            problem=state.problem or None,
            waiting=state.waiting,
            images=state.images,
            model=state.model and state.model.name,
            fingerprint=state.model and state.model.fingerprint,
            version=state.version,
        )
        for state in states
    ]
    here = FrontState.here()
    others = sorted({front for state in states for front in state.fronts} - {here})
    fronts = [FrontReply(node=front.node, pid=front.pid) for front in (here, *others)]
    return ClusterReply(devices=devices, fronts=fronts)
