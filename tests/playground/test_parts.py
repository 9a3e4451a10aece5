"""The page's pure functions, called in the browser."""

from page import PlaygroundCase


class Parts(PlaygroundCase):
    def ask(self, module, expression):
        """Evaluates `expression` with the module's exports as `m`."""
        page = self.open()
        return page.evaluate(f"async () => {{ const m = await import('./playground/{module}.js'); return {expression}; }}")

    def test_the_sizes_of_a_large_model(self):
        shapes = self.ask("sizes", "m.shapes('1328x1328', 4_000_000)")
        offered = {shape["name"]: (shape["width"], shape["height"]) for shape in shapes}
        self.assertEqual(offered["1:1"], (1328, 1328))
        self.assertEqual(offered["16:9"], (1776, 992))
        self.assertEqual(offered["3:4"], (1152, 1536))
        self.assertEqual(self.ask("sizes", "m.shapes('1024x512', 1e7)[0]"), {"name": "default", "width": 1024, "height": 512})
        self.assertEqual(self.ask("sizes", "m.shapes('1328x1328', 1000)"), [])

    def test_events_that_arrive_in_pieces(self):
        stream = """(async () => {
          const bytes = new TextEncoder().encode(': hello\\n\\nevent: a\\r\\ndata: {"ü": 1}\\r\\n\\r\\n: again\\n\\ndata: [2,\\ndata: 3]\\n\\ndata: 4');
          const body = new ReadableStream({ start(controller) {
            for (const byte of bytes) controller.enqueue(new Uint8Array([byte]));
            controller.close();
          } });
          const seen = [];
          for await (const event of m.readEvents(body)) seen.push(event);
          return seen;
        })()"""
        self.assertEqual(self.ask("sse", f"await {stream}"), [{"ü": 1}, [2, 3]], "and no event that was cut off")

    def test_times_in_words(self):
        words = self.ask("words", "[4.4, 999.4, 999.6, 9994, 9996, 59_949, 59_951, 125_400].map(m.duration)")
        plain = [text.replace("\u00a0", " ") for text in words]
        self.assertEqual(plain, ["4 ms", "999 ms", "1.00 s", "9.99 s", "10.0 s", "59.9 s", "1 min 0 s", "2 min 5 s"])

    def test_what_to_compare_with(self):
        compared = "[['off', true], ['server', true], ['server', false], ['ultra', false], ['lossless', true]]"
        asked = self.ask("compare", f"{compared}.map(([choice, enabled]) => m.comparedCache(choice, {{ enabled }}))")
        self.assertEqual(asked, ["balanced", "server", "balanced", "ultra", "balanced"])

    def test_audits_in_a_line(self):
        found = "{ psnr_db: 46.31, ssim: 0.9912, latent_error: 0.02 }"
        lines = f"""[
          {{ share: 0.015, done: 0 }},
          {{ share: 1, done: 1, promised_psnr_db: null, mean: {found}, tightened_by_db: 0 }},
          {{ share: 1, done: 12, promised_psnr_db: 47, mean: {found}, tightened_by_db: 0.7 }},
        ].map(m.line)"""
        self.assertEqual(self.ask("audits", lines), [
            "Audits: 1.5 % of the pictures made with a cache are made again without it, none so far.",
            "Audits: 1 picture made again without the cache, 46.3 dB in the mean, SSIM 0.991.",
            "Audits: 12 pictures made again without the cache, 46.3 dB in the mean (47.0 promised), SSIM 0.991, plans "
            "tightened by 0.7 dB.",
        ])

    def test_the_pace_does_not_count_the_time_in_line(self):
        pace = """(() => { const pace = new m.Pace(5); const texts = [pace.text()];
          for (const now of [60_000, 62_000, 64_000, 66_000, 68_000]) { pace.note(now); texts.push(pace.text()); }
          return texts; })()"""
        expected = ["Step 0 of 5", "Step 1 of 5", "Step 2 of 5, about 6 s left", "Step 3 of 5, about 4 s left"]
        self.assertEqual(self.ask("pace", pace), [*expected, "Step 4 of 5, about 2 s left", "Decoding…"])
