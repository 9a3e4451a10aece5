"""From a prompt to a picture."""

import os
import subprocess
import sys
import tempfile
import unittest

from PIL import Image
from playwright.sync_api import expect

from page import PROMPT, PlaygroundCase, decisions, picture_size, set_steps, wait_for_picture

# Records every source of the frame's picture.
WATCH = """() => {
  window.seen = [];
  const note = () => {
    const source = document.querySelector("#frames .frame img")?.src;
    if (source && source !== window.seen.at(-1)) window.seen.push(source);
  };
  new MutationObserver(note).observe(document.getElementById("frames"), { subtree: true, childList: true, attributes: true });
}"""


class Generate(PlaygroundCase):
    def test_a_prompt_becomes_a_picture_before_ones_eyes(self):
        page = self.open()
        page.evaluate(WATCH)
        page.fill("#prompt", PROMPT)
        page.click("#generate")
        wait_for_picture(page)
        seen = page.evaluate("window.seen")
        previews = [source for source in seen if source.startswith("data:")]
        self.assertGreaterEqual(len(set(previews)), 3, "the preview changes")
        self.assertTrue(seen[-1].startswith("blob:"), "the picture itself comes last")
        self.assertEqual(picture_size(page), [128, 128])
        facts = page.inner_text("#facts")
        self.assertIn("128 × 128", facts)
        self.assertIn(f"seed {page.input_value('#seed')}", facts.replace("\n", " "))

    def test_the_timeline_is_what_the_api_says(self):
        page = self.open()
        page.fill("#prompt", PROMPT)
        page.fill("#seed", "7")
        set_steps(page, 28)
        page.check('input[value="fast"]', force=True)
        page.click("#generate")
        wait_for_picture(page)
        answer = self.server.generate(
            prompt=PROMPT, seed=7, num_inference_steps=28, cache="fast", return_cache_stats=True
        )
        runs = answer["data"][0]["cache"]["runs"]
        self.assertEqual([run["branch"] for run in runs], ["cond", "uncond"])
        for run in runs:
            self.assertEqual(decisions(page, run["branch"]), run["decisions"])
            self.assertEqual(len(run["decisions"]), 28)
        reused = runs[0]["decisions"].index("C")
        page.hover(f'#timeline .cell[data-branch="cond"][data-step="{reused}"]')
        expect(page.locator("#readout")).to_contain_text(f"Step {reused + 1} of 28")
        expect(page.locator("#readout")).to_contain_text("cond reused: little changed, diff")
        # A step is reused if its diff is below the threshold and no other rule forbids it.
        below = page.locator("#timeline .dot.below").count()
        self.assertGreaterEqual(below, sum(run["decisions"].count("C") for run in runs))
        self.assertLess(below, page.locator("#timeline .dot").count())

    def test_a_sampler_with_two_runs_a_step(self):
        page = self.open()
        page.fill("#prompt", PROMPT)
        set_steps(page, 4)
        page.check('input[value="off"]', force=True)
        page.click("#more summary")
        expect(page.locator("#sampler")).to_have_value("euler")
        expect(page.locator("#snippet")).not_to_contain_text("sampler")
        page.select_option("#sampler", "heun")
        expect(page.locator("#snippet")).to_contain_text('"sampler": "heun"')
        page.click("#generate")
        wait_for_picture(page)
        self.assertEqual(decisions(page, "cond"), "1" * 7)
        expect(page.locator("#facts")).to_contain_text("7 steps")

    def test_several_pictures_and_another_size_and_format(self):
        page = self.open()
        page.fill("#prompt", PROMPT)
        page.fill("#seed", "5")
        page.check('input[name="shape"][value="custom"]', force=True)
        page.fill("#width", "96")
        page.fill("#height", "64")
        page.click("#more summary")
        page.select_option("#n", "3")
        page.select_option("#format", "webp")
        page.click("#generate")
        wait_for_picture(page)
        self.assertEqual(picture_size(page), [96, 64])
        self.assertEqual(page.locator(".strip button").count(), 3)
        page.click(".strip button >> nth=2")
        expect(page.locator("#facts")).to_contain_text("seed 7")
        self.assertTrue(page.get_attribute("#download", "download").endswith("-7.webp"))
        self.shot(page, "several")

    def test_without_a_hand_on_the_mouse(self):
        page = self.open()
        page.keyboard.press("Tab")
        page.keyboard.press("Enter")
        expect(page.locator("#prompt")).to_be_focused()
        page.keyboard.type(PROMPT)
        page.keyboard.press("Tab")
        page.keyboard.press("ArrowRight")
        expect(page.locator('input[name="shape"]:checked')).to_have_value("144x112")
        page.keyboard.press("Control+Enter")
        wait_for_picture(page)
        self.assertEqual(picture_size(page), [144, 112])
        for _ in range(40):
            page.keyboard.press("Tab")
            if page.evaluate("document.activeElement.id") == "timeline":
                break
        expect(page.locator("#timeline")).to_be_focused()
        page.keyboard.press("End")
        expect(page.locator("#readout")).to_contain_text("Step 20 of 20")
        self.assertIn("cond computed", page.get_attribute("#timeline", "aria-valuetext"))
        self.shot(page, "keyboard")

    def test_a_kept_seed_makes_the_picture_again(self):
        page = self.open()
        page.click("#examples button >> nth=0")
        wait_for_picture(page)
        first = page.input_value("#seed")
        page.click("#reuse-seed")
        page.click("#generate")
        wait_for_picture(page)
        self.assertEqual(page.input_value("#seed"), first)
        page.click("#lock")
        page.click("#generate")
        wait_for_picture(page)
        self.assertNotEqual(page.input_value("#seed"), first)


