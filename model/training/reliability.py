"""How far predicted IoUs can be believed: bins of what the model says against what is true.

Does not know where estimates come from. (Guo et al., "On calibration of modern neural networks", 2017.)
"""

from collections.abc import Iterable
from dataclasses import dataclass
from itertools import pairwise

import numpy as np

from model.training.sessions import Estimate

EDGES = (0.5, 0.6, 0.7, 0.8, 0.9)
"""Between the bins. Masks are chosen by high estimates, so below 0.5 one bin is enough."""


@dataclass(frozen=True, slots=True)
class Bin:
    """Masks whose predicted IoU is within a range."""

    lowest: float
    highest: float
    masks: int
    predicted: float
    """Mean of what the model said; NaN in an empty bin, as below."""
    true: float


def reliability(estimates: Iterable[Estimate]) -> tuple[Bin, ...]:
    """One bin for each range between `EDGES`, and one below and one above."""
    pairs = np.array([(x.predicted, x.true) for x in estimates]).reshape(-1, 2)
    places = np.digitize(pairs[:, 0], EDGES)
    bins = []
    for place, (lowest, highest) in enumerate(pairwise((0.0, *EDGES, 1.0))):
        inside = pairs[places == place]
        mean_predicted, mean_true = inside.mean(0) if len(inside) else (float("nan"), float("nan"))
        bins.append(Bin(lowest, highest, len(inside), float(mean_predicted), float(mean_true)))
    return tuple(bins)


def calibration_error(bins: Iterable[Bin]) -> float:
    """Mean difference of predicted and true IoU over the bins, each with the weight of its masks; 0 for none."""
    filled = [x for x in bins if x.masks]
    masks = sum(x.masks for x in filled)
    return sum(x.masks * abs(x.predicted - x.true) for x in filled) / masks if masks else 0.0
