"""openai-python against the built-in model: pictures, errors, models. `run.sh` sets LATENTD_URL."""

import base64
import io
import os
import time
import unittest
import urllib.error
import urllib.request

import openai
from PIL import Image

URL = os.environ["LATENTD_URL"].rstrip("/")
PROMPT = "a fox on a green background"
# Few steps: these tests are about the wire, not about the picture.
STEPS = 4


def setUpModule():
    """/health answers 503 until the model is loaded and warm."""
    deadline = time.monotonic() + 120
    while True:
        try:
            urllib.request.urlopen(f"{URL}/health", timeout=5)
            return
        except (urllib.error.URLError, OSError) as error:
            if time.monotonic() > deadline:
                raise AssertionError(f"{URL}/health never came up: {error}") from error
        time.sleep(0.5)


class ClientCase(unittest.TestCase):
    # Strict: an answer whose types are not the documented ones raises.
    client = openai.OpenAI(
        base_url=f"{URL}/v1", api_key="unused", max_retries=0, timeout=120, _strict_response_validation=True
    )

    def generate(self, **changes):
        """One generation; `extra_body` is what OpenAI's own API does not have."""
        extra = {"num_inference_steps": STEPS, **changes.pop("extra_body", {})}
        return self.client.images.generate(**{"prompt": PROMPT, **changes}, extra_body=extra)

    def assert_refused(self, param, words, **changes):
        """A 400 that the client raises as BadRequestError, naming the field and what was wrong."""
        with self.assertRaises(openai.BadRequestError) as raised:
            self.generate(**changes)
        error = raised.exception
        self.assertEqual(error.param, param)
        self.assertEqual(error.type, "invalid_request_error")
        self.assertIsInstance(error.code, str)
        self.assertTrue(error.request_id)
        for word in [param, *words]:
            self.assertIn(word, error.message)


class Pictures(ClientCase):
    def test_a_png_of_the_built_in_models_size(self):
        response = self.generate()
        image = decode(response.data[0])
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

    def test_jpeg_and_another_size(self):
        image = decode(self.generate(size="96x64", output_format="jpeg").data[0])
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


def decode(picture):
    image = Image.open(io.BytesIO(base64.b64decode(picture.b64_json, validate=True)))
    image.load()
    return image


if __name__ == "__main__":
    unittest.main()
