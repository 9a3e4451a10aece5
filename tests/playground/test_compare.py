"""The comparison of pictures without and with the step cache."""

import re

from playwright.sync_api import expect

from page import PROMPT, PlaygroundCase, decisions, picture_size, set_steps, wait_for_picture


class Compare(PlaygroundCase):
    def compare(self, page, steps=120):
        page.fill("#prompt", PROMPT)
        page.fill("#seed", "11")
        set_steps(page, steps)
        page.check('input[value="ultra"]', force=True)
        page.click("#compare")
        expect(page.locator(".compare .tabs")).to_be_visible(timeout=60_000)

    def test_both_pictures_their_times_and_their_steps(self):
        page = self.open()
        self.compare(page)
        self.assertEqual(picture_size(page, ".duo figure:nth-child(1) img"), [128, 128])
        self.assertEqual(picture_size(page, ".duo figure:nth-child(2) img"), [128, 128])
        uncached, cached = page.locator(".duo figcaption").all_inner_texts()
        self.assertIn("Uncached", uncached)
        self.assertIn("120 steps", uncached)
        self.assertIn("Cached, ultra", cached)
        answer = self.server.generate(
            prompt=PROMPT, seed=11, num_inference_steps=120, cache="ultra", return_cache_stats=True
        )
        run = answer["data"][0]["cache"]["runs"][0]
        self.assertIn(f"{run['computed_steps']} of 120 steps computed", cached)
        self.assertEqual(decisions(page, "cond"), run["decisions"])
        times = [re.search(r"[\d.]+\sm?s", text).group() for text in (uncached, cached)]
        uncached_ms, cached_ms = (float(t.split()[0]) * (1 if t.endswith("ms") else 1000) for t in times)
        verdict = page.inner_text(".verdict")
        speedup = float(re.match(r"([\d.]+)× faster", verdict).group(1))
        self.assertAlmostEqual(speedup, uncached_ms / cached_ms, delta=0.05)
        self.assertGreater(speedup, 1.1, "fewer blocks take less time")
        expect(page.locator("#likeness")).to_contain_text("PSNR")
        self.shot(page, "compare")

    def test_the_slider_and_the_difference(self):
        page = self.open()
        self.compare(page, steps=10)
        page.click("text=Slider")
        page.locator(".slide input").fill("25")
        self.assertEqual(page.eval_on_selector(".slide .frame", "f => f.style.getPropertyValue('--cut')"), "25%")
        self.shot(page, "slider")
        page.click('.compare button:has-text("Difference")')
        # The pictures differ, so some pixels of the difference must be brighter than black.
        self.assert_becomes(lambda: page.evaluate("document.querySelector('.slide canvas').width"), 128)
        brightest = page.eval_on_selector(
            ".slide canvas", "c => Math.max(...c.getContext('2d').getImageData(0, 0, 128, 128).data.filter((_, i) => i % 4 < 3))"
        )
        self.assertGreater(brightest, 0)
        self.shot(page, "difference")

    def test_off_is_compared_with_a_preset(self):
        page = self.open()
        page.fill("#prompt", PROMPT)
        page.check('input[value="off"]', force=True)
        page.click("#compare")
        expect(page.locator(".compare .tabs")).to_be_visible(timeout=60_000)
        # `off` on both sides would show no difference, so the page uses a preset.
        expect(page.locator(".duo figcaption >> nth=1")).to_contain_text("Cached, balanced")
        expect(page.locator("#likeness")).to_contain_text("PSNR")


class Fixed(PlaygroundCase):
    """A server that does not allow cache settings in requests."""

    flags = ("--cache-backend", "cache_dit")

    def test_the_page_says_which_flag_allows_it(self):
        page = self.open()
        expect(page.locator("#compare")).to_be_disabled()
        expect(page.locator('input[value="fast"]')).to_be_disabled()
        expect(page.locator("#preset-hint")).to_contain_text("--allow-request-cache-config")
        page.fill("#prompt", PROMPT)
        page.click("#generate")
        expect(page.locator("#caption")).to_be_visible(timeout=60_000)
        self.assertIn("C", decisions(page, "cond"), "the server's own cache is drawn")


class Audited(PlaygroundCase):
    """A server that audits every picture."""

    flags = ("--cache-backend", "cache_dit", "--cache-audit", "1")

    def test_the_page_says_what_audits_found(self):
        page = self.open()
        expect(page.locator("#audits")).to_contain_text("100 % of the pictures made with a cache")
        page.fill("#prompt", PROMPT)
        page.click("#generate")
        wait_for_picture(page)
        expect(page.locator("#audits")).to_contain_text("1 picture made again without the cache", timeout=30_000)
        expect(page.locator("#audits")).to_contain_text("dB in the mean")
