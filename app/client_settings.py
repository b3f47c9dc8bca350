"""The settings of what clients meet: address, keys, rates, pages of other sites, doors of other tools.

Does not know the other settings, or where values come from.
"""

from functools import partial
from typing import Annotated, Literal

from pydantic import (
    AfterValidator,
    BaseModel,
    BeforeValidator,
    Field,
    SecretStr,
    StringConstraints,
    ValidationInfo,
    field_validator,
)

from app.setting_checks import (
    as_browsers_write,
    check_address,
    check_bare,
    check_hosts,
    check_not_a_link,
    check_origins,
    check_tools,
    split,
)

DOORS = ("cvat", "label-studio", "qupath", "roboflow", "x-anylabeling")
"""Names for SAM2_DOORS; app/doors has them."""


class ClientSettings(BaseModel):
    """The first of all settings; settings.py has the others."""

    # Asked to listen on "", the system listens on all networks.
    host: Annotated[str, StringConstraints(min_length=1)] = Field(
        "127.0.0.1", description="Address to listen on; 0.0.0.0 for all networks."
    )
    port: Annotated[int, BeforeValidator(check_not_a_link)] = Field(
        8000, ge=0, le=65535, description="Port to listen on; 0 picks a free one."
    )

    allowed_hosts: Annotated[str, AfterValidator(check_hosts)] = Field(
        "auto",
        description="Host names that the server answers to: comma-separated, *.example.org for all names below it, "
        "* for any. auto: localhost, 127.0.0.1, [::1] and SAM2_HOST itself if that is a loopback address, "
        "otherwise any.",
    )
    api_keys: SecretStr = Field(
        SecretStr(""),
        description="Clients that may call: comma-separated name:key pairs, or the path of a file with lines "
        "name:digest, where digest is the SHA-256 of the key in hex. SIGHUP reloads the file. Empty: any client "
        "that can reach the port.",
    )
    open_metrics: bool = Field(False, description="Serve /metrics without a key.")
    rate_requests_in_flight: int = Field(
        0, ge=0, description="Concurrent requests of one client; more get 429. 0: any number."
    )
    rate_pictures_per_minute: float = Field(
        0.0,
        ge=0,
        allow_inf_nan=False,
        description="Pictures embedded per minute for one client; more get 429. 0: any number.",
    )
    cors_origins: Annotated[str, AfterValidator(check_origins)] = Field(
        "",
        description="Sites whose pages may call from a browser, comma-separated, such as https://tool.example. "
        "*: all sites.",
    )
    doors: Annotated[str, AfterValidator(partial(check_tools, known=DOORS))] = Field(
        "all",
        description="Tools whose own protocols the server speaks, comma-separated: "
        f"{', '.join(DOORS)}; or all, or none.",
    )
    cvat_answer: Literal["shapes", "crop"] = Field(
        "shapes",
        description="Form of the masks for CVAT: shapes; or crop, for releases before spring 2026.",
    )
    label_studio_url: Annotated[str, AfterValidator(check_address)] = Field(
        "",
        description="Address of Label Studio, such as http://label-studio:8080, to fetch its pictures from. Empty: "
        "what Label Studio calls itself, if SAM2_ALLOW_URLS is set and allows that.",
    )
    label_studio_api_key: SecretStr = Field(
        SecretStr(""),
        description="Access token (personal or legacy) of an account of Label Studio; it is sent nowhere else. "
        "Empty: the one that Label Studio sends.",
    )
    allow_urls: bool = Field(False, description='Let /embed fetch pictures given as {"url": "https://..."}.')

    @field_validator("*", mode="before")
    @classmethod
    def _is_bare(cls, value: object) -> object:
        return check_bare(value)

    @property
    def cors_origin_list(self) -> list[str]:
        """The origins in SAM2_CORS_ORIGINS, as browsers write them."""
        return [as_browsers_write(origin) for origin in split(self.cors_origins)]

    @field_validator("label_studio_api_key")
    @classmethod
    def _has_an_address(cls, key: SecretStr, info: ValidationInfo) -> SecretStr:
        if key.get_secret_value() and not info.data.get("label_studio_url"):
            raise ValueError("it is sent to SAM2_LABEL_STUDIO_URL only, which is not set; set it too")
        if not key.get_secret_value().isascii():
            raise ValueError("access tokens have ASCII letters, digits and signs only")
        return key

    @property
    def open_doors(self) -> frozenset[str]:
        """The tools in SAM2_DOORS."""
        whole = {"all": frozenset(DOORS), "none": frozenset[str]()}
        return whole.get(self.doors.strip(), frozenset(split(self.doors)))
