"""The pictures that this browser keeps."""

import unittest

from playwright.sync_api import expect

from page import PROMPT, PlaygroundCase, picture_size, set_steps, wait_for_picture


class Gallery(PlaygroundCase):
    def make(self, page, prompt, steps):
        page.fill("#prompt", prompt)
        set_steps(page, steps)
        page.click("#generate")
        wait_for_picture(page)

    def test_pictures_survive_a_reload_and_bring_their_settings_back(self):
        page = self.open()
        expect(page.locator("#pictures .nothing")).to_be_visible()
        self.make(page, PROMPT, 4)
        seed = page.input_value("#seed")
        self.make(page, "a rocket on a blue background", 6)
        expect(page.locator("#pictures li")).to_have_count(2)
        page.reload()
        expect(page.locator("#pictures li")).to_have_count(2)
        self.assert_becomes(lambda: picture_size(page, "#pictures li:nth-child(2) img"), [128, 128])
        page.click("#pictures li:nth-child(2) .restore")
        self.assertEqual(page.input_value("#prompt"), PROMPT)
        self.assertEqual((page.input_value("#steps"), page.input_value("#seed")), ("4", seed))
        expect(page.locator("#lock")).to_have_attribute("aria-pressed", "true")
        self.assertEqual(page.locator('#timeline .cell[data-branch="cond"]').count(), 4)
        self.assertEqual(picture_size(page), [128, 128])

    def test_download_and_delete(self):
        page = self.open()
        self.make(page, PROMPT, 2)
        with page.expect_download() as download:
            page.hover("#pictures li")
            page.click("#pictures .tools a")
        self.assertRegex(download.value.suggested_filename, r"^a-fox-on-a-green-background-\d+\.png$")
        page.click("#pictures .tools button")
        expect(page.locator("#pictures .nothing")).to_be_visible()
        page.reload()
        expect(page.locator("#pictures .nothing")).to_be_visible()

    def test_what_is_too_much_goes_oldest_first(self):
        page = self.open()
        beyond = """async (sizes) => {
          const { beyondBounds } = await import("./playground/store.js");
          return beyondBounds(sizes.map((size, id) => ({ id, blob: { size } }))).map(({ id }) => id);
        }"""
        megabytes = 2**20
        self.assertEqual(page.evaluate(beyond, [1] * 202), [200, 201])
        self.assertEqual(page.evaluate(beyond, [200 * megabytes, 56 * megabytes, 1]), [2])
        self.assertEqual(page.evaluate(beyond, [300 * megabytes]), [], "the newest stays")


if __name__ == "__main__":
    unittest.main()
