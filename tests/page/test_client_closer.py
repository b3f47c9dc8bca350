"""A closer look by the JavaScript client: what is uploaded, and prompts and masks that stay the whole picture's."""

import base64
import hashlib
import io
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from PIL import Image, ImageCms, PngImagePlugin
from pycocotools import mask as coco_mask

from app.codecs.images import decode_image
from tests.fakes import MASK_SIDE, RADII, disc_mask
from tests.page.conftest import PageServer
from tests.page.test_client_masks import wire
from tests.page.web_tools import WebTool

WIDTH, HEIGHT = 400, 300
REGION = (120, 70, 200, 150)
"""Around a box of 50 x 40 pixels."""
BOX = [135, 90, 185, 130]
NOISE = np.random.default_rng(7).integers(0, 256, (HEIGHT, WIDTH, 3), np.uint8)

Run = Callable[..., Any]


def encoded(pixels: np.ndarray, kind: str = "PNG", mode: str | None = None, **options: Any) -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(pixels, mode).save(buffer, kind, **options)
    return buffer.getvalue()


@pytest.fixture
def run(tool: WebTool) -> Run:
    """Run a script with an embedded `picture`. BOX is `box`; `sent` lists the files that are sent from then on."""

    def run(script: str, *arguments: Any, file: bytes = b"", options: str = "{}") -> Any:
        file = file or encoded(NOISE)
        prelude = f"""const file = new Blob([Uint8Array.from(atob(given.shift()), (c) => c.charCodeAt(0))]);
          const picture = await client.embed(file, {options}), box = {BOX}, sent = [], real = window.fetch;
          window.fetch = (url, request) => {{
            if (request.body instanceof Blob) sent.push(request.body);
            return real(url, request);
          }};
          const bytes = async (blob) => {{
            let text = "";
            for (const byte of new Uint8Array(await blob.arrayBuffer())) text += String.fromCharCode(byte);
            return btoa(text);
          }};
          {script}"""
        return tool.run(prelude, base64.b64encode(file).decode(), *arguments)

    return run


def placed(part: np.ndarray) -> np.ndarray:
    x0, y0, x1, y1 = REGION
    whole = np.zeros((HEIGHT, WIDTH), bool)
    whole[y0:y1, x0:x1] = part
    return whole


def found_at(x: float, y: float, radius: float = RADII[2]) -> np.ndarray:
    """The mask of a click (x, y) of the whole picture, decoded on the part."""
    x0, y0, x1, y1 = REGION
    return placed(disc_mask(x - x0, y - y0, radius, height=y1 - y0, width=x1 - x0))


def pixels_of(mask: dict[str, Any]) -> np.ndarray:
    return np.asarray(coco_mask.decode(mask["rle"]), bool)


UPLOADED = """const [x0, y0, x1, y1] = given, closer = await picture.closer([x0, y0, x1, y1], { margin: 1 });
  return { png: await bytes(sent[0]), sent: sent.length, id: closer.imageId, region: closer.region,
    whole: picture.region, size: [closer.width, closer.height] };"""


def test_the_part_is_uploaded_without_loss(run: Run) -> None:
    x0, y0, x1, y1 = REGION
    reply = run(UPLOADED, *REGION)
    data = base64.b64decode(reply["png"])
    assert np.array_equal(np.array(Image.open(io.BytesIO(data)).convert("RGB")), NOISE[y0:y1, x0:x1])
    assert reply["id"] == hashlib.sha256(data).hexdigest()
    assert (reply["region"], reply["whole"]) == (list(REGION), None)
    assert (reply["size"], reply["sent"]) == ([WIDTH, HEIGHT], 1)


def blurred(channels: int) -> np.ndarray:
    """Soft colours, which two decoders of JPEG read alike."""
    ramp = np.linspace(0, 255, WIDTH * HEIGHT).reshape(HEIGHT, WIDTH)
    waves = [127 + 100 * np.sin(ramp / (9 + each)) for each in range(channels)]
    return np.stack(waves, -1).astype(np.uint8)


def wide_gamut() -> bytes:
    """A colour profile by which a browser would change every colour: red and blue in each other's place."""
    data = bytearray(ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes())
    red, blue = data.index(b"rXYZ"), data.index(b"bXYZ")
    data[red : red + 4], data[blue : blue + 4] = b"bXYZ", b"rXYZ"
    return bytes(data)


