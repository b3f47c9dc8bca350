"""Firefox and WebKit, Safari's engine, as Debian packages them, each driven by its own protocol.

Firefox listens to Mozilla's client, Marionette, because Debian has no geckodriver. Does not know about the page.
"""

import os
import subprocess
import time
from abc import ABC, abstractmethod
from pathlib import Path
from typing import Any

from marionette_driver.marionette import Marionette
from selenium import webdriver
from selenium.webdriver.common.action_chains import ActionBuilder
from selenium.webdriver.common.by import By
from selenium.webdriver.webkitgtk.options import Options
from selenium.webdriver.webkitgtk.service import Service

SIZE = 1300, 900
PATIENCE_S = 90
NEEDED = "apt-get install firefox-esr webkit2gtk-driver xvfb"

FIREFOX = "/usr/bin/firefox-esr"
WEBKIT_DRIVER = "/usr/bin/WebKitWebDriver"


def mini_browser() -> Path | None:
    """WebKitGTK's browser, if it is installed."""
    return next(Path("/usr/lib").glob("*/webkit2gtk-4.*/MiniBrowser"), None)


class Browser(ABC):
    """One window. Positions are CSS pixels of it."""

    name: str
    folder: Path
    """Where its downloads come, at once or below."""

    @abstractmethod
    def open(self, url: str) -> None:
        """Go there."""

    @abstractmethod
    def run(self, script: str) -> Any:
        """Return what the body of a function returns."""

    @abstractmethod
    def choose(self, selector: str, path: Path) -> None:
        """Choose a file."""

    @abstractmethod
    def move(self, x: float, y: float) -> None:
        """Move the mouse."""

    @abstractmethod
    def press(self) -> None:
        """Press the left button."""

    @abstractmethod
    def release(self) -> None:
        """Release it."""

    @abstractmethod
    def close(self) -> None:
        """End the browser."""

    def click(self, x: float, y: float) -> None:
        """Click on a place."""
        self.move(x, y)
        self.press()
        self.release()

    def until(self, script: str) -> Any:
        """Wait until a script returns something true. Return that, or None when patience ends."""
        ends = time.monotonic() + PATIENCE_S
        while time.monotonic() < ends:
            if found := self.run(script):
                return found
            time.sleep(0.1)
        return None

    def downloaded(self, name: str) -> Path | None:
        """Wait for a file. None when patience ends."""
        ends = time.monotonic() + PATIENCE_S
        while time.monotonic() < ends:
            found = next(self.folder.rglob(name), None)
            if found and found.stat().st_size and not list(self.folder.rglob("*.part")):
                return found
            time.sleep(0.1)
        return None


class Firefox(Browser):
    """Without a window on the screen."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        preferences = {
            "browser.download.folderList": 2,
            "browser.download.dir": str(folder),
            "browser.shell.checkDefaultBrowser": False,
        }
        log = str(folder / "gecko.log")  # else it is where the command runs
        self._client = Marionette(bin=FIREFOX, headless=True, prefs=preferences, gecko_log=log)
        self._client.start_session({"strictFileInteractability": False})  # the page's input is not to be seen
        self._client.set_window_rect(width=SIZE[0], height=SIZE[1])
        self.name = f"Firefox {self._client.session_capabilities['browserVersion']}"

    def open(self, url: str) -> None:
        self._client.navigate(url)

    def run(self, script: str) -> Any:
        return self._client.execute_script(script, sandbox=None)  # sees what the page sees

    def choose(self, selector: str, path: Path) -> None:
        self._client.find_element("css selector", selector).send_keys(str(path))

    def move(self, x: float, y: float) -> None:
        self._mouse().pointer_move(round(x), round(y)).perform()

    def press(self) -> None:
        self._mouse().pointer_down().perform()

    def release(self) -> None:
        self._mouse().pointer_up().perform()

    def close(self) -> None:
        self._client.quit(in_app=False)

    def _mouse(self) -> Any:
        return self._client.actions.sequence("pointer", "mouse", {"pointerType": "mouse"})


class WebKit(Browser):
    """WebKitGTK's MiniBrowser, whose session is a private one. Without a screen it gets one of its own."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        # Its sandbox wants rights that root has not in a container. It opens this checkout's page alone.
        environment = os.environ | {"HOME": str(folder), "WEBKIT_DISABLE_SANDBOX_THIS_IS_DANGEROUS": "1"}
        self._screen = None
        if "DISPLAY" not in environment:
            reads, writes = os.pipe()
            command = ["Xvfb", "-displayfd", str(writes), "-screen", "0", f"{SIZE[0]}x{SIZE[1]}x24"]
            self._screen = subprocess.Popen(command, stderr=subprocess.DEVNULL, pass_fds=[writes])
            os.close(writes)
            with os.fdopen(reads) as number:
                environment["DISPLAY"] = f":{number.readline().strip()}"
        options = Options()
        options.binary_location = str(mini_browser())
        options.add_argument("--automation")
        self._client = webdriver.WebKitGTK(options=options, service=Service(WEBKIT_DRIVER, env=environment))
        self._client.set_window_rect(0, 0, *SIZE)
        self.name = f"WebKitGTK {self._client.capabilities['browserVersion']}"

    def open(self, url: str) -> None:
        self._client.get(url)

    def run(self, script: str) -> Any:
        return self._client.execute_script(script)

    def choose(self, selector: str, path: Path) -> None:
        self._client.find_element(By.CSS_SELECTOR, selector).send_keys(str(path))

    def move(self, x: float, y: float) -> None:
        action = ActionBuilder(self._client)
        action.pointer_action.move_to_location(round(x), round(y))
        action.perform()

    def press(self) -> None:
        action = ActionBuilder(self._client)
        action.pointer_action.pointer_down()
        action.perform()

    def release(self) -> None:
        action = ActionBuilder(self._client)
        action.pointer_action.pointer_up()
        action.perform()

    def close(self) -> None:
        self._client.quit()
        if self._screen:
            self._screen.terminate()
            self._screen.wait()


def missing() -> bool:
    """Whether a browser, or what drives it, is not installed."""
    needed = [FIREFOX, WEBKIT_DRIVER, "/usr/bin/Xvfb"]
    return not all(Path(each).exists() for each in needed) or not mini_browser()