class Cancel(PlaygroundCase):
    def test_cancel_stops_the_job_on_the_server(self):
        page = self.open()
        before = self.server.metric("latentd_cancelled_total")
        page.fill("#prompt", PROMPT)
        # The maximum number of steps, so that a fast machine does not finish before the test looks at the page.
        page.check('input[value="off"]', force=True)
        set_steps(page, 1000)
        page.click("#generate")
        expect(page.locator("#progress-text")).to_contain_text("Step ", timeout=20_000)
        self.shot(page, "progress")
        self.assertEqual(self.server.metric("latentd_requests_running"), 1)
        page.keyboard.press("Escape")
        expect(page.locator("#toast")).to_have_text("Cancelled")
        expect(page.locator("#generate")).to_be_focused()
        self.assert_becomes(lambda: self.server.metric("latentd_cancelled_total"), before + 1)
        self.assert_becomes(lambda: self.server.metric("latentd_requests_running"), 0)


class Refusals(PlaygroundCase):
    def is_expected(self, trouble):
        return "400" in trouble

    def test_what_the_server_refuses_is_said_at_the_field(self):
        page = self.open()
        page.click("#generate")
        expect(page.locator("#problem")).to_contain_text("Write a prompt first")
        expect(page.locator("#prompt")).to_be_focused()
        page.fill("#prompt", PROMPT)
        expect(page.locator("#problem")).to_be_hidden()
        set_steps(page, 100_000)
        page.click("#generate")
        expect(page.locator("#problem")).to_contain_text("`num_inference_steps` must be")
        expect(page.locator("#steps")).to_have_attribute("aria-invalid", "true")
        self.shot(page, "refused")


class Snippets(PlaygroundCase):
    # A prompt that breaks snippets without correct quoting.
    PROMPT = "the cat's \"$HOME\" on a `red` background \\ ünïcode"

    def copied(self, language):
        page = self.open()
        page.fill("#prompt", self.PROMPT)
        set_steps(page, 2)
        page.click(f"#tab-{language}")
        page.click("#copy")
        expect(page.locator("#toast")).to_have_text("Copied")
        return page.evaluate("navigator.clipboard.readText()")

    def run_in_a_folder(self, *command):
        folder = tempfile.TemporaryDirectory()
        self.addCleanup(folder.cleanup)
        run = subprocess.run(command, cwd=folder.name, capture_output=True, text=True, timeout=60)
        self.assertEqual(run.returncode, 0, run.stdout + run.stderr)
        return folder.name, run.stdout

    def assert_picture(self, folder, name):
        with Image.open(os.path.join(folder, name)) as image:
            self.assertEqual((image.format, image.size), ("PNG", (128, 128)))

    def test_curl(self):
        command = self.copied("curl")
        folder, status = self.run_in_a_folder("sh", "-c", f"{command} -s -w '%{{http_code}}'")
        self.assertEqual(status, "200")
        self.assert_picture(folder, "picture.png")

    def test_python(self):
        program = self.copied("python")
        folder, _ = self.run_in_a_folder(sys.executable, "-c", program)
        self.assert_picture(folder, "picture-0.png")


if __name__ == "__main__":
    unittest.main()