TURNED = Image.Exif()
TURNED[0x0112] = 6
LINEAR = PngImagePlugin.PngInfo()
LINEAR.add(b"gAMA", (100_000).to_bytes(4, "big"))
FILES = {
    "transparent": encoded(blurred(4)),
    "profile": encoded(blurred(3), icc_profile=wide_gamut()),
    "gamma": encoded(blurred(3), pnginfo=LINEAR),
    "turned": encoded(blurred(3), "JPEG", quality=90, exif=TURNED.tobytes()),
    "cmyk": encoded(np.array(Image.fromarray(blurred(3)).convert("CMYK")), "JPEG", mode="CMYK"),
    "grey": encoded(blurred(1)[..., 0]),
    "palette": encoded(blurred(1)[..., 0], "GIF", transparency=3),
    "webp": encoded(blurred(3), "WEBP", lossless=True),
}


def test_the_part_has_the_pixels_that_the_server_sees(run: Run) -> None:
    x0, y0, x1, y1 = region = (100, 120, 220, 240)
    parts = run(
        """const [region, ...texts] = given, pictures = [];
        for (const text of texts) {
          const picture = await client.embed(new Blob([Uint8Array.from(atob(text), (c) => c.charCodeAt(0))]));
          await picture.closer(region, { margin: 1 });
          pictures.push(await bytes(sent.at(-1)));
        }
        return pictures;""",
        region,
        *(base64.b64encode(file).decode() for file in FILES.values()),
    )
    for (name, file), part in zip(FILES.items(), parts, strict=True):
        seen = decode_image(file, max_pixels=10**6)[y0:y1, x0:x1].astype(int)
        differ = np.abs(seen - decode_image(base64.b64decode(part), max_pixels=10**6)).max()
        assert differ <= (1 if name == "transparent" else 0), name


def test_prompts_and_masks_are_those_of_the_whole_picture(run: Run, tool_server: PageServer) -> None:
    masks = run("return (await picture.closer(box)).click([160, 110]);")
    best, *others = masks
    assert np.array_equal(pixels_of(best), found_at(160, 110))
    assert best["bbox"] == coco_mask.toBbox(best["rle"]).tolist()
    assert best["area"] == pixels_of(best).sum()
    assert (best["region"], best["size"]) == (list(REGION), {"width": WIDTH, "height": HEIGHT})
    assert len(others) == 2
    run(
        """const prompt = { points: [[160, 110], [125.5, 71]], labels: [1, 0], box };
        await (await picture.closer(box)).decode(prompt);"""
    )
    (sent,) = tool_server.segmenter.decoded[-1]
    assert (sent.points, sent.labels) == (((40, 40), (5.5, 1)), (1, 0))
    assert sent.box == (15, 20, 65, 60)


def test_previews_of_a_part_are_those_of_the_whole_picture(run: Run) -> None:
    script = """const hover = client.hover(), masks = await hover.click(await picture.closer(box), [160, 110]);
    hover.close();
    return masks[0];"""
    assert np.array_equal(pixels_of(run(script)), found_at(160, 110))


def test_an_empty_mask_stays_at_zero(run: Run) -> None:
    nothing = wire(np.zeros((HEIGHT, WIDTH), bool))["rle"]
    (empty,) = run(
        "return (await picture.closer(box)).decode({ mask: given[0], multimask: false });", nothing
    )
    assert (empty["area"], empty["bbox"], empty["rle"]) == (0, [0, 0, 0, 0], nothing)


def test_logits_are_sent_for_the_same_part_alone(run: Run, tool_server: PageServer) -> None:
    """Otherwise the mask itself, cut or as a whole: logits of another part would be another shape."""
    areas = run(
        """const closer = await picture.closer(box), points = [[160, 110], [150, 100]];
        const [whole] = await picture.click([160, 110]), [best] = await closer.click([160, 110]);
        await closer.decode({ points, mask: best });
        await (await picture.closer(box)).decode({ points, mask: best });
        await closer.decode({ points, mask: whole });
        await picture.decode({ points, mask: best });
        return [whole.area, best.area];"""
    )
    x0, y0, x1, y1 = REGION
    sent = [batch[0].mask_logits for batch in tool_server.segmenter.decoded]
    own, again, cut, as_whole = sent[-4:]
    assert all(each is not None for each in (own, again, cut, as_whole))
    assert len(np.unique(own)) > 2
    assert np.array_equal(own, again)
    whole = disc_mask(160, 110, RADII[2], height=HEIGHT, width=WIDTH)
    places = [((np.arange(MASK_SIDE) + 0.5) / MASK_SIDE * side).astype(int) for side in (y1 - y0, x1 - x0)]
    inside = whole[y0:y1, x0:x1][np.ix_(*places)]
    assert whole.sum() == areas[0]
    assert np.mean((cut > 0) == inside) > 0.97
    assert (as_whole > 0).mean() == pytest.approx(areas[1] / (WIDTH * HEIGHT), rel=0.2)


def test_it_is_embedded_again_where_the_server_has_evicted_it(run: Run, tool: WebTool) -> None:
    evicted = f"await real('{tool.url}images/' + closer.imageId, {{ method: 'DELETE' }});"
    best, sent = run(
        f"""const closer = await picture.closer(box); {evicted}
        return [(await closer.click([160, 110]))[0], sent.length];"""
    )
    assert np.array_equal(pixels_of(best), found_at(160, 110))
    assert sent == 2


