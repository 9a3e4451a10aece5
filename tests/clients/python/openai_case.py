"""Shared parts of the openai-python suites: clients, a generation, checks of refusals."""

import unittest

import openai

try:
    import httpx2 as httpx  # openai-python 3 uses it.
except ImportError:
    import httpx

from served import KEY, KEYED_URL, PROMPT, STEPS, URL, wait_until_ready

# Version 2 accepts only OpenAI's own sizes, so a strict client would reject the built-in model's 128x128.
IS_STRICT = int(openai.__version__.split(".")[0]) >= 3


class Counted(httpx.HTTPTransport):
    """Records the status of every request that leaves the client, retries included."""

    def __init__(self):
        super().__init__()
        self.statuses = []

    def handle_request(self, request):
        response = super().handle_request(request)
        self.statuses.append(response.status_code)
        return response


def client(url=URL, api_key="unused", **options):
    # A strict client raises if the types of an answer are not the documented ones.
    options = {"max_retries": 0, "timeout": 120, "_strict_response_validation": IS_STRICT, **options}
    return openai.OpenAI(base_url=f"{url}/v1", api_key=api_key, **options)


def counted_client(**options):
    """A client, and the list of the statuses that it receives, retries included."""
    transport = Counted()
    return client(http_client=httpx.Client(transport=transport), **options), transport.statuses


class ClientCase(unittest.TestCase):
    @classmethod
    def setUpClass(cls):
        wait_until_ready(URL)
        cls.client = client()

    def generate(self, **changes):
        """One generation. `extra_body` has the fields that OpenAI's own API lacks."""
        extra = {"num_inference_steps": STEPS, **changes.pop("extra_body", {})}
        return self.client.images.generate(**{"prompt": PROMPT, **changes}, extra_body=extra)

    def assert_refused(self, param, words, **changes):
        """Asserts that the client raises a 400 as BadRequestError, and that it names the field and the fault."""
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
    """Tests on the server with a key, which refuses a second request within a second."""

    @classmethod
    def setUpClass(cls):
        if KEYED_URL is None:
            raise unittest.SkipTest("only an address was given, without a key")
        wait_until_ready(KEYED_URL)
        cls.client = client(KEYED_URL, KEY)
