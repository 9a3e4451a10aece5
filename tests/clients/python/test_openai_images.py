"""Tests of openai-python: pictures, refusals and models, with JSON answers."""

import time
import urllib.request

import openai

from openai_case import ClientCase
from served import PROMPT, STEPS, URL, decode, opened


class Pictures(ClientCase):
    def test_a_png_of_the_built_in_models_size(self):
        response = self.generate()
        image = decode(response.data[0].b64_json)
        self.assertEqual((image.format, image.size, image.mode), ("PNG", (128, 128), "RGB"))
        self.assertEqual((response.size, response.output_format), ("128x128", "png"))
        self.assertLess(abs(response.created - time.time()), 300)
        self.assertTrue(response._request_id)

    def test_usage_counts_the_prompt_and_the_picture(self):
        usage = self.generate().usage
        self.assertGreater(usage.input_tokens, 0)
        self.assertEqual(usage.output_tokens, 64)
        self.assertEqual(usage.total_tokens, usage.input_tokens + usage.output_tokens)

    def test_the_seed_is_returned_and_makes_the_picture_again(self):
        first = self.generate().data[0]
        again = self.generate(extra_body={"seed": first.seed}).data[0]
        other = self.generate(extra_body={"seed": first.seed + 1}).data[0]
        self.assertEqual(again.b64_json, first.b64_json)
        self.assertNotEqual(other.b64_json, first.b64_json)

    def test_n_pictures_have_seeds_that_count_up(self):
        pictures = self.generate(n=3, extra_body={"seed": 5}).data
        self.assertEqual([picture.seed for picture in pictures], [5, 6, 7])
        alone = self.generate(extra_body={"seed": 6}).data[0]
        self.assertEqual(alone.b64_json, pictures[1].b64_json)

    def test_without_a_seed_no_two_pictures_are_alike(self):
        pictures = self.generate(n=2).data + self.generate().data
        self.assertEqual(len({picture.b64_json for picture in pictures}), 3)

    def test_the_raw_response_has_the_requests_id(self):
        raw = self.client.images.with_raw_response.generate(prompt=PROMPT, extra_body={"num_inference_steps": STEPS})
        self.assertEqual(raw.status_code, 200)
        self.assertEqual(raw.headers["x-request-id"], raw.request_id)
        self.assertGreaterEqual(int(raw.headers["openai-processing-ms"]), 1)
        self.assertEqual(len(raw.parse().data), 1)
        named = self.client.images.with_raw_response.generate(
            prompt=PROMPT, extra_body={"num_inference_steps": STEPS}, extra_headers={"x-request-id": "mine-7"}
        )
        self.assertEqual(named.headers["x-request-id"], "mine-7")

    def test_fields_without_effect_are_taken_and_named(self):
        raw = self.client.images.with_raw_response.generate(
            prompt=PROMPT, moderation="low", extra_body={"num_inference_steps": STEPS, "aspectRatio": "1:1"}
        )
        self.assertIn("aspectRatio", raw.headers["x-ignored-params"])

    def test_a_url_is_fetched_without_a_key(self):
        picture = self.generate(response_format="url", extra_body={"seed": 5}).data[0]
        self.assertIsNone(picture.b64_json)
        self.assertTrue(picture.url.startswith(URL), picture.url)
        with urllib.request.urlopen(picture.url, timeout=10) as answer:
            self.assertEqual(answer.headers["content-type"], "image/png")
            file = answer.read()
        again = self.generate(extra_body={"seed": 5}).data[0]
        self.assertEqual(opened(file).tobytes(), decode(again.b64_json).tobytes())

    def test_webp(self):
        image = decode(self.generate(output_format="webp").data[0].b64_json)
        self.assertEqual((image.format, image.size), ("WEBP", (128, 128)))

    def test_jpeg_and_another_size(self):
        image = decode(self.generate(size="96x64", output_format="jpeg").data[0].b64_json)
        self.assertEqual((image.format, image.size), ("JPEG", (96, 64)))


class Refusals(ClientCase):
    def test_a_size_that_is_none(self):
        self.assert_refused("size", ["0x128"], size="0x128")
        self.assert_refused("size", ["big"], size="big")

    def test_too_many_pictures(self):
        self.assert_refused("n", ["10", "11"], n=11)

    def test_an_empty_prompt(self):
        self.assert_refused("prompt", [], prompt="")

    def test_steps_and_seeds_out_of_bounds(self):
        self.assert_refused("num_inference_steps", ["1000", "1001"], extra_body={"num_inference_steps": 1001})
        self.assert_refused("seed", ["-2"], extra_body={"seed": -2})

    def test_an_unknown_output_format(self):
        self.assert_refused("output_format", ["tiff"], output_format="tiff")

    def test_an_unknown_model_and_what_there_is_instead(self):
        with self.assertRaises(openai.NotFoundError) as raised:
            self.generate(model="no-such-model")
        self.assertEqual((raised.exception.code, raised.exception.param), ("model_not_found", "model"))
        self.assertIn(self.client.models.list().data[0].id, raised.exception.message)

    def test_an_unknown_route(self):
        with self.assertRaises(openai.NotFoundError) as raised:
            self.client.post("/nowhere", cast_to=object)
        self.assertEqual(set(raised.exception.body), {"message", "type", "param", "code"})


class Models(ClientCase):
    def test_the_list_and_each_of_its_models(self):
        models = self.client.models.list().data
        self.assertTrue(models)
        for model in models:
            self.assertEqual(model.object, "model")
            self.assertEqual(self.client.models.retrieve(model.id).id, model.id)