def test_what_is_looked_at(run: Run) -> None:
    """As in the client for Python."""
    boxes: list[tuple[list[float], float, tuple[int, ...] | None]] = [
        ([0, 0, 10, 20], 1.6, (0, 0, 64, 64)),
        ([380, 290, 400, 300], 1.6, (336, 236, 400, 300)),
        ([-50, 100, 100, 120], 1.0, (0, 60, 100, 160)),
        ([10, 10, 90, 290], 1.2, None),
        ([100, 140, 300, 150], 1.0, (100, 45, 300, 245)),
        ([100.4, 100.2, 200.6, 110.5], 1.0, (100, 55, 201, 156)),
    ]
    mask = np.zeros((HEIGHT, WIDTH), bool)
    mask[90:130, 135:185] = True
    around, again, nearer, self, sent, *regions = run(
        """const [wire, boxes] = given;
        const around = (await picture.closer(new Mask(wire))).region;
        const again = await picture.closer(around, { margin: 1 });
        const nearer = (await (await picture.closer([100, 60, 200, 160])).closer(box)).region;
        const count = sent.length, self = await picture.closer([20, 20, 380, 280]) === picture;
        const all = [around, again.region, nearer, self, sent.length - count];
        for (const [box, margin] of boxes) all.push((await picture.closer(box, { margin })).region);
        return all;""",
        wire(mask),
        [list(each[:2]) for each in boxes],
    )
    assert around == again == nearer == list(REGION)
    assert (self, sent) == (True, 0)
    assert [each and tuple(each) for each in regions] == [region for *_, region in boxes]


REFUSED = {
    "picture.closer(new Mask(empty))": "The mask is empty",
    "picture.closer(new Mask(small))": "The mask has 5 x 4 pixels, but the picture has 400 x 300",
    "picture.closer([1, 2, 3])": "The box is [1,2,3], but must be [x0, y0, x1, y1]",
    "picture.closer(undefined)": "The box is undefined, but must be [x0, y0, x1, y1]",
    "picture.closer([20, 20, 10, 30])": "x0 < x1",
    "picture.closer([0, 0, 1, NaN])": "must be [x0, y0, x1, y1]",
    "picture.closer([500, 20, 510, 30])": "outside the picture of 400 x 300",
    "picture.closer(box, { margin: 0.5 })": "margin is 0.5",
    "picture.closer(box, { margin: Infinity })": "margin is Infinity",
    "closer.click([300, 110])": "A click at (300, 110) is outside the part that is looked at, x 120..200",
    "closer.decode({ box: [100, 90, 150, 120] })": "A corner of the box at (100, 90) is outside",
    "client.hover().click(closer, [0, 0])": "A click at (0, 0) is outside",
    "closer.decode({ mask: small.rle })": "The mask has 5 x 4 pixels",
    "(await client.open(picture.imageId)).closer(box)": "known here by its id alone",
    "client.track([picture, closer])": "Frame 1 is a part of a picture",
}


def test_what_cannot_be_looked_at_is_refused(run: Run) -> None:
    calls = "".join(f"said.push((await caught({call})).message);" for call in REFUSED)
    empty, small = wire(np.zeros((HEIGHT, WIDTH), bool)), wire(np.ones((4, 5), bool))
    script = (
        f"const [empty, small] = given, said = [], closer = await picture.closer(box); {calls} return said;"
    )
    for expected, message in zip(REFUSED.values(), run(script, empty, small), strict=True):
        assert expected in message


DEEP = np.zeros((HEIGHT, WIDTH), np.uint16)
DEEP[90:130] = 900


@pytest.mark.parametrize(
    ("file", "options", "what"),
    [
        (encoded(DEEP), "{}", "16 bits a channel"),
        (encoded(NOISE), '{ stretch: "none" }', 'embedded with stretch "none"'),
        (encoded(NOISE, "TIFF"), "{}", "cannot be read here"),
    ],
)
def test_a_picture_that_the_browser_reads_otherwise_is_refused(
    run: Run, file: bytes, options: str, what: str
) -> None:
    assert what in run("return caught(picture.closer(box));", file=file, options=options)["message"]


def test_a_file_of_another_size_is_refused(run: Run) -> None:
    message = run("picture.width = 300; return caught(picture.closer(box));")["message"]
    assert message.startswith("The picture has 400 x 300 pixels here, and 300 x 300 for the server")


def test_an_abort_ends_it(run: Run) -> None:
    error = run("return caught(picture.closer(box, { signal: AbortSignal.abort() }));")
    assert error["name"] == "AbortError"
