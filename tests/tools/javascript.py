"""The JavaScript client for those who check types: its own modules, and the package as npm packs it.

Needs npm, and Python's standard library alone. Does not run the client; tests/page does.
"""

import json
import shutil
import subprocess
import sys
import tarfile
import tempfile
from pathlib import Path

ROOT = Path(__file__).parents[2]
CLIENT = ROOT / "client" / "js"
PACKAGE = json.loads((CLIENT / "package.json").read_text())
TYPESCRIPT = f"typescript@{PACKAGE['devDependencies']['typescript']}"

RIGHT = """
import { ApiError, Client, Mask, Track, Video, type Prompt, type TrackedFrame } from "sam2-client";

const client = new Client(new URL("https://sam2.example.com/"), { key: () => "secret", retries: 2 });

export async function clicked(file: File, signal: AbortSignal): Promise<ImageData | null> {
  const picture = await client.embed(file, { signal, onProgress: (share: number) => void share });
  const prompt: Prompt = { points: [[1, 2]], labels: [1], box: [0, 0, 9, 9], multimask: false };
  const [mask]: Mask[] = await picture.decode(prompt, { deadlineS: 5 });
  const closer = await picture.closer(mask, { margin: 2, signal });
  const region: [number, number, number, number] | null = closer.region;
  await (await closer.closer(region ?? [0, 0, 9, 9])).click([5, 6]);
  const hover = client.hover();
  const masks: Mask[] | null = await hover.click(picture, [3, 4]);
  const path: Path2D | undefined = masks?.[0].toPath2D({ smooth: false });
  try {
    await picture.decode({ mask, points: [[5, 6]] });
  } catch (error) {
    if (error instanceof ApiError && error.status === 404 && error.code === "image_not_found") return null;
    throw error;
  }
  return path ? mask.toImageData({ colour: "#ff0000" }) : null;
}

export async function followed(file: File, signal: AbortSignal): Promise<[number, string][]> {
  const video: Video = await client.video(file, { fps: 12, onProgress: (share: number) => void share, signal });
  const track: Track = await client.track(video, { trackId: "walk", corrections: "kept" });
  const first: TrackedFrame = await track.click([500, 375], { frame: 0, object: 1, label: 1 });
  await track.prompt({ box: [0, 0, 9, 9] }, { frame: 1, clear: true, nonOverlapping: true, maxHoleArea: 4 });
  const found: [number, string][] = first.objects.map(({ object, mask }) => [object, mask?.rle.counts ?? ""]);
  for await (const { frame, objects, error } of track.propagate({ from: 0, direction: "both", signal }))
    if (!error && objects.every(({ visible }) => visible)) found.push([frame, objects[0].mask?.rle.counts ?? ""]);
  const dropped: string | null = await track.clearPrompts({ frame: 1, object: 1 });
  const blob: Blob = await video.frame(3, { type: "image/png" });
  await (await client.track([await client.embed(blob), "another"])).delete();
  return dropped ? [] : found;
}
"""
SHORT = (
    f'import {{ Client }} from "{PACKAGE["name"]}"; const client = new Client("https://sam2.example.com");\n'
    'const picture = await client.open("a");\n'
)
WRONG = {
    "a point without y": "await picture.click([1]);",
    "an unknown option": "await picture.click([1, 2], { signl: null });",
    "an unknown field of a prompt": "await picture.decode({ point: [1, 2] });",
    "a box without y1": "await picture.closer([1, 2, 3]);",
    "the masks of a hover that may be null": "(await client.hover().click(picture, [1, 2])).length;",
    "a prompt of a track without a frame": "await (await client.track(['a'])).click([1, 2], { object: 1 });",
    "a way that is not there": "(await client.openTrack('a')).propagate({ direction: 'up' });",
    "a key that is a number": "new Client('https://sam2.example.com', { key: 7 });",
}
CONFIGURATION = {
    "compilerOptions": {
        "strict": True,
        "noEmit": True,
        "target": "es2022",
        "module": "nodenext",
        "lib": ["es2023", "dom"],
        "types": [],
    },
    "include": ["tool.ts"],
}


def installed() -> Path:
    """Return the folder with TypeScript's commands, installed once into .tools/javascript."""
    folder = ROOT / ".tools" / "javascript" / TYPESCRIPT
    commands = folder / "node_modules" / ".bin"
    if not (commands / "tsc").exists():
        folder.mkdir(parents=True, exist_ok=True)
        quietly = ["--silent", "--no-audit", "--no-fund", "--ignore-scripts"]
        subprocess.run(["npm", "install", *quietly, "--prefix", folder, TYPESCRIPT], check=True)
    return commands


def checked(what: str, tsc: Path, project: Path, *, wrong: bool = False) -> bool:
    """Check the types of a project, and print the result. Returns whether it is as expected."""
    done = subprocess.run(
        [tsc, "--project", project], cwd=project, capture_output=True, text=True, check=False
    )
    as_expected = (done.returncode != 0) == wrong
    print(f"{'ok    ' if as_expected else 'FAILED'} {what}", flush=True)
    if not as_expected:
        print(done.stdout + done.stderr, end="")
    return as_expected


def packed(folder: Path, commands: Path) -> Path:
    """Return the folder of the package, unpacked from what `npm pack` writes."""
    copy = folder / "copy"
    shutil.copytree(CLIENT, copy, ignore=shutil.ignore_patterns("node_modules", "types"))
    (copy / "node_modules").symlink_to(commands.parent)
    pack = ["npm", "pack", "--silent", "--pack-destination", folder]
    subprocess.run(pack, cwd=copy, stdout=subprocess.DEVNULL, check=True)
    (archive,) = folder.glob("*.tgz")
    with tarfile.open(archive) as files:
        files.extractall(folder, filter="data")
    return folder / "package"


def main() -> None:
    """Check the modules, the package's files, and programs that use it."""
    if shutil.which("npm") is None:
        sys.exit("npm is needed: https://nodejs.org")
    commands = installed()
    tsc = commands / "tsc"
    print(TYPESCRIPT)
    results = [checked("the client's modules, strictly", tsc, CLIENT)]
    with tempfile.TemporaryDirectory() as name:
        package = packed(Path(name), commands)
        files = {path.relative_to(package).as_posix() for path in package.rglob("*") if path.is_file()}
        modules = {path.name for path in CLIENT.glob("*.js")}
        types = {f"types/{module.removesuffix('.js')}.d.ts" for module in modules}
        complete = files == modules | types | {"package.json", "README.md", "LICENSE"}
        print(
            f"{'ok    ' if complete else 'FAILED'} the package: modules, types, README, LICENSE, and no more"
        )
        results.append(complete)
        user = Path(name) / "user"
        (user / "node_modules").mkdir(parents=True)
        package.rename(user / "node_modules" / PACKAGE["name"])
        (user / "package.json").write_text('{"type": "module"}')
        (user / "tsconfig.json").write_text(json.dumps(CONFIGURATION))
        (user / "tool.ts").write_text(RIGHT)
        results.append(checked("a program in TypeScript that uses it", tsc, user))
        (user / "tool.ts").write_text(f"{SHORT}await picture.click([1, 2]);")
        results.append(checked("a short one", tsc, user))
        for what, line in WRONG.items():
            (user / "tool.ts").write_text(SHORT + line)
            results.append(checked(f"refused: {what}", tsc, user, wrong=True))
    if not all(results):
        sys.exit(1)


if __name__ == "__main__":
    main()
