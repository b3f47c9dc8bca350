"""The client and the command against a server with keys and rate limits: access, visibility and waits."""

from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest
from client_server import Served, real_server

import sam2_client
from app.settings import Settings
from sam2_client import AsyncClient, Client
from sam2_client.command import main
from sam2_client.retries import JITTER
from tests.fakes import picture, serving

ANNA, BERT = "anna-0123456789abcdef", "bert-0123456789abcdef"
KEYS = f"anna:{ANNA},bert:{BERT}"
UNKNOWN = "This API key is not valid."
MISSING = "This server requires an API key. Send a key as 'Authorization: Bearer KEY' or as 'X-API-Key: KEY'."
TOO_MANY = "You have sent more than 6 new pictures a minute (SAM2_RATE_PICTURES_PER_MINUTE)."


@pytest.fixture(scope="module")
def guarded() -> Iterator[Served]:
    """A server with two keys."""
    with real_server(Settings(workers=2, api_keys=KEYS)) as served:
        yield served


@pytest.fixture
def anna(guarded: Served) -> Iterator[Client]:
    with Client(guarded.url, ANNA) as client:
        yield client


@pytest.fixture
def bert(guarded: Served) -> Iterator[Client]:
    with Client(guarded.url, BERT) as client:
        yield client


def test_with_the_right_key_all_is_answered(anna: Client, truck: Path) -> None:
    image = anna.embed(truck, "truck")
    (better,) = image.decode(points=[(30, 20)], mask=image.decode(points=[(30, 20)])[0])
    assert better.area > 0
    assert anna.image("truck").width == 60
    assert [result.error for result in anna.embed_many([truck, picture(shade=2)], progress=False)] == [
        None
    ] * 2
    image.delete()
    with pytest.raises(sam2_client.ImageNotFound):
        anna.image("truck")


def test_the_login_of_a_proxy_in_the_address_leaves_the_key_as_it_is(guarded: Served) -> None:
    with Client(guarded.url.replace("//", "//proxy:login@"), ANNA) as client:
        assert client.model().name == "fake"
    with Client(guarded.url.replace("//", f"//anna:{ANNA}@")) as client:
        assert client.model().name == "fake"


def test_spaces_and_line_ends_around_a_key_are_not_part_of_it(guarded: Served, truck: Path) -> None:
    with Client(guarded.url, f" {ANNA}\n") as client:
        assert client.embed(truck).width == 60


@pytest.mark.parametrize("key", ["anna-0123\n456789abcdef", "schlüssel-456789abcdef"])
def test_a_key_that_no_header_can_carry_is_refused_and_not_shown(key: str) -> None:
    with pytest.raises(ValueError, match="the key has characters") as caught:
        Client("http://127.0.0.1:8000", key)
    assert "0123" not in str(caught.value)
    assert "456" not in str(caught.value)


@pytest.mark.parametrize(
    ("key", "message"), [("wrong-0123456789abcdef", UNKNOWN), (None, MISSING), ("", MISSING), (" ", MISSING)]
)
def test_without_the_right_key_everything_is_refused_at_once_in_the_servers_words(
    guarded: Served, truck: Path, key: str | None, message: str
) -> None:
    with Client(guarded.url, key) as client:
        for ask in (lambda: client.embed(truck), lambda: client.image("truck")):
            guarded.trouble.asked.clear()
            with pytest.raises(sam2_client.Unauthorized) as caught:
                ask()
            assert str(caught.value) == caught.value.message == message
            assert (caught.value.code, caught.value.status) == ("unauthorized", 401)
            assert caught.value.request_id
            assert len(guarded.trouble.asked) == 1, "a rejected key is not retried"
        (result,) = client.embed_many([truck], progress=False)
        assert isinstance(result.error, sam2_client.Unauthorized)


async def test_the_async_client_brings_its_key_too(truck: Path) -> None:
    async with serving(Settings(workers=2, api_keys=KEYS)) as served:
        transport = httpx.ASGITransport(served.app)
        async with AsyncClient("http://localhost", ANNA, transport=transport) as client:
            assert await (await client.embed(truck)).decode(points=[(30, 20)])
        async with AsyncClient("http://localhost", ANNA[:-1], transport=transport) as client:
            with pytest.raises(sam2_client.Unauthorized, match=UNKNOWN):
                await client.embed(truck)


def test_two_tenants_name_their_own_pictures_and_see_no_others(anna: Client, bert: Client) -> None:
    hers = anna.embed(picture(60, 40), "shared-name")
    with pytest.raises(sam2_client.ImageNotFound):
        bert.image("shared-name")
    his = bert.embed(picture(80, 50), "shared-name")  # her name is still free for him
    assert (anna.image("shared-name").width, bert.image("shared-name").width) == (60, 80)
    assert hers.decode(points=[(30, 20)])[0].to_numpy().shape == (40, 60)
    assert his.decode(points=[(30, 20)])[0].to_numpy().shape == (50, 80)
    by_content = anna.embed(picture(61, 40)).image_id
    with pytest.raises(sam2_client.ImageNotFound):
        bert.image(by_content)
    his.delete()
    assert anna.image("shared-name").width == 60
    hers.delete()


