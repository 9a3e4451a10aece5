"""A server that requires a key."""

from playwright.sync_api import expect

from page import PROMPT, PlaygroundCase, wait_for_picture


class Keys(PlaygroundCase):
    flags = ("--api-key", "sesame")

    def is_expected(self, trouble):
        return "401" in trouble

    def test_a_wrong_key_then_the_right_one_which_is_kept(self):
        page = self.open()
        page.fill("#prompt", PROMPT)
        page.click("#generate")
        expect(page.locator("#key-dialog")).to_be_visible()
        self.shot(page, "key")
        page.fill("#key", "wrong")
        page.keyboard.press("Enter")
        expect(page.locator("#key-problem")).to_contain_text("key")
        page.fill("#key", "sesame")
        page.keyboard.press("Enter")
        page.click("#generate")
        wait_for_picture(page)
        page.reload()
        expect(page.locator("#model")).to_have_attribute("data-state", "ready")
        page.click("#generate")
        wait_for_picture(page)
        self.assertNotIn("sesame", page.inner_text("#snippet"), "what is copied gets shared")
        self.assertIn("$LATENTD_API_KEY", page.inner_text("#snippet"))

    def test_a_key_can_be_forgotten(self):
        page = self.open()
        page.click("#key-button")
        page.fill("#key", "sesame")
        page.keyboard.press("Enter")
        self.assert_becomes(lambda: page.evaluate("localStorage.getItem('latentd.key')"), "sesame")
        page.click("#key-button")
        page.click("#forget-key")
        self.assert_becomes(lambda: page.evaluate("localStorage.getItem('latentd.key')"), None)
