"""GET /cluster: the devices that do the work, their health and their load. No logic."""

from fastapi import APIRouter, Request
from pydantic import BaseModel, Field

from app.routes.state import service_of

router = APIRouter(include_in_schema=False)


class DeviceReply(BaseModel):
    """One device."""

    name: str = Field(description="Identifies it in this reply and in the label `device` of metrics.")
    node: str = Field(description="The machine; empty if it is the server's own process.")
    ready: bool
    problem: str | None = Field(description="The reason why it is not ready.")
    model: str | None = Field(description="null before it is loaded.")
    fingerprint: str | None
    device: str | None
    waiting_prompts: int
    waiting_images: int


class ClusterReply(BaseModel):
    """All devices that answer."""

    devices: list[DeviceReply]


@router.get("/cluster", response_model=ClusterReply)
async def cluster(request: Request) -> ClusterReply:
    """The devices behind this server: one, or those of SAM2_DEVICES as they were a second ago."""
    return ClusterReply(
        devices=[
            DeviceReply(
                name=state.name,
                node=state.node,
                ready=not state.problem,
                problem=state.problem or None,
                model=state.model and state.model.name,
                fingerprint=state.model and state.model.fingerprint,
                device=state.model and state.model.device_name,
                waiting_prompts=state.waiting_prompts,
                waiting_images=state.waiting_images,
            )
            for state in await service_of(request).devices()
        ]
    )
