"""Runs every query of the dashboard and of the alerts on a real Prometheus that scrapes a real server."""

import json
import math
import os
import re
import socket
import subprocess
import tempfile
import time
import unittest
import urllib.error
import urllib.parse
import urllib.request
from pathlib import Path

DEPLOY = Path(__file__).resolve().parents[2] / "deploy"
DASHBOARD = json.loads((DEPLOY / "grafana/latentd.json").read_text())
# This metric needs a picture that fails, which a healthy server does not have.
NEVER_HERE = "latentd_failed_total"
# Intervals shorter than in prometheus.yml, so that the test does not wait for minutes.
SCRAPE, RATE_INTERVAL = "1s", "20s"


def free_port():
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return listener.getsockname()[1]


def get(url):
    with urllib.request.urlopen(url, timeout=10) as response:
        return response.read().decode()


def wait_for(url, process, log):
    for _ in range(240):
        try:
            return get(url)
        except (OSError, urllib.error.URLError):
            if process.poll() is not None:
                break
            time.sleep(0.5)
    raise AssertionError(f"{url} does not answer:\n{Path(log).read_text()[-2000:]}")


def panels():
    return [panel for panel in DASHBOARD["panels"] if panel["type"] != "row"]


def targets():
    """(panel's title, query, legend) of every query in the dashboard."""
    return [(panel["title"], t["expr"], t["legendFormat"]) for panel in panels() for t in panel["targets"]]


def metrics_in(text):
    """The names of metrics in a query, or in a file with queries, without a histogram's suffixes."""
    names = re.findall(r"\b((?:latentd|process)_[a-z_]+)\b", text)
    return {re.sub(r"_(bucket|sum|count)$", "", name) for name in names}


