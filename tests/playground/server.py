"""A latentd server with the built-in model, on a free port."""

import json
import os
import re
import subprocess
import tempfile
import time
import urllib.request


class Server:
    """`latentd serve` with these flags. Its model is loaded when the constructor returns."""

    def __init__(self, *flags):
        self._log = tempfile.TemporaryFile("w+")
        command = [os.environ["LATENTD"], "serve", "--host", "127.0.0.1", "--port", "0", *flags]
        self._process = subprocess.Popen(command, stdout=self._log, stderr=subprocess.STDOUT, env={**os.environ, "NO_COLOR": "1"})
        self.url = self._wait_for(self._address)
        self._wait_for(lambda: self.get("/info")["model"]["default_size"])

    def get(self, path):
        with urllib.request.urlopen(self.url + path, timeout=10) as answer:
            return json.load(answer)

    def generate(self, **fields):
        """Sends a generation directly, without the browser."""
        request = urllib.request.Request(
            self.url + "/v1/images/generations", json.dumps(fields).encode(), {"content-type": "application/json"}
        )
        with urllib.request.urlopen(request, timeout=60) as answer:
            return json.load(answer)

    def metric(self, name):
        """The value of a metric without labels."""
        with urllib.request.urlopen(self.url + "/metrics", timeout=10) as answer:
            lines = answer.read().decode().splitlines()
        return next(float(line.split()[-1]) for line in lines if line.split(" ")[0] == name)

    def stop(self):
        self._process.terminate()
        self._process.wait(30)
        self._log.close()

    def _address(self):
        self._log.seek(0)
        found = re.search(r"127\.0\.0\.1:\d+", self._log.read())
        return found and f"http://{found.group()}"

    def _wait_for(self, ask):
        deadline = time.monotonic() + 120
        while time.monotonic() < deadline and self._process.poll() is None:
            if answer := ask():
                return answer
            time.sleep(0.1)
        self._log.seek(0)
        raise AssertionError(f"the server did not come up:\n{self._log.read()}")
