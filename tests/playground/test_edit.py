"""Pictures to edit: dropping, pasting and choosing them, and the edits made from them."""

import base64
import io
import os
import subprocess
import sys
import tempfile
import unittest

from axe_playwright_python.sync_playwright import Axe
from PIL import Image
from playwright.sync_api import expect

from page import CACHED, PHONE, PlaygroundCase, picture_size, set_steps, wait_for_picture

MODELS = os.path.join(os.path.dirname(__file__), "..", "goldens", "models")
PROMPT = "make it night"

# Dispatches the event that the browser sends when a user drops or pastes files.
SEND = """([type, files]) => {
  const transfer = new DataTransfer();
  for (const [name, b64] of files) {
    const bytes = Uint8Array.from(atob(b64), (character) => character.charCodeAt(0));
    transfer.items.add(new File([bytes], name, { type: "image/png" }));
  }
  const options = { bubbles: true, cancelable: true };
  const event = type === "paste" ? new ClipboardEvent(type, { ...options, clipboardData: transfer })
    : new DragEvent(type, { ...options, dataTransfer: transfer });
  document.getElementById(type === "paste" ? "prompt" : "drop").dispatchEvent(event);
  return event.defaultPrevented;
}"""


def png(colour=(200, 30, 30), size=(96, 64)):
    file = io.BytesIO()
    Image.new("RGB", size, colour).save(file, "PNG")
    return file.getvalue()


def send(page, kind, *names, content=None):
    files = [[name, base64.b64encode(content or png()).decode()] for name in names]
    return page.evaluate(SEND, [kind, files])


def choose(page, *files):
    page.set_input_files("#files", [{"name": name, "mimeType": "image/png", "buffer": file} for name, file in files])


def count(page, n):
    expect(page.locator("#inputs li")).to_have_count(n)


