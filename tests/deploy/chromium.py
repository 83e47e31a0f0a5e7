"""A headless Chromium driven by the DevTools protocol over a pipe, with the standard library."""

import base64
import contextlib
import json
import os
import select
import subprocess
import time


class Chromium:
    """One page of a headless Chromium, ended by ``close``."""

    def __init__(self, program, profile, width=1280, height=900):
        to_browser, self._out = os.pipe()
        self._in, from_browser = os.pipe()

        def number_pipes():  # Chromium reads commands from 3 and writes answers to 4
            read, write = os.dup(to_browser), os.dup(from_browser)
            os.dup2(read, 3)
            os.dup2(write, 4)

        options = ["--headless=new", "--no-sandbox", "--disable-gpu", "--no-first-run"]
        options += ["--remote-debugging-pipe", "--disable-dev-shm-usage"]
        options += ["--use-fake-ui-for-media-stream", "--use-fake-device-for-media-stream"]
        options += [f"--user-data-dir={profile}", f"--window-size={width},{height}"]
        self._process = subprocess.Popen(
            [program, *options, "about:blank"],
            preexec_fn=number_pipes,
            close_fds=False,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )
        os.close(to_browser)
        os.close(from_browser)
        self._received, self._last, self._session = b"", 0, None
        targets = self.send("Target.getTargets")["targetInfos"]
        page = next(target["targetId"] for target in targets if target["type"] == "page")
        attached = self.send("Target.attachToTarget", targetId=page, flatten=True)
        self._session = attached["sessionId"]

    def send(self, method, **params):
        """Send a command of the protocol and return its result."""
        self._last += 1
        command = {"id": self._last, "method": method, "params": params}
        if self._session:
            command["sessionId"] = self._session
        os.write(self._out, json.dumps(command).encode() + b"\0")
        while True:
            answer = self._receive(60)
            if answer.get("id") == self._last:
                if "error" in answer:
                    raise RuntimeError(f"{method}: {answer['error']['message']}")
                return answer["result"]

    def _receive(self, seconds):
        while b"\0" not in self._received:
            if not select.select([self._in], [], [], seconds)[0]:
                raise TimeoutError(f"Chromium: no answer in {seconds} s")
            part = os.read(self._in, 1 << 20)
            if not part:
                raise RuntimeError("Chromium ended")
            self._received += part
        message, _, self._received = self._received.partition(b"\0")
        return json.loads(message)

    def evaluate(self, expression):
        """The value of a JavaScript expression in the page; awaits promises."""
        answer = self.send(
            "Runtime.evaluate", expression=expression, returnByValue=True, awaitPromise=True
        )
        if "exceptionDetails" in answer:
            raise RuntimeError(json.dumps(answer["exceptionDetails"]))
        return answer["result"].get("value")

    def open(self, url, ready, seconds=90):
        """Go to ``url`` and wait until the expression ``ready`` is true there."""
        self.send("Page.navigate", url=url)
        self.wait(f"location.href === {json.dumps(url)} && Boolean({ready})", seconds)

    def wait(self, condition, seconds=90):
        """Wait until a JavaScript expression is true."""
        end = time.monotonic() + seconds
        while time.monotonic() < end:
            with contextlib.suppress(RuntimeError):  # the previous page may vanish during the call
                if self.evaluate(condition):
                    return
            time.sleep(0.1)
        raise TimeoutError(f"{condition}: not true in {seconds} s")

    def drag(self, start, end):
        """Press the mouse at ``start``, move to ``end``, release; in pixels of the window."""
        for kind, (x, y) in [("Pressed", start), ("Moved", end), ("Released", end)]:
            self.send(
                "Input.dispatchMouseEvent",
                type=f"mouse{kind}",
                x=x,
                y=y,
                button="left",
                buttons=1,
                clickCount=1,
            )

    def screenshot(self, path):
        """Write what the window shows as a PNG file."""
        path.write_bytes(base64.b64decode(self.send("Page.captureScreenshot")["data"]))

    def close(self):
        """End the browser."""
        self._process.terminate()
        self._process.wait(20)
        os.close(self._in)
        os.close(self._out)
