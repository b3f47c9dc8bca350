"""All doors, and those of them that SAM2_DOORS opens.

Does not know what is behind them.
"""

from app.doors.cvat import CVAT
from app.doors.door import Door, Doors
from app.doors.label_studio.endpoints import LABEL_STUDIO
from app.doors.qupath import QUPATH
from app.doors.roboflow import ROBOFLOW
from app.doors.x_anylabeling import X_ANYLABELING

ALL: tuple[Door, ...] = (CVAT, LABEL_STUDIO, QUPATH, ROBOFLOW, X_ANYLABELING)


def open_doors(names: frozenset[str]) -> Doors:
    """Return the doors with these names."""
    return Doors([door for door in ALL if door.name in names])
