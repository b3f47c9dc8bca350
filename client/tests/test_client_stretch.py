"""The client says how a picture of more than 8 bits is to be read, also when it embeds it again."""

import pytest
from client_server import Served

from sam2_client import AsyncClient, Client
from tests.fakes import picture


def test_another_reading_is_another_picture_and_stays_that(served: Served, client: Client) -> None:
    usual = client.embed(picture())
    other = client.embed(picture(), stretch="percentile")
    assert other.image_id == f"{usual.image_id}-percentile"
    client.delete(other.image_id)
    assert other.decode(points=[(3, 4)], labels=[1])
    assert client.image(other.image_id).image_id == other.image_id
    with pytest.raises(ValueError, match="one of range, percentile, none"):
        client.embed(picture(), stretch="auto")  # type: ignore[arg-type]


async def test_the_async_client_says_it_too(served: Served) -> None:
    async with AsyncClient(served.url) as client:
        assert (await client.embed(picture(), stretch="none")).image_id.endswith("-none")
