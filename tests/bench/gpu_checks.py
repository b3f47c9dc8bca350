"""Whether the GPU's answers are right: a fast wrong mask is a failure. A wrong one is noted, and the run goes on.

Does not know about time.
"""

import json
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np

from model.masks.runs import runs
from model.runner import Sam2Runner, load_runner
from model.types import Embedding, Prediction, Prompt
from tests.bench.gpu_session import CLICK, Session, decoded
from tests.bench.traffic import HEIGHT, WIDTH
from tests.bench.weights import golden_state, save_checkpoint
from tests.golden.recipe import image, sample_indices

GOLDEN = Path(__file__).parents[1] / "golden"

GOLDEN_TOLERANCE = {"embedding": 1e-4, "logits": 0.3, "IoU": 5e-2}
"""Attention of golden weights enlarges rounding ten thousandfold: an embedding that is off by 1e-5 gives logits
that are off by 6e-2. So the embedding is held tightly, of masks only that they are not others, and the rest is held
by check_precision and by the built-in model."""

REPLAY_TOLERANCE = 1e-3
"""Captured graphs replay the kernels that ran without them."""

BATCH_TOLERANCE = 5e-2
"""Other batch sizes are other kernels, in half precision."""

LEAST_MEAN_IOU = {"float32": 0.998, "bfloat16": 0.97, "float16": 0.97}
"""Of structured masks, with those of float32 on the CPU."""

PLACES = [(500.0, 375.0), (900.0, 700.0), (1500.0, 300.0), (300.0, 900.0)]


def check_goldens(session: Session) -> None:
    """Embedding, logits and IoU of the golden clicks and boxes against Meta's own numbers, in full float32."""
    files = sorted(GOLDEN.glob("sam2*.json"))
    for file in files[:1] if session.rehearse else files:
        with session.part(file.name):
            _check_golden(session, json.loads(file.read_text()))


def _check_golden(session: Session, expected: dict) -> None:
    variant = expected["variant"]
    checkpoint = save_checkpoint(golden_state(variant), session.folder / "golden.safetensors")
    runner = session.runner(variant, checkpoint=checkpoint, dtype="float32")
    embedding = runner.encode([image(**expected["image"])])[0]
    arrays = embedding.to_arrays(np.float32)
    names = {"image_embed": "image_embed", "feat_s0": "high_res_feats_0", "feat_s1": "high_res_feats_1"}
    errors = [
        _sample_error(name, arrays[array], expected["embedding"][name]["sample"])
        for name, array in names.items()
    ]
    logit_errors, iou_errors = [], []
    for case in expected["cases"]:
        if (prompt := _lone_prompt(case["prompt"])) is None:
            continue
        name, wanted = case["prompt"]["name"], case["expected"]
        differences = [
            (
                _sample_error(name, found.logits.clip(-32, 32), wanted["low_res_logits"]["sample"]),
                float(np.abs(found.iou - np.ravel(wanted["iou"])).max()),
            )
            for found in _choices(runner, embedding, prompt)
        ]
        logit_error, iou_error = min(differences)
        logit_errors.append(logit_error)
        iou_errors.append(iou_error)
    worst = {"embedding": max(errors), "logits": max(logit_errors), "IoU": max(iou_errors)}
    session.add("correct", f"{variant}, {len(iou_errors)} golden prompts, float32", **worst)
    if any(not worst[name] <= most for name, most in GOLDEN_TOLERANCE.items()):
        session.wrong(f"{variant}: {worst}, allowed {GOLDEN_TOLERANCE}")


def _choices(runner: Sam2Runner, embedding: Embedding, prompt: Prompt) -> list[Prediction]:
    """The answer; where a single mask is asked for, also the three that rounding may let it be instead."""
    (answer,) = decoded(runner, embedding, [prompt])
    if prompt.multimask_output:
        return [answer]
    (three,) = decoded(runner, embedding, [replace(prompt, multimask_output=True)])
    return [answer] + [replace(three, logits=three.logits[i, None], iou=three.iou[i, None]) for i in range(3)]


def check_precision(session: Session) -> None:
    """Masks of the device in float32 and half against float32 on the CPU; weights that draw areas, see discs.py."""
    picture = image("bench 0", WIDTH, HEIGHT)
    prompts = [Prompt(points=(place,), labels=(1,)) for place in PLACES]
    reference = load_runner(session.variant, checkpoint=session.checkpoint, device="cpu", dtype="float32")
    expected = _masks(decoded(reference, reference.encode([picture])[0], prompts))
    for dtype in ("float32", "bfloat16" if session.rehearse else "auto"):
        with session.part(dtype):
            runner = session.runner(session.variant, checkpoint=session.checkpoint, dtype=dtype)
            found = _masks(decoded(runner, runner.encode([picture])[0], prompts))
            case = f"{runner.dtype_name} against float32 on the CPU, {len(found)} structured masks"
            compare_masks(session, case, found, expected, least=LEAST_MEAN_IOU[runner.dtype_name])
            del runner
            session.tidy()