class Monitoring(unittest.TestCase):
    @classmethod
    def setUpClass(cls):
        folder = tempfile.TemporaryDirectory()
        cls.addClassCleanup(folder.cleanup)
        cls.folder = Path(folder.name)
        server, prometheus = f"127.0.0.1:{free_port()}", f"127.0.0.1:{free_port()}"
        cls.server, cls.prometheus = f"http://{server}", f"http://{prometheus}"
        # The dashboard also shows the cache and refusals.
        flags = ["--max-request-seconds", "1", "--cache-backend", "cache_dit"]
        address = ["--host", "127.0.0.1", "--port", server.rsplit(":", 1)[1]]
        cls.start("server", [os.environ["LATENTD"], "serve", *address, *flags], f"{cls.server}/readyz")
        cls.pictures()
        config = (DEPLOY / "prometheus/prometheus.yml").read_text()
        config = config.replace("latentd:8091", server).replace("15s", SCRAPE)
        (cls.folder / "prometheus.yml").write_text(config)
        (cls.folder / "alerts.yml").write_text((DEPLOY / "prometheus/alerts.yml").read_text())
        cls.start(
            "prometheus",
            [
                "prometheus",
                f"--config.file={cls.folder}/prometheus.yml",
                f"--storage.tsdb.path={cls.folder}/data",
                f"--web.listen-address={prometheus}",
            ],
            f"{cls.prometheus}/-/ready",
        )
        # A rate needs two samples with an increase between them.
        cls.wait_for_samples(2)
        cls.pictures()
        cls.wait_for_samples(5)

    @classmethod
    def start(cls, name, command, url):
        log = cls.folder / f"{name}.log"
        with log.open("w") as output:
            process = subprocess.Popen(command, stdout=output, stderr=subprocess.STDOUT)
        cls.addClassCleanup(process.wait)
        cls.addClassCleanup(process.kill)
        wait_for(url, process, log)

    @classmethod
    def pictures(cls):
        """Requests one picture that is made and one request that is refused."""
        # Ten pictures of 1000 steps cannot be made in a second on any machine, so that request is refused.
        for count, steps, status in ((1, 12, 200), (10, 1000, 429)):
            body = json.dumps({"prompt": "a fox", "n": count, "num_inference_steps": steps}).encode()
            url, headers = f"{cls.server}/v1/images/generations", {"content-type": "application/json"}
            request = urllib.request.Request(url, body, headers)
            try:
                given = urllib.request.urlopen(request, timeout=60).status
            except urllib.error.HTTPError as error:
                given = error.code
            assert given == status, (steps, given)

    @classmethod
    def wait_for_samples(cls, count):
        """Waits until the server was scraped `count` times. The first scrape takes Prometheus seconds."""
        for _ in range(240):
            if cls.query(f"count_over_time(up[1h]) >= {count}"):
                return
            time.sleep(0.25)
        raise AssertionError("Prometheus does not scrape the server")

    @classmethod
    def query(cls, expr):
        """Evaluates an expression. Returns the labels and the value of each series."""
        for variable, value in (("$__rate_interval", RATE_INTERVAL), ("$instance", ".+")):
            expr = expr.replace(variable, value)
        url = f"{cls.prometheus}/api/v1/query?{urllib.parse.urlencode({'query': expr})}"
        return [(series["metric"], float(series["value"][1])) for series in json.loads(get(url))["data"]["result"]]

    def test_every_query_of_the_dashboard_has_an_answer(self):
        for title, expr, legend in targets():
            with self.subTest(title, expr=expr):
                series = self.query(expr)
                self.assertEqual(bool(series), NEVER_HERE not in expr)
                # Series of events that did not happen lately may be NaN.
                self.assertTrue(any(math.isfinite(value) for _, value in series) or not series, series)
                for label in re.findall(r"{{(\w+)}}", legend):
                    self.assertTrue(all(label in labels for labels, _ in series), series)

    def test_every_metric_that_is_watched_exists(self):
        exposed = set(re.findall(r"^# TYPE (\S+)", get(f"{self.server}/metrics"), re.M))
        for path in (
            "grafana/latentd.json",
            "prometheus/alerts.yml",
            "prometheus/alerts_test.yml",
            "kubernetes/base/horizontalpodautoscaler.yaml",
        ):
            named = metrics_in((DEPLOY / path).read_text())
            self.assertTrue(named, path)
            # A metric family appears with its first event.
            self.assertLessEqual(named - {NEVER_HERE}, exposed, path)

    def test_what_is_scaled_by_is_a_gauge(self):
        types = dict(re.findall(r"^# TYPE (\S+) (\S+)", get(f"{self.server}/metrics"), re.M))
        for name in metrics_in((DEPLOY / "kubernetes/base/horizontalpodautoscaler.yaml").read_text()):
            self.assertEqual(types[name], "gauge", name)

    def test_a_healthy_server_raises_no_alert_and_every_rule_is_evaluated(self):
        (group,) = json.loads(get(f"{self.prometheus}/api/v1/rules"))["data"]["groups"]
        # The alert for refusals is pending, because they have not lasted long enough to fire.
        states = {rule["name"]: (rule["health"], rule["state"]) for rule in group["rules"]}
        expected = dict.fromkeys(states, ("ok", "inactive")) | {"LatentdRefusing": ("ok", "pending")}
        self.assertEqual(states, expected)

    def test_the_servers_text_is_as_promtool_wants_it(self):
        text = get(f"{self.server}/metrics")
        result = subprocess.run(["promtool", "check", "metrics"], input=text, capture_output=True, text=True)
        self.assertEqual((result.returncode, result.stdout + result.stderr), (0, ""))

    def test_panels_have_their_own_place(self):
        taken, identities = set(), [panel["id"] for panel in DASHBOARD["panels"]]
        self.assertEqual(len(identities), len(set(identities)))
        for panel in DASHBOARD["panels"]:
            place = panel["gridPos"]
            self.assertLessEqual(place["x"] + place["w"], 24)
            cells = {(place["x"] + x, place["y"] + y) for x in range(place["w"]) for y in range(place["h"])}
            self.assertFalse(cells & taken, panel["title"])
            taken |= cells


if __name__ == "__main__":
    unittest.main()
