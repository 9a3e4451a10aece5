"""What the suites of openai-python share: a client, one generation, one refusal."""

import unittest

import openai

try:
    import httpx2 as httpx  # What openai-python 3 stands on.
except ImportError:
    import httpx

from served import KEY, KEYED_URL, PROMPT, STEPS, URL, wait_until_ready

# 2.x knows no sizes but OpenAI's own, so that it would refuse every answer of the built-in model, 128x128.
IS_STRICT = int(openai.__version__.split(".")[0]) >= 3


class Counted(httpx.HTTPTransport):
    """Counts the requests that leave the client: retries and all."""

    def __init__(self):
        super().__init__()
        self.statuses = []

    def handle_request(self, request):
        response = super().handle_request(request)
        self.statuses.append(response.status_code)
        return response


def client(url=URL, api_key="unused", **options):
    # Strict: an answer whose types are not the documented ones raises.
    options = {"max_retries": 0, "timeout": 120, "_strict_response_validation": IS_STRICT, **options}
    return openai.OpenAI(base_url=f"{url}/v1", api_key=api_key, **options)


def counted_client(**options):
    """A client that retries, and the statuses that it met."""
    transport = Counted()
    return client(http_client=httpx.Client(transport=transport), **options), transport.statuses


class ClientCase(unittest.TestCase):
    @classmethod
    def setUpClass(cls):
        wait_until_ready(URL)
        cls.client = client()

    def generate(self, **changes):
        """One generation; `extra_body` is what OpenAI's own API does not have."""
        extra = {"num_inference_steps": STEPS, **changes.pop("extra_body", {})}
        return self.client.images.generate(**{"prompt": PROMPT, **changes}, extra_body=extra)

    def assert_refused(self, param, words, **changes):
        """A 400 that the client raises as BadRequestError, naming the field and what was wrong."""
        with self.assertRaises(openai.BadRequestError) as raised:
            self.generate(**changes)
        return self.assert_names(raised.exception, param, words)

    def assert_names(self, error, param, words):
        self.assertEqual(error.param, param)
        self.assertEqual(error.type, "invalid_request_error")
        self.assertIsInstance(error.code, str)
        self.assertTrue(error.request_id)
        for word in [param, *words]:
            self.assertIn(word, error.message)
        return error


class KeyedCase(unittest.TestCase):
    """On the server with a key, which refuses the second request of a second."""

    @classmethod
    def setUpClass(cls):
        if KEYED_URL is None:
            raise unittest.SkipTest("only an address was given, without a key")
        wait_until_ready(KEYED_URL)
        cls.client = client(KEYED_URL, KEY)