def compare_masks(
    session: Session,
    case: str,
    found: Sequence[np.ndarray],
    expected: Sequence[np.ndarray],
    *,
    least: float = 0.0,
) -> None:
    """A row of how far masks at full size differ; wrong where their mean IoU is under `least`."""
    pairs = list(zip(found, expected, strict=True))
    iou = [float((a & b).sum() / max(1, (a | b).sum())) for a, b in pairs]
    share = [float((a != b).mean()) for a, b in pairs]
    mean = float(np.mean(iou))
    values = {
        "mIoU": mean,
        "worst_IoU": min(iou),
        "pixels": float(np.mean(share)),
        "worst_pixels": max(share),
    }
    session.add("correct", case, **values)
    if not mean >= least:
        session.wrong(f"{case}: mean IoU {mean:.3f}, at least {least} is wanted")


def check_graphs(session: Session) -> None:
    """Answers with captured graphs against those without; and batches against their singles."""
    runner = session.timed
    eager = session.runner(session.variant, checkpoint=session.checkpoint, dtype="auto", compilation="off")
    pictures = [np.roll(image("bench 0", WIDTH, HEIGHT), 100 * i, axis=1) for i in range(2)]
    embeddings, others = runner.encode(pictures), eager.encode(pictures)
    worst = max(
        relative(a.float().cpu().numpy(), b.float().cpu().numpy())
        for one, other in zip(embeddings, others, strict=True)
        for a, b in zip(one.maps(), other.maps(), strict=True)
    )
    _hold(session, "embeddings with graphs against without", worst, REPLAY_TOLERANCE)
    prompts = prompts_of_every_kind(decoded(runner, embeddings[0], [CLICK])[0])
    sizes = (1, 3) if session.rehearse else (1, 2, 3, 5, 16, 33, 64)
    alike = [[prompt] * size for prompt in prompts for size in sizes]
    worst = max(
        worst_difference(decoded(runner, embeddings[0], batch), decoded(eager, others[0], batch))
        for batch in alike
    )
    _hold(session, f"{len(alike)} batches with graphs against without", worst, REPLAY_TOLERANCE)
    # Of single masks the network chooses one by a threshold, and rounding may choose for it.
    several = [replace(prompt, multimask_output=True) for prompt in prompts]
    jobs = [(embeddings[i % 2], prompt) for prompt in several for i in range(5)]
    worst = worst_difference(runner.decode(jobs), [runner.decode([job])[0] for job in jobs])
    _hold(session, f"{len(jobs)} mixed prompts against one by one", worst, BATCH_TOLERANCE)


def _hold(session: Session, case: str, error: float, most: float) -> None:
    session.add("correct", case, error=error)
    if not error <= most:
        session.wrong(f"{case}: they differ by {error:.2g}, allowed {most}")


def prompts_of_every_kind(answer: Prediction) -> list[Prompt]:
    """Clicks, few and many, a box, masks; `answer` is one whose first mask may be refined."""
    mask = answer.logits[0].clip(-32, 32)
    return [
        CLICK,
        Prompt(box=(300.0, 200.0, 700.0, 600.0), multimask_output=False),
        Prompt(points=tuple(PLACES), labels=(1, 0, 1, 1), multimask_output=False),
        Prompt(points=tuple((x + 50, y) for x, y in PLACES * 2), labels=(1,) * 8),
        Prompt(points=tuple((x, y + 10) for x, y in PLACES * 3), labels=(1,) * 12),
        replace(CLICK, mask_logits=mask, multimask_output=False),
        Prompt(mask_logits=mask),
    ]


def worst_difference(found: Sequence[Prediction], expected: Sequence[Prediction]) -> float:
    """The worst relative error of logits, or of IoU."""
    return max(
        max(relative(f.logits, e.logits), float(np.abs(f.iou - e.iou).max()))
        for f, e in zip(found, expected, strict=True)
    )


def relative(found: np.ndarray, expected: np.ndarray) -> float:
    """The norm of the difference over the norm."""
    return float(np.linalg.norm(found - expected) / np.linalg.norm(expected))


def _masks(predictions: Sequence[Prediction]) -> list[np.ndarray]:
    return [runs(logits, height=HEIGHT, width=WIDTH).to_array() for p in predictions for logits in p.logits]


def _lone_prompt(case: dict) -> Prompt | None:
    """The prompt of a golden case; None for several prompts at once and for masks of an earlier answer."""
    points, box = case.get("points", []), case.get("box")
    several = (points and isinstance(points[0][0], list)) or (box and isinstance(box[0], list))
    if several or "mask_from" in case:
        return None
    return Prompt(
        points=tuple((x, y) for x, y in points),
        labels=tuple(case.get("labels", [])),
        box=box,
        multimask_output=case["multimask_output"],
    )


def _sample_error(name: str, found: np.ndarray, expected: list[float]) -> float:
    """Relative error at the places that a golden file lists."""
    sample = found.ravel()[sample_indices(name, found.size, len(expected))].astype(np.float64)
    return float(np.linalg.norm(sample - expected) / np.linalg.norm(expected))
