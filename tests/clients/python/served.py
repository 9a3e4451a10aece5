"""The servers that `run.sh` started, and helpers to read pictures from answers."""

import base64
import io
import json
import os
import re
import subprocess
import tempfile
import time
import unittest
import urllib.error
import urllib.request

from PIL import Image

URL = os.environ["LATENTD_URL"].rstrip("/")
# A server with an API key and a limit of one request per second. None if run.sh got only an address.
KEYED_URL = os.environ.get("LATENTD_KEYED_URL")
KEY = os.environ.get("LATENTD_KEY")
# Servers whose models edit: one that only edits, and one that also generates from text.
EDITS_URL = os.environ.get("LATENTD_EDITS_URL")
KLEIN_URL = os.environ.get("LATENTD_KLEIN_URL")
# The binary, for tests that start and stop their own server.
BINARY = os.environ.get("LATENTD_BINARY")

PROMPT = "a fox on a green background"
# Few steps, because these tests check the API, not the picture.
STEPS = 4


def wait_until_ready(url, seconds=120):
    """Waits for /health, which answers 503 until the model is loaded and warm."""
    deadline = time.monotonic() + seconds
    while True:
        try:
            urllib.request.urlopen(f"{url}/health", timeout=5)
            return
        except (urllib.error.URLError, OSError) as error:
            if time.monotonic() > deadline:
                raise AssertionError(f"{url}/health never came up: {error}") from error
        time.sleep(0.2)


def info():
    with urllib.request.urlopen(f"{URL}/info", timeout=5) as answer:
        return json.load(answer)


def edits_pictures():
    """Whether the served model accepts pictures to edit."""
    return info()["model"]["max_input_images"] > 0


class OwnServer:
    """A server for one test, which may stop it."""

    def __init__(self, *flags):
        if BINARY is None:
            raise unittest.SkipTest("only an address was given, no binary")
        self.log = tempfile.TemporaryFile("w+")
        command = [BINARY, "serve", "--host", "127.0.0.1", "--port", "0", *flags]
        self.process = subprocess.Popen(command, stderr=self.log, stdout=self.log, env={**os.environ, "NO_COLOR": "1"})

    def __enter__(self):
        deadline = time.monotonic() + 60
        while True:
            self.log.seek(0)
            written = self.log.read()
            address = re.search(r"127\.0\.0\.1:\d+", written)
            if address:
                self.url = f"http://{address[0]}"
                wait_until_ready(self.url)
                return self
            if self.process.poll() is not None or time.monotonic() > deadline:
                raise AssertionError(f"the server named no address:\n{written}")
            time.sleep(0.1)

    def __exit__(self, *_):
        self.process.kill()
        self.process.wait()
        self.log.close()


def decode(b64_json):
    return opened(base64.b64decode(b64_json, validate=True))


def opened(file):
    image = Image.open(io.BytesIO(file))
    image.load()
    return image


def png(width=96, height=64, colour=(200, 30, 30)):
    """A PNG file of one colour."""
    return written(Image.new("RGB", (width, height), colour))


def mask(width=96, height=64):
    """A PNG file of a mask. Its left half is transparent, i.e. editable."""
    image = Image.new("RGBA", (width, height), (0, 0, 0, 255))
    image.paste((0, 0, 0, 0), (0, 0, width // 2, height))
    return written(image)


def written(image):
    file = io.BytesIO()
    image.save(file, "PNG")
    return file.getvalue()
