"""The playground in a browser: the common start of every test, and the check for errors in the console."""

import os
import time
import unittest

from playwright.sync_api import expect, sync_playwright

from server import Server

PROMPT = "a fox on a green background"
DESKTOP = {"viewport": {"width": 1360, "height": 940}}
PHONE = {"viewport": {"width": 390, "height": 844}, "device_scale_factor": 2, "has_touch": True, "is_mobile": True}
CACHED = ("--cache-backend", "cache_dit", "--allow-request-cache-config")

# Chromium's sandbox does not work for root, e.g. in containers.
ARGS = ["--no-sandbox"] if os.geteuid() == 0 else []


class PlaygroundCase(unittest.TestCase):
    """One server and one browser per class, one profile per test."""

    flags = CACHED

    @classmethod
    def setUpClass(cls):
        cls.server = Server(*cls.flags)
        cls.addClassCleanup(cls.server.stop)
        playwright = sync_playwright().start()
        cls.addClassCleanup(playwright.stop)
        cls.browser = playwright.chromium.launch(executable_path=os.environ["CHROMIUM"], args=ARGS)
        cls.addClassCleanup(cls.browser.close)

    def open(self, context=DESKTOP, **options):
        """Opens the page in a fresh profile and waits for the model. Console errors and warnings fail the test."""
        context = self.browser.new_context(**context, **options)
        context.grant_permissions(["clipboard-read", "clipboard-write"])
        self.addCleanup(context.close)
        page = context.new_page()
        troubles = []
        page.on("console", lambda message: message.type in ("error", "warning") and troubles.append(message.text))
        page.on("pageerror", lambda error: troubles.append(str(error)))
        page.on("requestfailed", lambda request: is_drained(request) or troubles.append(f"{request.url}: {request.failure}"))
        page.on("response", lambda answer: answer.status >= 400 and troubles.append(f"{answer.url}: {answer.status}"))
        self.addCleanup(lambda: self.assertEqual([trouble for trouble in troubles if not self.is_expected(trouble)], []))
        page.goto(self.server.url)
        expect(page.locator("#model")).to_have_attribute("data-state", "ready")
        return page

    def is_expected(self, trouble):
        """Whether a test expects this console message."""
        return False

    def assert_becomes(self, ask, expected):
        """Polls for five seconds, because the page's security policy blocks Playwright's own way to wait."""
        deadline = time.monotonic() + 5
        while (found := ask()) != expected and time.monotonic() < deadline:
            time.sleep(0.05)
        self.assertEqual(found, expected)

    def shot(self, page, name, **options):
        """Takes a screenshot if the command line names a folder for them."""
        if folder := os.environ["SCREENSHOTS"]:
            page.screenshot(path=os.path.join(folder, f"{name}.png"), **options)


def is_drained(request):
    """Whether a failed request is a stream that was read to its end, or a picture that the page let go of. Chromium reports
    ERR_ABORTED if the reader sees the end before the network does. The tests themselves check that the picture came."""
    is_picture = request.url.startswith("blob:") or request.url.endswith(("/v1/images/generations", "/v1/images/edits"))
    return is_picture and request.failure == "net::ERR_ABORTED"


def set_steps(page, steps):
    page.fill("#steps", str(steps))


def wait_for_picture(page):
    expect(page.locator("#caption")).to_be_visible(timeout=60_000)
    expect(page.locator("#generate")).to_be_visible()


def picture_size(page, selector="#frames .frame img"):
    """Width and height of the picture's file, in pixels."""
    return page.eval_on_selector(selector, "image => [image.naturalWidth, image.naturalHeight]")


def decisions(page, branch):
    """The cells of a branch in the API's notation: `1` computed, `C` reused."""
    classes = page.eval_on_selector_all(
        f'#timeline .cell[data-branch="{branch}"]', "cells => cells.map(cell => cell.getAttribute('class'))"
    )
    letters = {"cell computed": "1", "cell reused": "C", "cell pending": "?"}
    return "".join(letters[name] for name in classes)