class Clock:
    """The time that the server's rate limits and the client see. Waiting advances it."""

    def __init__(self) -> None:
        self.now = 1000.0
        self.waited: list[float] = []

    def monotonic(self) -> float:
        return self.now

    def sleep(self, seconds: float) -> None:
        self.waited.append(seconds)
        self.now += seconds


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    clock = Clock()
    monkeypatch.setattr("app.middleware.rates.monotonic", clock.monotonic)
    monkeypatch.setattr("sam2_client.client.time", clock)
    monkeypatch.setattr("sam2_client.workers.time", clock)
    return clock


def rates(per_minute: float) -> Settings:
    return Settings(workers=2, api_keys=KEYS, rate_pictures_per_minute=per_minute)


def test_who_is_over_the_rate_waits_as_long_as_the_server_says_and_is_answered(clock: Clock) -> None:
    with real_server(rates(6)) as served, Client(served.url, ANNA) as anna, Client(served.url, BERT) as bert:
        for shade in range(6):
            anna.embed(picture(shade=shade))
        assert clock.waited == []
        served.trouble.asked.clear()
        assert anna.embed(picture(shade=6)).width == 60
        assert served.trouble.asked == ["POST /embed"] * 2, "429, then a retry"
        (waited,) = clock.waited
        assert 10 <= waited <= 10 * (1 + JITTER), "six a minute is one in ten seconds"
        assert anna.embed(picture(shade=0)).width == 60, "a known picture does not count"
        bert.embed(picture(shade=7))
        assert len(clock.waited) == 1, "one tenant's requests do not delay another"


def test_who_will_not_wait_hears_how_long_it_would_be(clock: Clock) -> None:
    with real_server(rates(6)) as served, Client(served.url, ANNA, retries=0) as anna:
        for shade in range(6):
            anna.embed(picture(shade=shade))
        with pytest.raises(sam2_client.RateLimited) as caught:
            anna.embed(picture(shade=6))
        assert str(caught.value) == TOO_MANY
        assert (caught.value.code, caught.value.status) == ("rate_limited", 429)
        assert caught.value.retry_after_s == 10
        assert clock.waited == []
        clock.now += 10
        assert anna.embed(picture(shade=6)).width == 60, "the time in Retry-After is right"


def test_a_minute_is_not_waited_for(clock: Clock) -> None:
    with real_server(rates(1)) as served, Client(served.url, ANNA) as anna:
        anna.embed(picture(shade=0))
        with pytest.raises(sam2_client.RateLimited, match="more than 1 new pictures") as caught:
            anna.embed(picture(shade=1))
        assert caught.value.retry_after_s == 60
        assert clock.waited == []


def test_a_whole_project_goes_in_at_the_rate_of_the_server(clock: Clock) -> None:
    with real_server(rates(6)) as served, Client(served.url, ANNA) as anna:
        pictures = [picture(shade=shade) for shade in range(9)]
        results = anna.embed_many(pictures, concurrency=1, progress=False)
        assert [result.error for result in results] == [None] * 9
        assert sum(clock.waited) >= 20


def test_many_at_a_time_do_not_fail_because_of_each_other(clock: Clock) -> None:
    pictures = [picture(shade=shade) for shade in range(6)]
    with real_server(rates(1)) as served, Client(served.url, ANNA) as anna:
        results = anna.embed_many(pictures, progress=False)
        assert [result.error for result in results] == [None] * 6
        assert clock.now - 1000 >= 5 * 60, "one a minute"
        with Client(served.url, ANNA, retries=0) as impatient:
            (result,) = impatient.embed_many([picture(shade=9)], progress=False)
            assert isinstance(result.error, sam2_client.RateLimited)


def command(*arguments: str, capsys: pytest.CaptureFixture[str]) -> tuple[int, str]:
    """Run `sam2`. Return its exit code and standard error."""
    code = main(list(arguments))
    return code, capsys.readouterr().err


def test_the_command_takes_its_key_from_option_or_environment(
    guarded: Served, truck: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SAM2_URL", guarded.url)
    decode = ("decode", str(truck), "--point", "30,20")
    assert command(*decode, capsys=capsys) == (1, f"sam2: {MISSING} [unauthorized]\n")
    assert command(*decode, "--api-key", ANNA, capsys=capsys) == (0, "")
    monkeypatch.setenv("SAM2_API_KEY", BERT)
    assert command(*decode, capsys=capsys) == (0, "")
    wrong = ("--api-key", "wrong-0123456789abcdef")
    refused = f"sam2: {UNKNOWN} [unauthorized]\n"
    assert command(*decode, *wrong, capsys=capsys) == (1, refused), "the option overrides the environment"
    assert command("embed", str(truck), *wrong, capsys=capsys) == (1, f"sam2: {truck}: {UNKNOWN}\n")
    prompts = truck.parent / "prompts.jsonl"
    prompts.write_text('{"picture": "truck.png", "point_coords": [[30, 20]], "point_labels": [1]}\n')
    export = ("export", str(prompts), "--coco", str(truck.parent / "coco.json"))
    assert command(*export, capsys=capsys) == (0, "")
    monkeypatch.setenv("SAM2_API_KEY", "wrong-0123456789abcdef")
    code, said = command(*export, capsys=capsys)
    assert code == 1
    assert UNKNOWN in said
    monkeypatch.setenv("SAM2_API_KEY", "")
    assert MISSING in command(*decode, capsys=capsys)[1]
