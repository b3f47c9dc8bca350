"""What counts as an object where a request does not say: Meta's thresholds, and others for models that score lower.

Does not know how masks are found.
"""

from dataclasses import replace

from model.everything.candidates import Thresholds

_META = Thresholds()
_OWN = {"builtin": replace(_META, pred_iou_thresh=0.7, stability_score_thresh=0.8)}


def default_thresholds(variant: str) -> Thresholds:
    """The thresholds of a model, by the name that SAM2_MODEL takes."""
    return _OWN.get(variant, _META)
