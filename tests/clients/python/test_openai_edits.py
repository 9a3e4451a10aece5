"""Tests of openai-python: edits if the served model accepts pictures, else a refusal that says so."""

import io

import openai

from openai_case import ClientCase
from served import PROMPT, STEPS, decode, edits_pictures, png


class Edits(ClientCase):
    def edit(self, image, **changes):
        extra = {"num_inference_steps": STEPS, **changes.pop("extra_body", {})}
        return self.client.images.edit(image=image, **{"prompt": PROMPT, **changes}, extra_body=extra)

    def assert_edited_or_unsupported(self, image, **changes):
        if edits_pictures():
            response = self.edit(image, **changes)
            self.assertEqual(decode(response.data[0].b64_json).format, "PNG")
            self.assertGreater(response.usage.input_tokens_details.image_tokens, 0)
            return
        with self.assertRaises(openai.BadRequestError) as raised:
            self.edit(image, **changes)
        self.assertEqual(raised.exception.code, "unsupported_value")
        self.assertEqual(raised.exception.type, "invalid_request_error")
        self.assertIn("image", raised.exception.param)

    def test_one_file_as_bytes(self):
        self.assert_edited_or_unsupported(png())

    def test_a_named_file(self):
        self.assert_edited_or_unsupported(("fox.png", io.BytesIO(png()), "image/png"))

    def test_a_list_of_files(self):
        self.assert_edited_or_unsupported([png()])

    def test_a_missing_prompt_is_named(self):
        with self.assertRaises(openai.BadRequestError) as raised:
            self.edit(png(), prompt="")
        self.assertIn(raised.exception.param, ("prompt", "image"))

    def test_what_is_no_picture_is_refused(self):
        with self.assertRaises(openai.BadRequestError) as raised:
            self.edit(b"not a picture")
        self.assertIn(raised.exception.code, ("invalid_image_file", "unsupported_value"))

    def test_the_retired_variations_say_what_to_use(self):
        with self.assertRaises((openai.BadRequestError, openai.NotFoundError)) as raised:
            self.client.images.create_variation(image=png())
        self.assertIn("edits", raised.exception.message)
