"""X-AnyLabeling's own window, off-screen: a user chooses Remote-Server, clicks on a picture and gets a polygon.

With a path as its argument, it saves what the window looks like then.
"""

import os
import shutil
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path
from time import monotonic
from typing import Any

os.environ["QT_QPA_PLATFORM"] = "offscreen"

import yaml
from anylabeling import config as tool_config
from anylabeling.resources import resources  # noqa: F401  # registers the icons and the models' files
from anylabeling.views.labeling.utils.qt import apply_application_font
from anylabeling.views.labeling.utils.theme import get_app_stylesheet, init_theme
from anylabeling.views.mainwindow import MainWindow
from PyQt6.QtCore import QEventLoop, QPoint, QPointF, Qt
from PyQt6.QtTest import QTest
from PyQt6.QtWidgets import QApplication

from tests.server import ROOT
from tests.tools.checking import Checks, Reference, agreement, filled, serving

PICTURE = ROOT / "docs" / "hats.jpg"
HAT = (258, 160)
BOX = (205, 112, 310, 236)
PATIENCE_S = 60.0


class Window:
    """The application with a picture open, as after its start from the command line."""

    def __init__(self, folder: Path, url: str) -> None:
        tool_config.set_work_directory(str(folder))
        file = folder / ".xanylabelingrc"
        file.write_text(yaml.safe_dump({"remote_server_settings": {"server_url": url, "api_key": ""}}))
        tool_config.current_config_file = str(file)
        config = tool_config.get_config(str(file), {}, show_msg=False)
        picture = Path(shutil.copy(PICTURE, folder))
        self.application = QApplication([])
        apply_application_font(config.get("font_family"))
        init_theme("light")
        self.application.setStyleSheet(get_app_stylesheet())
        self._window = MainWindow(self.application, config=config, filename=str(picture))
        self._window.resize(1400, 900)
        self._window.show()
        self.panel = self._window.labeling_widget.view.auto_labeling_widget
        self.canvas = self._window.labeling_widget.view.canvas
        self.wait(lambda: not self.canvas.pixmap.isNull())
        self.panel.show()
        self.settle()

    def choose_remote_server(self) -> bool:
        """Choose the model; the dialog for the address is left out. Return whether the server's model is there."""
        manager = self.panel.model_manager
        (chosen,) = [each for each in manager.model_configs if each.get("display_name") == "Remote-Server"]
        self.panel.model_selection_button.setText(chosen["display_name"])
        manager.load_model(chosen["config_file"])

        def has_model() -> bool:
            loaded = manager.loaded_model_config
            return loaded is not None and loaded["model"].current_model_id is not None

        return self.wait(has_model)

    def click(self, x: float, y: float) -> list[Any]:
        """Press the button for points, and click on the picture. Return the shapes that came."""
        self.panel.button_clear.click()
        self.panel.button_add_point.click()
        self.settle()
        QTest.mouseMove(self.canvas, self._at(x, y))
        QTest.mouseClick(self.canvas, Qt.MouseButton.LeftButton, pos=self._at(x, y))
        return self._objects()

    def drag(self, start: tuple[float, float], stop: tuple[float, float]) -> list[Any]:
        """Press the button for rectangles, and draw one by two clicks. Return the shapes that came."""
        self.panel.button_clear.click()
        self.panel.button_add_rect.click()
        self.settle()
        for corner in (start, stop):
            QTest.mouseMove(self.canvas, self._at(*corner))
            self.settle()
            QTest.mouseClick(self.canvas, Qt.MouseButton.LeftButton, pos=self._at(*corner))
        return self._objects()

    def save(self, path: str) -> None:
        """Save what the window looks like."""
        self.settle()
        self._window.grab().toImage().save(path, quality=85)

    def wait(self, holds: Callable[[], bool]) -> bool:
        """Run the application until a condition holds. Return whether it does."""
        end = monotonic() + PATIENCE_S
        while not holds() and monotonic() < end:
            self.application.processEvents(QEventLoop.ProcessEventsFlag.AllEvents, 50)
        return holds()

    def settle(self) -> None:
        """Run the application for a moment."""
        until = monotonic() + 0.5
        self.wait(lambda: monotonic() > until)

    def _objects(self) -> list[Any]:
        def found() -> list[Any]:
            return [shape for shape in self.canvas.shapes if shape.label == "AUTOLABEL_OBJECT"]

        self.wait(lambda: bool(found()))
        return found()

    def _at(self, x: float, y: float) -> QPoint:
        return ((QPointF(x, y) + self.canvas.offset_to_center()) * self.canvas.scale).toPoint()


def main() -> None:
    """Run all checks."""
    checks = Checks()
    with tempfile.TemporaryDirectory() as folder, serving() as (url, _):
        window, reference = Window(Path(folder), url), Reference(url)
        image_id = reference.embed(PICTURE.read_bytes())
        checks.check("the window finds the server's model", window.choose_remote_server())
        panel = window.panel
        shown = [panel.button_add_point, panel.button_remove_point, panel.button_add_rect, panel.button_clear]
        checks.check("its controls are shown", all(button.isVisible() for button in shown))
        checks.check("the slider is at its default", panel.mask_fineness_slider.value() == 10)

        def compare(what: str, shapes: list[Any], **prompt: Any) -> None:
            own = reference.mask(image_id, **prompt)
            rings = [[[corner.x(), corner.y()] for corner in shape.points] for shape in shapes]
            equal = agreement(filled(rings, *own.shape), own)
            checks.check(
                f"{what}: the polygon is the mask of /decode", equal > 0.9 and bool(rings), f"IoU {equal:.3f}"
            )

        compare("a drawn rectangle", window.drag(BOX[2:], BOX[:2]), box=list(BOX))
        compare("a click", window.click(*HAT), point_coords=[list(HAT)], point_labels=[1])
        if sys.argv[1:]:
            window.save(sys.argv[1])
    sys.stdout.flush()
    # The application's threads wait for its event loop, which has never run; so the process ends without them.
    os._exit(checks.failed > 0)


if __name__ == "__main__":
    main()
