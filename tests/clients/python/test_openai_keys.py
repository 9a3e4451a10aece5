"""Tests of openai-python: keys, limits, and which refusals the client retries."""

import time
import urllib.request

import openai

from openai_case import ClientCase, KeyedCase, client, counted_client
from served import KEY, KEYED_URL, PROMPT, STEPS, opened

EXTRA = {"num_inference_steps": STEPS}


class Keys(KeyedCase):
    def test_a_wrong_key_is_an_authentication_error(self):
        for wrong in ("sk-wrong", KEY + "x"):
            with self.assertRaises(openai.AuthenticationError) as raised:
                client(KEYED_URL, wrong).models.list()
            self.assertEqual((raised.exception.code, raised.exception.type), ("invalid_api_key", "invalid_request_error"))
            self.assertEqual(raised.exception.response.headers["www-authenticate"], "Bearer")

    def test_the_key_is_taken_from_either_header(self):
        self.assertTrue(self.client.models.list().data)
        azure = {"Authorization": openai.Omit(), "api-key": KEY}
        self.assertTrue(client(KEYED_URL).models.list(extra_headers=azure).data)

    def test_a_picture_by_url_needs_no_key(self):
        time.sleep(1.1)
        picture = self.client.images.generate(prompt=PROMPT, response_format="url", extra_body=EXTRA).data[0]
        self.assertNotIn(KEY, picture.url)
        with urllib.request.urlopen(picture.url, timeout=10) as answer:
            self.assertEqual(opened(answer.read()).size, (128, 128))


class Limits(KeyedCase):
    def test_over_the_limit_is_a_rate_limit_error_that_says_when(self):
        time.sleep(1.1)
        with self.assertRaises(openai.RateLimitError) as raised:
            for _ in range(5):
                self.refused()
        self.assertEqual(raised.exception.code, "rate_limit_exceeded")
        headers = raised.exception.response.headers
        self.assertGreaterEqual(int(headers["retry-after"]), 1)
        self.assertGreater(int(headers["retry-after-ms"]), 0)
        self.assertEqual(headers["x-ratelimit-remaining-requests"], "0")

    def refused(self):
        """Sends a request that is refused at once. It counts against the limit."""
        try:
            self.client.images.generate(prompt="", extra_body=EXTRA)
        except openai.BadRequestError:
            pass

    def test_the_client_waits_as_told_and_gets_its_picture(self):
        time.sleep(1.1)
        patient, statuses = counted_client(url=KEYED_URL, api_key=KEY, max_retries=2)
        for _ in range(2):
            self.assertEqual(len(patient.images.generate(prompt=PROMPT, extra_body=EXTRA).data), 1)
        self.assertEqual(statuses[-1], 200)
        self.assertEqual([status for status in statuses if status not in (200, 429)], [])
        self.assertIn(429, statuses)


class Retries(ClientCase):
    def test_what_will_fail_again_is_asked_once(self):
        hasty, statuses = counted_client(max_retries=2)
        with self.assertRaises(openai.RateLimitError) as raised:
            hasty.images.generate(
                prompt=PROMPT,
                extra_body={"num_inference_steps": 1000},
                extra_headers={"x-request-timeout": "0.001"},
            )
        self.assertEqual(raised.exception.response.headers["x-should-retry"], "false")
        self.assertEqual(raised.exception.code, "deadline_too_short")
        self.assertEqual(statuses, [429])

    def test_a_bad_request_is_asked_once(self):
        hasty, statuses = counted_client(max_retries=2)
        with self.assertRaises(openai.BadRequestError):
            hasty.images.generate(prompt=PROMPT, size="big")
        self.assertEqual(statuses, [400])
