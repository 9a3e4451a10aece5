"""Tests of LiteLLM's SDK, which does not send `response_format` and adds its own fields to the body."""

import unittest

import litellm

from served import KEY, KEYED_URL, PROMPT, STEPS, URL, decode, edits_pictures, info, png, wait_until_ready


class LiteLLM(unittest.TestCase):
    @classmethod
    def setUpClass(cls):
        wait_until_ready(URL)
        cls.model = info()["model"]["id"]

    def options(self, changes):
        options = {"model": self.model, "prompt": PROMPT, "api_base": f"{URL}/v1", "api_key": "unused", **changes}
        return {**options, "model": f"openai/{options['model']}", "max_retries": 0}

    def generate(self, **changes):
        extra = {"num_inference_steps": STEPS, **changes.pop("extra_body", {})}
        return litellm.image_generation(**self.options(changes), extra_body=extra)

    def test_pictures_come_as_base64(self):
        response = self.generate(n=2, size="96x64")
        self.assertEqual([decode(picture.b64_json).size for picture in response.data], [(96, 64)] * 2)
        self.assertGreater(response.usage.output_tokens, 0)

    def test_a_seed_makes_the_picture_again(self):
        one, other = (self.generate(extra_body={"seed": 7}).data[0] for _ in range(2))
        self.assertEqual(one.b64_json, other.b64_json)

    def test_its_headers_in_the_body_do_no_harm(self):
        response = self.generate(extra_headers={"x-tenant": "seven"})
        self.assertEqual(decode(response.data[0].b64_json).format, "PNG")

    def test_refusals_are_its_classes(self):
        with self.assertRaises(litellm.BadRequestError) as raised:
            self.generate(size="big")
        self.assertIn("size", str(raised.exception))
        with self.assertRaises(litellm.NotFoundError):
            self.generate(model="no-such-model")

    def test_a_wrong_key_is_its_authentication_error(self):
        if KEYED_URL is None:
            self.skipTest("only an address was given, without a key")
        wait_until_ready(KEYED_URL)
        with self.assertRaises(litellm.AuthenticationError):
            self.generate(api_base=f"{KEYED_URL}/v1", api_key=KEY + "x")

    def test_an_edit_or_a_refusal(self):
        edit = {**self.options({"image": png()}), "num_inference_steps": STEPS}
        if edits_pictures():
            self.assertEqual(decode(litellm.image_edit(**edit).data[0].b64_json).format, "PNG")
            return
        with self.assertRaises(litellm.BadRequestError) as raised:
            litellm.image_edit(**edit)
        self.assertIn("image", str(raised.exception))
