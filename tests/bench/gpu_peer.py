"""transformers' Sam2Model on the same GPU, with the same weights, in the same precision, where it is installed.

Does not know about HTTP.
"""

from functools import partial
from statistics import median

import numpy as np
import torch
from safetensors.torch import load_file

from tests.bench.discs import disc_state
from tests.bench.gpu_session import CLICK, SIDE, Session, pictures
from tests.bench.gpu_times import answers
from tests.bench.weights import VARIANT, save_checkpoint

PEER = "transformers"


def time_transformers(session: Session) -> None:
    """Encode, a click, a full batch, eager as transformers comes."""
    try:
        from tests.bench.peer_transformers import Transformers
    except ImportError as error:
        session.results.note("said", f"transformers: left out, {error}")
        return
    runner, variant, checkpoint = session.timed, session.variant, session.checkpoint
    if session.rehearse:  # transformers knows pictures of 1024 pixels only
        variant = VARIANT
        checkpoint = save_checkpoint(disc_state(variant), session.folder / "peer.safetensors")
        runner = session.runner(variant, checkpoint=checkpoint, dtype="float32")
    picture = pictures(1)[0]
    dtype = getattr(torch, runner.dtype_name)
    peer = Transformers(
        load_file(checkpoint), [picture], name=PEER, dtype=dtype, variant=variant, device=session.device
    )
    (embedding,) = runner.encode([picture])
    peer.take([embedding.to_arrays(np.float32)])
    theirs, ours = peer.decode(0, [CLICK])[0], runner.decode([(embedding, CLICK)])[0]
    pairs = zip(theirs.logits > 0, ours.logits > 0, strict=True)
    iou = [float((a & b).sum() / max(1, (a | b).sum())) for a, b in pairs]
    # Ours are checked against float32 elsewhere; this is to see that both do the same work.
    session.add("agreement", "masks of transformers with ours", mIoU=float(np.mean(iou)))
    crowd = [CLICK] * session.most_prompts
    jobs = [(embedding, prompt) for prompt in crowd]
    cases = {
        "one picture": (partial(peer.encode, picture), partial(runner.encode, [picture])),
        "one click": (partial(peer.decode, 0, [CLICK]), partial(runner.decode, jobs[:1])),
        "one click with RLE": (partial(peer.answer, 0, [CLICK]), partial(answers, runner, jobs[:1])),
        "a full batch of clicks": (partial(peer.decode, 0, crowd), partial(runner.decode, jobs)),
    }
    for case, (their_call, our_call) in cases.items():
        their_seconds, our_seconds = session.times(their_call, seconds=3), session.times(our_call, seconds=3)
        session.add_times("against transformers", case, their_seconds, side=PEER)
        ratio = {f"vs {PEER}": median(our_seconds) / median(their_seconds)}
        session.add_times("against transformers", case, our_seconds, side=SIDE, **ratio)
