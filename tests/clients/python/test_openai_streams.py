"""Tests of openai-python: server-sent events of pictures, up to completion and up to an error."""

import signal
import time

import openai

from openai_case import ClientCase, client
from served import PROMPT, OwnServer, decode


# A strict client accepts only OpenAI's own events.
LOOSE = client(_strict_response_validation=False)


class Streams(ClientCase):
    def stream(self, **changes):
        extra = {"num_inference_steps": 8, "seed": 5, **changes.pop("extra_body", {})}
        client = changes.pop("client", self.client)
        return list(client.images.generate(**{"prompt": PROMPT, "stream": True, **changes}, extra_body=extra))

    def test_previews_and_then_the_picture(self):
        events = self.stream(partial_images=2)
        kinds = [event.type for event in events]
        self.assertEqual(kinds, ["image_generation.partial_image"] * 2 + ["image_generation.completed"])
        self.assertEqual([event.partial_image_index for event in events[:2]], [0, 1])
        for event in events:
            self.assertEqual(decode(event.b64_json).size, (128, 128))
            self.assertEqual((event.output_format, event.size), ("png", "128x128"))
            self.assertLess(abs(event.created_at - time.time()), 300)
        completed = events[-1]
        self.assertEqual(completed.usage.total_tokens, completed.usage.input_tokens + completed.usage.output_tokens)
        plain = self.generate(extra_body={"num_inference_steps": 8, "seed": 5}).data[0]
        self.assertEqual(completed.b64_json, plain.b64_json)

    def test_without_previews_only_the_picture(self):
        self.assertEqual([event.type for event in self.stream()], ["image_generation.completed"])
        self.assertEqual([event.type for event in self.stream(partial_images=0)], ["image_generation.completed"])

    def test_several_pictures_say_which_they_are(self):
        events = self.stream(n=2, partial_images=1)
        completed = [event for event in events if event.type == "image_generation.completed"]
        self.assertEqual(sorted(event.image_index for event in completed), [0, 1])
        self.assertNotEqual(completed[0].b64_json, completed[1].b64_json)
        self.assertEqual(len(events), 4)

    def test_progress_comes_only_when_asked_for(self):
        events = self.stream(client=LOOSE, extra_body={"stream_progress": True})
        steps = [event for event in events if event.type == "image_generation.progress"]
        self.assertEqual([step.step_index for step in steps], list(range(8)))
        self.assertEqual({step.num_inference_steps for step in steps}, {8})

    def test_a_refusal_is_no_stream(self):
        with self.assertRaises(openai.BadRequestError) as raised:
            self.stream(partial_images=4)
        self.assert_names(raised.exception, "partial_images", ["3", "4"])
        with self.assertRaises(openai.BadRequestError) as raised:
            self.stream(size="big")
        self.assert_names(raised.exception, "size", ["big"])

    def test_a_stream_that_is_left_frees_the_server(self):
        stream = self.client.images.generate(
            prompt=PROMPT, stream=True, partial_images=3, extra_body={"num_inference_steps": 1000}
        )
        self.assertEqual(next(iter(stream)).type, "image_generation.partial_image")
        stream.close()
        begun = time.monotonic()
        self.generate()
        self.assertLess(time.monotonic() - begun, 20)


class MidStreamErrors(ClientCase):
    def test_an_error_after_the_first_event_is_raised_with_its_code(self):
        with OwnServer("--drain-timeout", "1") as server:
            stream = client(server.url, timeout=600, _strict_response_validation=False).images.generate(
                prompt=PROMPT,
                stream=True,
                partial_images=0,
                extra_body={"num_inference_steps": 1000, "stream_progress": True},
            )
            events = iter(stream)
            self.assertEqual(next(events).type, "image_generation.progress")
            server.process.send_signal(signal.SIGTERM)
            with self.assertRaises(openai.APIError) as raised:
                for _ in events:
                    pass
        self.assertEqual((raised.exception.code, raised.exception.type), ("shutting_down", "server_error"))
        self.assertNotIsInstance(raised.exception, openai.APIConnectionError)
