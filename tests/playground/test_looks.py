"""The page on a phone, in its light and dark themes, and for screen readers."""

import unittest

from axe_playwright_python.sync_playwright import Axe
from playwright.sync_api import expect

from page import DESKTOP, PHONE, PROMPT, PlaygroundCase, wait_for_picture


class Looks(PlaygroundCase):
    def make(self, page):
        page.click("#examples button >> nth=0")
        wait_for_picture(page)

    def assert_accessible(self, page):
        violations = Axe().run(page).response["violations"]
        found = [f"{v['id']}: {node['html']}" for v in violations for node in v["nodes"]]
        self.assertEqual(found, [])

    def test_light_and_dark(self):
        for scheme in ("light", "dark"):
            with self.subTest(scheme=scheme):
                page = self.open(color_scheme=scheme)
                self.shot(page, f"{scheme}-first")
                self.assert_accessible(page)
                self.make(page)
                page.click("#more summary")
                self.assert_accessible(page)
                page.click("#more summary")
                page.mouse.move(0, 0)
                self.shot(page, f"{scheme}-done", full_page=True)
                page.click("#compare")
                expect(page.locator(".compare .tabs")).to_be_visible(timeout=60_000)
                self.assert_accessible(page)

    def test_the_button_turns_the_light_on_and_off(self):
        page = self.open(color_scheme="light")
        background = "getComputedStyle(document.body).backgroundColor"
        light = page.evaluate(background)
        page.click("#theme-button")
        dark = page.evaluate(background)
        self.assertNotEqual(dark, light)
        page.reload()
        self.assertEqual(page.evaluate(background), dark)
        page.click("#theme-button")
        self.assertEqual(page.evaluate(background), light)

    def test_a_phone_scrolls_down_only(self):
        page = self.open(PHONE)
        self.shot(page, "phone-first")
        self.make(page)
        picture = page.locator("#frames .frame").bounding_box()
        self.assertTrue(0 <= picture["y"] and picture["y"] + picture["height"] <= 844, "the picture is in sight")
        page.click("#compare")
        expect(page.locator(".compare .tabs")).to_be_visible(timeout=60_000)
        self.assertEqual(page.evaluate("document.documentElement.scrollWidth"), 390)
        self.shot(page, "phone", full_page=True)
        self.assert_accessible(page)
        small = page.evaluate("""() => [...document.querySelectorAll("button, input, select, textarea, .chips label")]
          .filter(e => e.checkVisibility() && e.closest(".chips label") === (e.matches("label") ? e : null))
          .filter(e => e.getBoundingClientRect().height < 43.5 && e.type !== "range")
          .map(e => e.outerHTML)""")
        self.assertEqual(small, [], "fingers need 44 pixels")

    def test_a_window_as_narrow_as_may_be(self):
        page = self.open({"viewport": {"width": 700, "height": 700}})
        self.make(page)
        self.assertLessEqual(page.evaluate("document.documentElement.scrollWidth"), 700)
        # The timeline is redrawn, without errors in the console.
        page.set_viewport_size({"width": 120, "height": 300})
        page.wait_for_timeout(200)
        self.assertEqual(page.locator('#timeline .cell[data-branch="cond"]').count(), 20)

    def test_the_timeline_tells_a_screen_reader(self):
        page = self.open(DESKTOP)
        page.fill("#prompt", PROMPT)
        page.click("#generate")
        wait_for_picture(page)
        expect(page.locator("#timeline")).to_have_attribute("role", "slider")
        expect(page.locator("#announcer")).to_have_text("The picture is there")


if __name__ == "__main__":
    unittest.main()
