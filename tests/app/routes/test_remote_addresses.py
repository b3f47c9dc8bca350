"""Pictures by URL are fetched from public addresses over https; no request goes to any other address."""

import ssl

import pytest
import trustme

from app.errors import InvalidImage, ValidationFailed
from app.routes.remote_pictures import is_public, resolve
from tests.app.routes.imagined_web import HOST, PUBLIC, redirect, web


@pytest.mark.parametrize(
    "url",
    [
        f"http://{HOST}/truck.png",
        f"ftp://{HOST}/truck.png",
        "file:///etc/passwd",
        "data:image/png;base64,AAAA",
        f"//{HOST}/truck.png",
        "truck.png",
        "",
        "https://",
        "https:///truck.png",
        f"https://{HOST}:80/",
        f"https://{HOST}:8443/",
        f"https://{HOST}:99999/",
        f"https://anna@{HOST}/",
        f"https://anna:secret@{HOST}/",
        f"https://{HOST}/\r\nX-Other: 1",
        "https://[::1/",
    ],
)
async def test_what_is_not_plain_https_is_refused_before_anything_is_looked_up(
    url: str, authority: trustme.CA
) -> None:
    async with web(authority) as here:
        with pytest.raises(ValidationFailed) as refusal:
            await here.fetch(url)
        assert refusal.value.details[0]["where"] == "url"
        assert "secret" not in refusal.value.message
        assert here.looked_up == here.dialled == []


NOT_PUBLIC = [
    *("127.0.0.1", "127.8.8.8", "0.0.0.0", "10.1.2.3", "172.16.0.1", "172.31.255.255", "192.168.1.1"),  # noqa: S104
    *(
        "169.254.169.254",
        "100.64.0.1",
        "100.100.100.200",
        "192.0.0.192",
        "192.0.2.1",
        "198.18.0.1",
        "198.51.100.1",
    ),
    *(
        "203.0.113.1",
        "192.88.99.1",
        "224.0.0.1",
        "239.1.1.1",
        "240.0.0.1",
        "255.255.255.255",
        "168.63.129.16",
    ),
    *(
        "::",
        "::1",
        "::7f00:1",
        "::ffff:127.0.0.1",
        "::ffff:10.0.0.1",
        "::ffff:93.184.215.14",
        "fe80::1",
        "fe80::1%lo",
    ),
    *(
        "fc00::1",
        "fd00:ec2::254",
        "fec0::1",
        "ff02::1",
        "64:ff9b::7f00:1",
        "64:ff9b::5db8:d70e",
        "64:ff9b:1::1",
    ),
    *("2001::1", "2001:db8::1", "2001:10::1", "2002:7f00:1::1", "3fff::1", "100::1", "5f00::1", "4000::1"),
    *("", "localhost", "127.1", "0x7f000001", "2130706433"),
]


@pytest.mark.parametrize("address", NOT_PUBLIC)
async def test_addresses_that_are_not_public_are_never_dialled(address: str, authority: trustme.CA) -> None:
    assert not is_public(address)
    async with web(authority) as here:
        for addresses in ([address], [PUBLIC, address], [address, PUBLIC]):
            here.names[HOST] = [addresses]
            with pytest.raises(ValidationFailed) as refusal:
                await here.fetch()
            assert not address or address not in refusal.value.message
        assert here.dialled == []


@pytest.mark.parametrize(
    "address", [PUBLIC, "8.8.8.8", "1.1.1.1", "172.32.0.1", "2606:4700::1", "2a00:1450::1"]
)
def test_public_addresses_are_public(address: str) -> None:
    assert is_public(address)


@pytest.mark.parametrize(
    "host", ["localhost", "127.0.0.1", "127.1", "0x7f.1", "2130706433", "[::1]", "[::ffff:7f00:1]"]
)
async def test_every_way_to_write_this_machine_is_seen_through_by_the_systems_own_lookup(
    host: str, authority: trustme.CA
) -> None:
    async with web(authority) as here:
        here.pictures._network._resolve = resolve
        with pytest.raises(ValidationFailed):
            await here.fetch(f"https://{host}/")
        assert here.dialled == []


async def test_no_such_host_and_a_host_inside_are_answered_alike(authority: trustme.CA) -> None:
    """Otherwise a client could find out which names exist in the internal network."""
    async with web(authority) as here:
        here.names["inside.example"] = [["10.0.0.7"]]
        said = []
        for host in ("inside.example", "nowhere.example"):
            with pytest.raises(ValidationFailed) as refusal:
                await here.fetch(f"https://{host}/")
            said.append((refusal.value.message, refusal.value.details))
        assert said[0] == said[1]
        assert "10.0.0.7" not in str(said)


async def test_a_name_that_cannot_be_looked_up_has_no_address() -> None:
    assert await resolve("a" * 64 + ".example") == []
    assert await resolve("host.invalid") == []


async def test_a_name_that_leads_elsewhere_a_moment_later_gains_nothing(authority: trustme.CA) -> None:
    """Each connection looks its host up once and dials that address; a second connection looks it up again."""
    async with web(authority) as here:
        here.names[HOST] = [[PUBLIC], ["127.0.0.1"]]
        assert await here.fetch() == b"a picture"
        assert here.looked_up == [HOST]
        assert here.dialled == [(PUBLIC, 443)]
        with pytest.raises(ValidationFailed):
            await here.fetch()
        here.names[HOST] = [[PUBLIC], ["127.0.0.1"]]
        here.replies["/around"] = redirect("/truck.png")
        with pytest.raises(ValidationFailed):
            await here.fetch(f"https://{HOST}/around")
        assert here.dialled == [(PUBLIC, 443)] * 2


async def test_a_certificate_of_another_name_or_authority_is_refused(authority: trustme.CA) -> None:
    async with web(authority, certificate_of="other.example") as here:
        with pytest.raises(InvalidImage, match="certificate"):
            await here.fetch()
        assert here.requests == []
    async with web(authority) as here:
        here.pictures._tls = ssl.create_default_context()
        with pytest.raises(InvalidImage, match="certificate"):
            await here.fetch()
        assert here.requests == []


@pytest.mark.parametrize(
    "location",
    [
        f"http://{HOST}/truck.png",
        "https://inside.example/",
        f"https://{HOST}:8443/",
        f"https://a:b@{HOST}/",
        "",
    ],
)
async def test_a_redirect_to_where_nothing_is_fetched_from_is_refused(
    location: str, authority: trustme.CA
) -> None:
    async with web(authority) as here:
        here.names["inside.example"] = [["169.254.169.254"]]
        here.replies["/a"] = redirect(location)
        with pytest.raises(ValidationFailed):
            await here.fetch(f"https://{HOST}/a")
        assert here.dialled == [(PUBLIC, 443)]
