"""The settings are documented, validated, and read from the command line and the environment."""

from pathlib import Path

import pytest
from pydantic import ValidationError
from uvicorn.middleware.proxy_headers import ProxyHeadersMiddleware

from app import __main__ as command
from app.__main__ import read_settings
from app.settings import HIDDEN, Settings, unknown_variables, unusable_proxies


def test_every_setting_says_what_it_is_for() -> None:
    for name, setting in Settings.model_fields.items():
        assert setting.description, name
        assert setting.description[-1] == ".", name


def test_every_setting_has_a_default_that_is_valid() -> None:
    settings = Settings()
    assert (settings.host, settings.port, settings.model) == ("127.0.0.1", 8000, "builtin")
    assert settings.checkpoint_path is None
    assert settings.workers >= 2


def test_help_shows_every_setting_with_its_variable_and_default(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as exit_:
        read_settings(["--help"])
    assert exit_.value.code == 0
    text = " ".join(capsys.readouterr().out.split())
    for name, setting in Settings.model_fields.items():
        assert f"--{name.replace('_', '-')} " in text
        assert f"[SAM2_{name.upper()}]" in text
        assert f"Default: {setting.default or 'none'}" in text or setting.default_factory
    assert "Default: one for each CPU that the container" in text


def test_the_command_line_goes_before_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SAM2_PORT", "9001")
    monkeypatch.setenv("sam2_deadline_s", "2.5")
    assert read_settings([]).port == 9001
    settings = read_settings(["--port", "9002", "--max-image-megapixels", "12"])
    assert (settings.port, settings.deadline_s, settings.max_image_megapixels) == (9002, 2.5, 12)


@pytest.mark.parametrize(
    ("checkpoint", "path"),
    [("", None), ("untrained", None), ("a.pt", Path("a.pt")), ("~/a.pt", Path("~/a.pt").expanduser())],
)
def test_a_checkpoint_is_a_path_or_untrained(checkpoint: str, path: Path | None) -> None:
    assert Settings(checkpoint=checkpoint).checkpoint_path == path


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("model", "sam3"),
        ("dtype", "int8"),
        *(("device", value) for value in ("", "CPU", "gpu", "mps", "cuda:", "cuda:-1", "0")),
        ("port", "70000"),
        ("host", ""),  # as of a variable that a compose file passes on and nobody set
        ("host", " "),
        ("device_cache_mib", "0"),
        ("device_cache_mib", "1.5"),
        ("host_cache_mib", "-1"),
        ("host_cache_mib", "all"),
        ("batch_images", "33"),  # 32 have 32,768 windows; kernels of attention take 65,535 at most
        ("deadline_s", "0"),
        *((name, "1e10") for name in ("deadline_s", "everything_deadline_s", "stream_idle_s", "watchdog_s")),
        ("max_image_megapixels", "1e308"),
        ("max_prompts", "many"),
        ("log_level", "loud"),
        ("compile", "yes"),
        ("log_format", "xml"),
        ("watchdog_s", "-1"),
        ("workers", "1000000"),
        ("threads", "1000000"),  # the server listened, and failed 15 s later in whatever needed memory next
        ("allowed_hosts", " , "),
        *((name, "~nobody-of-this-name/x") for name in ("cache_dir", "checkpoint", "weights_dir")),
        ("weights_url", ""),
        # Each picture got 500 then, without a word of why.
        *(
            ("label_studio_url", f"http://{place}")
            for place in ("ls:abc", "ls:99999", "ls:0", "[::1", "a..b")
        ),
        ("weights_url", "https://weights.example:https/sam2"),
        *(("weights_dir", value) for value in ("", " ")),  # 900 MB went into the current folder
        ("weights_url", "weights.example/sam2"),  # it failed after four tries in seven seconds
        ("allowed_hosts", "https://tool.example"),
        ("max_bodies_mib", "63"),  # and uploads of 64
        ("max_waiting_prompts", "255"),  # and 256 in a request
        *(
            (name, value)
            for name, setting in Settings.model_fields.items()
            if setting.annotation is float
            for value in ("nan", "inf", "-inf", "1e999")
        ),
    ],
)
def test_bad_values_are_refused(name: str, value: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(f"SAM2_{name.upper()}", value)
    with pytest.raises(ValidationError, match=name):
        Settings()


@pytest.mark.parametrize(
    "name", [name for name, setting in Settings.model_fields.items() if name not in ("register_url",)]
)
def test_a_value_in_quotes_is_refused_and_not_taken_for_a_name(
    name: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """The file of docker --env-file keeps quotes: embeddings went into a folder called '"' beside the server."""
    for value in ('"/cache-of-mine"', "'/cache-of-mine'"):
        monkeypatch.setenv(f"SAM2_{name.upper()}", value)
        assert command.main([]) == 2
        said = capsys.readouterr().err
        assert f"SAM2_{name.upper()}: the quotes are part of the value here; leave them out" in said
        assert ("cache-of-mine" in said) == (name not in HIDDEN)


@pytest.mark.parametrize("url", ["http://ls", "https://[::1]:8080/tool", "http://ёж.example:65535"])
def test_a_token_that_no_header_takes_is_refused(url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SAM2_LABEL_STUDIO_URL", url)
    monkeypatch.setenv("SAM2_LABEL_STUDIO_API_KEY", "abcdef")
    assert Settings().label_studio_url == url
    monkeypatch.setenv("SAM2_LABEL_STUDIO_API_KEY", "abcdеf")  # a Cyrillic letter
    with pytest.raises(ValidationError, match="ASCII"):
        Settings()


def test_line_ends_of_windows_belong_to_no_value(monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in {
        "cache_dir": "/cache",
        "keep_uploads": "true",
        "log_format": "json",
        "device": "cpu",
        "doors": "none",
        "device_cache_mib": "512",
        "api_keys": "anna:0123456789abcdef",
        "register_url": "postgresql://user@host/sam2",
        "label_studio_url": "http://label-studio:8080",
    }.items():
        monkeypatch.setenv(f"SAM2_{name.upper()}", f" {value}\r")
    settings = Settings()
    assert (settings.cache_dir, settings.log_format, settings.device) == ("/cache", "json", "cpu")
    assert (settings.keep_uploads, settings.open_doors, settings.device_cache_mib) == (True, frozenset(), 512)
    assert settings.api_keys.get_secret_value() == "anna:0123456789abcdef"
    assert settings.register_url.get_secret_value() == "postgresql://user@host/sam2"


def test_a_cache_is_as_large_as_it_can_be_or_as_large_as_is_said(monkeypatch: pytest.MonkeyPatch) -> None:
    assert (Settings().device_cache_mib, Settings().host_cache_mib) == ("auto", "auto")
    monkeypatch.setenv("SAM2_DEVICE_CACHE_MIB", "512")
    monkeypatch.setenv("SAM2_HOST_CACHE_MIB", "0")
    assert (Settings().device_cache_mib, Settings().host_cache_mib) == (512, 0)
    monkeypatch.setenv("SAM2_HOST_CACHE_MIB", "plenty")
    with pytest.raises(ValidationError) as raised:
        Settings()
    (problem,) = raised.value.errors()
    assert problem["loc"] == ("host_cache_mib",)
    assert "must be auto, or a whole number of MiB from 0" in problem["msg"]


def test_a_port_that_kubernetes_set_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SAM2_PORT", "tcp://10.96.4.7:80")
    with pytest.raises(ValidationError, match="enableServiceLinks: false"):
        Settings()


def test_variables_that_no_setting_reads_are_found(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SAM2_PRT", "8000")
    monkeypatch.setenv("SAM2_PORT", "8000")
    monkeypatch.setenv("SAM_X", "1")
    assert unknown_variables() == ["SAM2_PRT"]


@pytest.mark.parametrize(
    ("value", "unusable"),
    [
        ("", []),
        ("*", []),
        ("127.0.0.1, ::1,10.0.0.0/24 ,fd00::/8,", []),
        (
            "10.0.0.5/24",
            ["10.0.0.5/24"],
        ),  # bits beyond the mask: Uvicorn takes it for a name, and never meets it
        ("balancer,10.0.0.0/99", ["balancer", "10.0.0.0/99"]),
        ("10.0.0.5,*", ["*"]),
    ],
)
def test_proxies_that_nobody_is_are_found(
    value: str, unusable: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("FORWARDED_ALLOW_IPS", value)
    assert unusable_proxies() == unusable
    trusted = ProxyHeadersMiddleware(None, value).trusted_hosts  # type: ignore[arg-type]
    assert sorted(trusted.trusted_literals - {""}) == sorted(unusable)