class WordsAndPictures(PlaygroundCase):
    """A model that generates from text and edits pictures."""

    flags = (*CACHED, os.path.join(MODELS, "flux2-klein"))

    def test_pictures_are_dropped_pasted_and_chosen_up_to_the_models_number(self):
        page = self.open()
        expect(page.locator("#inputs-hint")).to_contain_text("up to 4")
        self.assertTrue(send(page, "drop", "a.png"), "the browser does not open it")
        count(page, 1)
        self.assertTrue(send(page, "paste", "b.png"))
        count(page, 2)
        choose(page, ("c.png", png()), ("d.png", png()), ("e.png", png()))
        expect(page.locator("#toast")).to_contain_text("4 pictures at most")
        count(page, 4)
        expect(page.locator("#choose")).to_be_disabled()
        page.keyboard.press("Escape")
        page.get_by_label("Remove picture 2: b.png").focus()
        page.keyboard.press("Enter")
        count(page, 3)
        # The focus moves to the picture that took the removed one's place.
        expect(page.get_by_label("Remove picture 2: c.png")).to_be_focused()
        self.assertTrue(send(page, "drop", "text.png", content=b"a cat"))
        expect(page.locator("#toast")).to_contain_text("text.png is not a readable picture")
        count(page, 3)

    def test_text_is_pasted_as_ever(self):
        page = self.open()
        page.focus("#prompt")
        page.evaluate("navigator.clipboard.writeText('a cat')")
        page.keyboard.press("Control+V")
        expect(page.locator("#prompt")).to_have_value("a cat")
        count(page, 0)

    def test_an_edit_is_shown_over_what_it_was_made_of(self):
        page = self.open()
        requests = []
        page.on("request", lambda request: request.method == "POST" and requests.append(request))
        choose(page, ("red.png", png()))
        count(page, 1)
        expect(page.locator('input[name="shape"]:checked')).to_have_value("auto")
        page.fill("#prompt", PROMPT)
        page.fill("#seed", "5")
        set_steps(page, 4)
        page.click("#generate")
        wait_for_picture(page)
        self.assertEqual([request.url for request in requests], [f"{self.server.url}/v1/images/edits"])
        self.assertTrue(requests[0].headers["content-type"].startswith("multipart/form-data; boundary="))
        self.assertEqual(picture_size(page, "#frames .slide img >> nth=0"), [96, 64])
        self.assertEqual(picture_size(page, "#frames .slide img >> nth=1"), [96, 64])
        expect(page.locator("#frames .ends")).to_have_text("BeforeAfter")
        page.get_by_label("How much of the picture before the edit is shown").fill("25")
        self.assertEqual(page.eval_on_selector(".slide .frame", "f => f.style.getPropertyValue('--cut')"), "25%")
        # There are four steps in each of the model's two lists of blocks.
        self.assertEqual(page.locator('#timeline .cell[data-branch="cond"]').count(), 8)
        violations = Axe().run(page).response["violations"]
        self.assertEqual([v["id"] for v in violations], [])
        self.shot(page, "edit", full_page=True)
        # Without its picture the request is a generation from text again.
        page.get_by_label("Remove picture 1: red.png").click()
        expect(page.locator('input[name="shape"]:checked')).not_to_have_value("auto")
        expect(page.locator("#snippet")).to_contain_text("v1/images/generations")
        # The gallery brings it back.
        page.locator("#pictures .restore").first.click()
        count(page, 1)
        expect(page.locator("#frames .slide")).to_be_visible()

    def test_previews_come_before_the_slider(self):
        page = self.open()
        choose(page, ("red.png", png()))
        page.evaluate("""() => {
          window.seen = [];
          const note = () => {
            const source = document.querySelector("#frames > .frame img")?.src;
            if (source && source !== window.seen.at(-1)) window.seen.push(source);
          };
          new MutationObserver(note).observe(document.getElementById("frames"), { subtree: true, childList: true, attributes: true });
        }""")
        page.fill("#prompt", PROMPT)
        set_steps(page, 6)
        page.click("#generate")
        wait_for_picture(page)
        seen = page.evaluate("window.seen")
        self.assertGreaterEqual(len({source for source in seen if source.startswith("data:")}), 2, "the preview changes")

    def test_the_snippets_send_the_files(self):
        name = "the cat's; \"one\".png"
        page = self.open()
        choose(page, (name, png()))
        page.fill("#prompt", "@night, isn't it?")
        set_steps(page, 2)
        with tempfile.TemporaryDirectory() as folder:
            with open(os.path.join(folder, name), "wb") as file:
                file.write(png())
            curl = page.inner_text("#snippet")
            page.click("#tab-python")
            for command in (["sh", "-c", curl], [sys.executable, "-c", page.inner_text("#snippet")]):
                run = subprocess.run(command, cwd=folder, capture_output=True, text=True, timeout=60)
                self.assertEqual(run.returncode, 0, run.stdout + run.stderr)
            for made in ("picture.png", "picture-0.png"):
                with Image.open(os.path.join(folder, made)) as image:
                    self.assertEqual((image.format, image.size), ("PNG", (96, 64)))

    def test_on_a_phone(self):
        page = self.open(PHONE)
        choose(page, ("a.png", png()), ("b.png", png((30, 30, 200), (64, 128))))
        count(page, 2)
        self.assertEqual(page.evaluate("document.documentElement.scrollWidth"), 390)
        self.shot(page, "edit-phone")


class PicturesOnly(PlaygroundCase):
    """A model that only edits."""

    flags = (*CACHED, os.path.join(MODELS, "qwen-image-edit-plus"))

    def test_the_page_says_that_it_needs_a_picture(self):
        page = self.open()
        expect(page.locator("#inputs-hint")).to_contain_text("This model edits pictures and needs one.")
        expect(page.locator("#welcome-text")).to_contain_text("Add a picture")
        page.fill("#prompt", PROMPT)
        page.click("#generate")
        expect(page.locator("#problem")).to_contain_text("Add a picture first")
        expect(page.locator("#choose")).to_be_focused()
        self.shot(page, "edit-only")
        choose(page, ("red.png", png()))
        expect(page.locator("#problem")).to_be_hidden()


class WordsOnly(PlaygroundCase):
    def test_no_pictures_are_asked_for(self):
        page = self.open()
        expect(page.locator("#inputs-field")).to_be_hidden()
        self.assertFalse(send(page, "paste", "a.png"))
        count(page, 0)


if __name__ == "__main__":
    unittest.main()
