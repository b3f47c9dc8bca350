"""What makes steps of gradients: Muon for the matrices, AdamW for all else, behind the face of one.

Does not know about losses or schedules.
"""

from typing import Any

import torch
from torch import Tensor, nn

from model.devices import resolve_dtype

WEIGHT_DECAY = 0.05
BETAS = (0.9, 0.98)
"""Of AdamW."""

MATRIX_RATE = 2.0
"""Muon's learning rate, in that of AdamW. Both move a weight alike at 1 (`match_rms_adamw`, arXiv 2502.16982), and
orthogonal steps may be larger: after 540 steps from the same weights the loss was 2.32 at 2, 2.40 at 5, and 2.50
with AdamW alone."""


class Optimiser:
    """Muon for matrices of weights, which learned more per second than AdamW for all; AdamW for the rest.

    Parameters that need no gradient stay as they are.

    (Jordan et al., "Muon: An optimizer for hidden layers in neural networks", 2024.)
    """

    def __init__(self, network: nn.Module) -> None:
        matrices: list[Tensor] = []
        others: dict[bool, list[Tensor]] = {True: [], False: []}
        for name, parameter in network.named_parameters():
            if not parameter.requires_grad:
                continue
            decaying = decays(name, parameter)
            line = matrices if decaying and parameter.ndim == 2 else others[decaying]
            line.append(parameter)
        emulates = resolve_dtype("auto", matrices[0].device) == torch.float32
        self._muon = (Float32Muon if emulates else torch.optim.Muon)(
            matrices, lr=0.0, weight_decay=WEIGHT_DECAY, adjust_lr_fn="match_rms_adamw"
        )
        self._adamw = torch.optim.AdamW(
            [
                {"params": others[True], "weight_decay": WEIGHT_DECAY},
                {"params": others[False], "weight_decay": 0.0},
            ],
            lr=0.0,
            betas=BETAS,
            fused=True,
        )

    def step(self, rate: float) -> None:
        """Move the weights against their gradients, which are zero afterwards; `rate` is AdamW's."""
        for optimiser, its_rate in ((self._muon, MATRIX_RATE * rate), (self._adamw, rate)):
            for group in optimiser.param_groups:
                group["lr"] = its_rate
            optimiser.step()  # type: ignore[no-untyped-call]
            optimiser.zero_grad(set_to_none=False)  # memory that the next step needs again

    def state_dict(self) -> dict[str, Any]:
        """All that later steps depend on."""
        return {"muon": self._muon.state_dict(), "adamw": self._adamw.state_dict()}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on from a `state_dict`."""
        self._muon.load_state_dict(state["muon"])
        self._adamw.load_state_dict(state["adamw"])


class Float32Muon(torch.optim.Muon):
    """torch's Muon, with its products in float32.

    torch's are in bfloat16. Where a CPU emulates that, a step of the built-in model took 70 s.
    """

    @torch.no_grad()
    def step(self) -> None:  # type: ignore[override]
        """Move all matrices that have a gradient."""
        for group in self.param_groups:
            for matrix in group["params"]:
                if matrix.grad is None:
                    continue
                state = self.state[matrix]
                if "momentum_buffer" not in state:
                    state["momentum_buffer"] = torch.zeros_like(matrix.grad)
                momentum = state["momentum_buffer"].lerp_(matrix.grad, 1 - group["momentum"])
                update = matrix.grad.lerp(momentum, group["momentum"])  # Nesterov's
                rate = group["lr"] * 0.2 * max(matrix.shape) ** 0.5  # match_rms_adamw
                matrix.mul_(1 - group["lr"] * group["weight_decay"])
                matrix.sub_(_orthogonal(update, group["ns_coefficients"], group["ns_steps"]), alpha=rate)


def _orthogonal(matrix: Tensor, coefficients: tuple[float, float, float], steps: int) -> Tensor:
    """About the nearest orthogonal matrix, by Newton and Schulz's iteration."""
    a, b, c = coefficients
    x = matrix.T if matrix.shape[0] > matrix.shape[1] else matrix  # the smaller products
    x = x / x.norm().clamp(min=1e-7)
    for _ in range(steps):
        gram = x @ x.T
        x = torch.addmm(x, torch.addmm(gram, gram, gram, beta=b, alpha=c), x, beta=a)
    return x.T if matrix.shape[0] > matrix.shape[1] else x


def decays(name: str, parameter: Tensor) -> bool:
    """Whether weight decay applies: to matrices and kernels; not to gains, biases, embeddings and tokens."""
    is_embedding = any(
        word in name
        for word in ("pos_embed", "_embed.", "no_mem_embed", "embeddings", "_token.weight", "tokens.weight")
    )
    return parameter.ndim >= 2 and not is_embedding
