"""Tests of openai-python with models that edit pictures: several pictures, masks, streams."""

import unittest

import openai

from openai_case import client
from served import EDITS_URL, KLEIN_URL, decode, mask, png, wait_until_ready

PROMPT = "make it night"
BLUE = (20, 60, 200)


class EditCase:
    """Tests for every model that edits."""

    url = None

    @classmethod
    def setUpClass(cls):
        if cls.url is None:
            raise unittest.SkipTest("only an address was given, without a model that edits")
        wait_until_ready(cls.url)
        cls.client = client(cls.url)

    def edit(self, image, **changes):
        extra = {"num_inference_steps": 2, "seed": 3, **changes.pop("extra_body", {})}
        call = {"prompt": PROMPT, "size": "96x64", **changes}
        return self.client.images.edit(image=image, **call, extra_body=extra)

    def test_two_pictures(self):
        one, two = self.edit([png()]), self.edit([png(), png(64, 96, BLUE)])
        for answer in (one, two):
            self.assertEqual(decode(answer.data[0].b64_json).size, (96, 64))
        self.assertNotEqual(one.data[0].b64_json, two.data[0].b64_json)
        tokens = [answer.usage.input_tokens_details.image_tokens for answer in (one, two)]
        self.assertGreater(tokens[0], 0)
        self.assertEqual(tokens[1], 2 * tokens[0], "both have the same area")
        self.assertEqual(self.edit([png()]).data[0].b64_json, one.data[0].b64_json, "a seed makes it again")

    def test_what_a_mask_leaves_stays(self):
        answer = self.edit(png(), mask=mask())
        self.assertTrue(answer.warnings, "it is said what was done with the mask")
        picture = decode(answer.data[0].b64_json).convert("RGB")
        for x in (72, 95):
            for y in (0, 32, 63):
                near = all(abs(ours - given) <= 2 for ours, given in zip(picture.getpixel((x, y)), (200, 30, 30)))
                self.assertTrue(near, (x, y, picture.getpixel((x, y))))

    def test_a_stream(self):
        events = list(self.edit([png(), png(colour=BLUE)], stream=True, partial_images=1))
        self.assertEqual([event.type for event in events], ["image_edit.partial_image", "image_edit.completed"])
        for event in events:
            self.assertEqual(decode(event.b64_json).size, (96, 64))
        plain = self.edit([png(), png(colour=BLUE)])
        self.assertEqual(events[-1].b64_json, plain.data[0].b64_json)

    def test_a_wrong_mask_is_named(self):
        for bad in (png(), mask(64, 96), b"no picture"):
            with self.assertRaises(openai.BadRequestError) as raised:
                self.edit(png(), mask=bad)
            self.assertEqual(raised.exception.param, "mask")


class QwenImageEditPlus(EditCase, unittest.TestCase):
    url = EDITS_URL

    def test_a_generation_is_told_to_edit(self):
        with self.assertRaises(openai.BadRequestError) as raised:
            self.client.images.generate(prompt=PROMPT)
        self.assertEqual(raised.exception.param, "image")
        self.assertIn("/v1/images/edits", raised.exception.message)


class Flux2Klein(EditCase, unittest.TestCase):
    url = KLEIN_URL

    def test_it_makes_pictures_from_words_too(self):
        answer = self.client.images.generate(prompt=PROMPT, size="96x64", extra_body={"num_inference_steps": 2})
        self.assertEqual(decode(answer.data[0].b64_json).size, (96, 64))
