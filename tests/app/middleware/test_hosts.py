"""DNS rebinding: a page whose name leads to this machine must not read what a server on it holds."""

import pytest

from app.middleware.hosts import LOCAL, allowed_hosts, is_allowed, is_loopback
from app.settings import Settings
from tests.fakes import error, picture, serving


@pytest.mark.parametrize(
    "host", ["evil.example", "evil.example:8000", "127.0.0.1.evil.example", "localhost.evil.example", ""]
)
async def test_a_server_on_loopback_answers_to_its_own_names_only(host: str) -> None:
    async with serving() as served:
        await served.embed(picture(), "a")
        for path in ("/images", "/", "/metrics", "/model"):
            reply = await served.client.get(path, headers={"Host": host})
            assert error(reply) == (421, "host_not_allowed")
            assert "SAM2_ALLOWED_HOSTS" in reply.json()["error"]["message"]


@pytest.mark.parametrize(
    "host",
    ["localhost", "LOCALHOST:8000", "127.0.0.1", "127.0.0.1:8000", "[::1]", "[::1]:8000", "localhost."],
)
async def test_its_own_names_are_these_with_any_port(host: str) -> None:
    async with serving() as served:
        assert (await served.client.get("/model", headers={"Host": host})).status_code == 200


@pytest.mark.parametrize(
    ("setting", "host"),
    [("auto", "0.0.0.0"), ("auto", "::"), ("auto", "10.1.2.3"), ("*", "127.0.0.1")],  # noqa: S104
)
async def test_other_addresses_answer_to_any_name(setting: str, host: str) -> None:
    async with serving(Settings(workers=2, host=host, allowed_hosts=setting)) as served:
        assert (await served.client.get("/model", headers={"Host": "sam2.internal"})).status_code == 200


async def test_names_may_be_given() -> None:
    async with serving(Settings(workers=2, allowed_hosts="Tool.example, *.lab.example")) as served:
        for host, status in {
            "tool.example": 200,
            "tool.example:443": 200,
            "a.lab.example": 200,
            "lab.example": 421,
            "evillab.example": 421,
            "localhost": 421,
        }.items():
            assert (await served.client.get("/model", headers={"Host": host})).status_code == status


@pytest.mark.parametrize(
    ("setting", "host"),
    [
        ("tool.example:8443", "tool.example:8443"),
        ("Tool.Example.", "tool.example"),
        ("::1", "[::1]:8000"),
        ("[FE80::1]:8000", "[fe80::1]"),
        ("*.lab.example:443", "a.lab.example"),
        (" AUTO ", "localhost"),
    ],
)
async def test_names_may_be_written_in_any_way(setting: str, host: str) -> None:
    """These were accepted at the start, and then every request got 421."""
    async with serving(Settings(workers=2, allowed_hosts=setting)) as served:
        assert (await served.client.get("/model", headers={"Host": host})).status_code == 200
        reply = await served.client.get("/model", headers={"Host": "evil.example"})
        assert error(reply) == (421, "host_not_allowed")


async def test_supervisors_ask_by_any_address() -> None:
    """Docker's check asks 127.0.0.1, Kubernetes the pod's address: with a name set, no container was healthy."""
    async with serving(Settings(workers=2, allowed_hosts="tool.example")) as served:
        for path in ("/healthz", "/readyz"):
            for host in ("127.0.0.1:8000", "10.1.2.3:8000"):
                assert (await served.client.get(path, headers={"Host": host})).status_code == 200


@pytest.mark.parametrize("host", ["127.0.0.1", "::1", "localhost"])
def test_what_only_this_machine_reaches_is_loopback(host: str) -> None:
    assert allowed_hosts("auto", host=host) == LOCAL


@pytest.mark.parametrize("host", ["127.8.9.10", "127.1", "LocalHost", "0:0:0:0:0:0:0:1"])
async def test_a_loopback_address_in_any_form_is_one_and_answers_to_itself(host: str) -> None:
    """The log says: Listening on http://127.8.9.10:8000; open it in a browser."""
    itself = f"[{host}]" if ":" in host else host
    async with serving(Settings(workers=2, host=host)) as served:
        for name, status in ((f"{itself}:8000", 200), ("localhost", 200), ("evil.example", 421)):
            reply = await served.client.get("/model", headers={"Host": name})
            assert reply.status_code == status


def test_a_name_that_leads_nowhere_is_not_loopback() -> None:
    assert not is_loopback("nowhere.invalid")
    assert not is_loopback("http://127.0.0.1")


def test_the_port_of_an_ipv6_address_is_told_from_the_address() -> None:
    assert is_allowed("[::1]:80", LOCAL)
    assert is_allowed("[::1]", LOCAL)
    assert not is_allowed("[::2]", LOCAL)
