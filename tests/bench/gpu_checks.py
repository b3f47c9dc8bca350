"""Whether the GPU's answers are right: a fast wrong mask is a failure, and nothing is timed then.

Knows nothing of time.
"""

import json
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from model.masks.runs import runs
from model.runner import Sam2Runner, load_runner
from model.types import Embedding, Prediction, Prompt
from tests.bench.gpu_session import Session, Wrong
from tests.bench.traffic import HEIGHT, WIDTH
from tests.bench.weights import golden_state, save_checkpoint
from tests.golden.recipe import image, sample_indices

GOLDEN = Path(__file__).parents[1] / "golden"

GOLDEN_TOLERANCE = {"embedding": 1e-4, "logits": 5e-2, "IoU": 5e-3}
"""Attention of golden weights enlarges rounding ten thousandfold: 4e-7 in the embedding becomes 3e-3 in the logits
on a CPU, from the number of threads alone. So the embedding is held tightly, and the masks by check_precision."""

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
        expected = json.loads(file.read_text())
        checkpoint = save_checkpoint(golden_state(expected["variant"]), session.folder / "golden.safetensors")
        runner = session.runner(expected["variant"], checkpoint=checkpoint, dtype="float32")
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
            found, wanted = runner.decode([(embedding, prompt)])[0], case["expected"]
            sample = wanted["low_res_logits"]["sample"]
            logit_errors.append(_sample_error(case["prompt"]["name"], found.logits.clip(-32, 32), sample))
            iou_errors.append(float(np.abs(found.iou - np.ravel(wanted["iou"])).max()))
        worst = {"embedding": max(errors), "logits": max(logit_errors), "IoU": max(iou_errors)}
        session.add("correct", f"{expected['variant']}, {len(iou_errors)} golden prompts, float32", **worst)
        if any(not worst[name] <= most for name, most in GOLDEN_TOLERANCE.items()):
            raise Wrong(f"{file.name}: {worst}, allowed {GOLDEN_TOLERANCE}")


def check_precision(session: Session) -> None:
    """Masks of the device in float32 and half against float32 on the CPU; weights that draw areas, see discs.py."""
    picture = image("bench 0", WIDTH, HEIGHT)
    prompts = [Prompt(points=(place,), labels=(1,)) for place in PLACES]
    reference = load_runner(session.variant, checkpoint=session.checkpoint, device="cpu", dtype="float32")
    expected = _masks(_answers(reference, reference.encode([picture])[0], prompts))
    for dtype in ("float32", "bfloat16" if session.rehearse else "auto"):
        runner = session.runner(session.variant, checkpoint=session.checkpoint, dtype=dtype)
        found = _masks(_answers(runner, runner.encode([picture])[0], prompts))
        pairs = list(zip(found, expected, strict=True))
        iou = [float((a & b).sum() / max(1, (a | b).sum())) for a, b in pairs]
        share = [float((a != b).mean()) for a, b in pairs]
        session.add(
            "correct",
            f"{runner.dtype_name} against float32 on the CPU, {len(pairs)} structured masks",
            mIoU=float(np.mean(iou)),
            worst_IoU=min(iou),
            pixels=float(np.mean(share)),
            worst_pixels=max(share),
        )
        if not np.mean(iou) >= LEAST_MEAN_IOU[runner.dtype_name]:
            raise Wrong(f"{runner.dtype_name} masks: mean IoU {np.mean(iou):.3f} with float32 on the CPU")


def check_graphs(session: Session, runner: Sam2Runner) -> None:
    """Answers with captured graphs, `runner`'s, against those without; and batches against their singles."""
    eager = session.runner(session.variant, checkpoint=session.checkpoint, dtype="auto", compilation="off")
    pictures = [np.roll(image("bench 0", WIDTH, HEIGHT), 100 * i, axis=1) for i in range(2)]
    embeddings, others = runner.encode(pictures), eager.encode(pictures)
    worst = max(
        _relative(a.float().cpu().numpy(), b.float().cpu().numpy())
        for one, other in zip(embeddings, others, strict=True)
        for a, b in zip(one.maps(), other.maps(), strict=True)
    )
    session.add("correct", "embeddings with graphs against without", error=worst)
    if not worst <= REPLAY_TOLERANCE:
        raise Wrong(f"embeddings with captured graphs differ by {worst:.2g}")
    prompts = _prompts_of_every_kind(
        _answers(runner, embeddings[0], [Prompt(points=(PLACES[0],), labels=(1,))])
    )
    sizes = (1, 3) if session.rehearse else (1, 2, 3, 5, 16, 33, 64)
    alike = [[prompt] * size for prompt in prompts for size in sizes]
    worst = max(
        _worst(_answers(runner, embeddings[0], batch), _answers(eager, others[0], batch)) for batch in alike
    )
    session.add("correct", f"{len(alike)} batches with graphs against without", error=worst)
    if not worst <= REPLAY_TOLERANCE:
        raise Wrong(f"answers with captured graphs differ by {worst:.2g}")
    jobs = [(embeddings[i % 2], prompt) for prompt in prompts for i in range(5)]
    together = runner.decode(jobs)
    worst = _worst(together, [runner.decode([job])[0] for job in jobs])
    session.add("correct", f"{len(jobs)} mixed prompts against one by one", error=worst)
    if not worst <= BATCH_TOLERANCE:
        raise Wrong(f"a mixed batch differs from its singles by {worst:.2g}")


def _prompts_of_every_kind(answers: Sequence[Prediction]) -> list[Prompt]:
    mask = answers[0].logits[0].clip(-32, 32)
    click = {"points": ((500.0, 375.0),), "labels": (1,)}
    return [
        Prompt(**click),  # type: ignore[arg-type]
        Prompt(box=(300.0, 200.0, 700.0, 600.0), multimask_output=False),
        Prompt(points=tuple(PLACES), labels=(1, 0, 1, 1), multimask_output=False),
        Prompt(points=tuple((x + 50, y) for x, y in PLACES * 2), labels=(1,) * 8),
        Prompt(points=tuple((x, y + 10) for x, y in PLACES * 3), labels=(1,) * 12),
        Prompt(**click, mask_logits=mask, multimask_output=False),  # type: ignore[arg-type]
        Prompt(mask_logits=mask),
    ]


def _answers(runner: Sam2Runner, embedding: Embedding, prompts: Sequence[Prompt]) -> list[Prediction]:
    return runner.decode([(embedding, prompt) for prompt in prompts])


def _masks(predictions: Sequence[Prediction]) -> list[np.ndarray]:
    return [runs(logits, height=HEIGHT, width=WIDTH).to_array() for p in predictions for logits in p.logits]


def _worst(found: Sequence[Prediction], expected: Sequence[Prediction]) -> float:
    """The worst relative error of logits, or of IoU."""
    return max(
        max(_relative(f.logits, e.logits), float(np.abs(f.iou - e.iou).max()))
        for f, e in zip(found, expected, strict=True)
    )


def _relative(found: np.ndarray, expected: np.ndarray) -> float:
    return float(np.linalg.norm(found - expected) / np.linalg.norm(expected))


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
