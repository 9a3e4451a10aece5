"""Consistency between the files of deploy/, those of docker/, and the program."""

import os
import re
import subprocess
import unittest
from pathlib import Path

import yaml

ROOT = Path(__file__).resolve().parents[2]
HELP = subprocess.run([os.environ["LATENTD"], "serve", "--help"], capture_output=True, text=True, check=True).stdout
# Seconds that a drained server gives its connections to close: server/src/serve.rs.
CLOSE = 5


def default_of(flag):
    """A flag's default, as `--help` shows it."""
    return re.search(rf"--{flag} .*?\[default: (.*?)\]", HELP, re.DOTALL)[1]


def seconds(text):
    """`75s` or `75` as a number."""
    return int(str(text).removesuffix("s"))


class Rendered(dict):
    """The objects of an overlay, by kind."""

    def __init__(self, overlay):
        folder = ROOT / "deploy/kubernetes" / overlay
        text = subprocess.run(["kubectl", "kustomize", folder], capture_output=True, text=True, check=True).stdout
        super().__init__((item["kind"], item) for item in yaml.safe_load_all(text))
        self.pod = self["Deployment"]["spec"]["template"]
        self.labels = self.pod["metadata"]["labels"]
        (self.container,) = self.pod["spec"]["containers"]


class Kubernetes(unittest.TestCase):
    @classmethod
    def setUpClass(cls):
        cls.base, cls.gpu, cls.single = map(Rendered, ("base", "overlays/gpu", "overlays/single"))
        cls.each = (cls.base, cls.gpu, cls.single)

    def test_selectors_select_the_pods_and_no_others(self):
        for objects in self.each:
            spec = {kind: item.get("spec") for kind, item in objects.items()}
            selectors = [
                spec["Deployment"]["selector"]["matchLabels"],
                spec["Service"]["selector"],
                spec["NetworkPolicy"]["podSelector"].get("matchLabels"),
                spec["PodDisruptionBudget"]["selector"].get("matchLabels"),
                spec["Deployment"]["template"]["spec"]["topologySpreadConstraints"][0]["labelSelector"]["matchLabels"],
            ]
            for selector in selectors:
                # A selector without labels would select every pod of the namespace.
                self.assertTrue(selector)
                self.assertLessEqual(selector.items(), objects.labels.items())

    def test_what_is_named_is_there(self):
        for objects in self.each:
            names = {(kind, item["metadata"]["name"]) for kind, item in objects.items()}
            spec = objects.pod["spec"]
            self.assertIn(("ConfigMap", objects.container["envFrom"][0]["configMapRef"]["name"]), names)
            self.assertIn(("ServiceAccount", spec["serviceAccountName"]), names)
            claims = [
                volume["persistentVolumeClaim"] for volume in spec["volumes"] if "persistentVolumeClaim" in volume
            ]
            self.assertIn(("PersistentVolumeClaim", claims[0]["claimName"]), names)
            volumes = {volume["name"] for volume in spec["volumes"]}
            self.assertEqual(volumes, {mount["name"] for mount in objects.container["volumeMounts"]})
            if "HorizontalPodAutoscaler" in objects:
                target = objects["HorizontalPodAutoscaler"]["spec"]["scaleTargetRef"]
                self.assertIn((target["kind"], target["name"]), names)
                self.assertNotIn("replicas", objects["Deployment"]["spec"])

    def test_ports_and_probes_lead_to_the_server(self):
        for objects in self.each:
            (port,) = objects.container["ports"]
            self.assertEqual(port, {"name": "http", "containerPort": int(default_of("port"))})
            self.assertEqual(objects["Service"]["spec"]["ports"][0]["targetPort"], "http")
            for probe, path in (("startup", "/readyz"), ("readiness", "/readyz"), ("liveness", "/livez")):
                self.assertEqual(objects.container[f"{probe}Probe"]["httpGet"], {"path": path, "port": "http"})

    def test_a_stopping_pod_has_the_time_to_finish(self):
        for objects in self.each:
            drain = int(objects["ConfigMap"]["data"]["LATENTD_DRAIN_TIMEOUT"])
            pause = objects.container["lifecycle"]["preStop"]["sleep"]["seconds"]
            self.assertGreater(objects.pod["spec"]["terminationGracePeriodSeconds"], pause + drain + CLOSE)

    def test_the_environment_is_the_servers_own(self):
        for objects in self.each:
            # Kubernetes would set LATENTD_PORT=tcp://… for a Service named latentd.
            self.assertIs(objects.pod["spec"]["enableServiceLinks"], False)
            for name in objects["ConfigMap"]["data"]:
                self.assertIn(f"[env: {name}=", HELP)

    def test_pods_meet_the_restricted_standard(self):
        for objects in self.each:
            spec, security = objects.pod["spec"], objects.container["securityContext"]
            self.assertIs(spec["securityContext"]["runAsNonRoot"], True)
            self.assertEqual(spec["securityContext"]["seccompProfile"], {"type": "RuntimeDefault"})
            self.assertIs(security["allowPrivilegeEscalation"], False)
            self.assertEqual(security["capabilities"], {"drop": ["ALL"]})
            self.assertIs(security["readOnlyRootFilesystem"], True)
            self.assertIs(spec["automountServiceAccountToken"], False)
            allowed = {"emptyDir", "persistentVolumeClaim"}
            self.assertLessEqual({key for volume in spec["volumes"] for key in volume} - {"name"}, allowed)

    def test_the_pods_write_where_the_image_lets_them(self):
        image = (ROOT / "docker/Dockerfile").read_text()
        user, volume = re.search(r"^USER (\d+):\1$", image, re.M)[1], re.search(r'^VOLUME \["(.*)"\]$', image, re.M)[1]
        for objects in self.each:
            context = objects.pod["spec"]["securityContext"]
            self.assertEqual({context[key] for key in ("runAsUser", "runAsGroup", "fsGroup")}, {int(user)})
            self.assertEqual({mount["mountPath"] for mount in objects.container["volumeMounts"]}, {volume, "/tmp"})

    def test_the_service_monitor_finds_the_service(self):
        objects = self.gpu
        monitor, service = objects["ServiceMonitor"]["spec"], objects["Service"]
        self.assertLessEqual(monitor["selector"]["matchLabels"].items(), service["metadata"]["labels"].items())
        self.assertEqual(monitor["endpoints"][0]["port"], service["spec"]["ports"][0]["name"])
        # The alerts and the dashboard name this job.
        self.assertEqual(service["metadata"]["labels"][monitor["jobLabel"]], "latentd")

    def test_the_gpu_overlay_asks_for_a_gpu(self):
        objects = self.gpu
        self.assertEqual(objects.container["resources"]["limits"]["nvidia.com/gpu"], "1")
        self.assertEqual(objects["ConfigMap"]["data"]["LATENTD_DEVICE"], "cuda")
        self.assertTrue(objects.container["image"].endswith("-cuda"))

    def test_the_single_overlay_needs_nothing_of_the_cluster(self):
        objects = self.single
        self.assertNotIn("HorizontalPodAutoscaler", objects)
        self.assertEqual(objects["PersistentVolumeClaim"]["spec"]["accessModes"], ["ReadWriteOnce"])
        self.assertEqual(objects["Deployment"]["spec"]["strategy"], {"type": "Recreate"})


class Containers(unittest.TestCase):
    def test_compose_confines_every_service(self):
        services = yaml.safe_load((ROOT / "docker/compose.yaml").read_text())["services"]
        for name, service in services.items():
            with self.subTest(name):
                self.assertEqual(service["cap_drop"], ["ALL"])
                self.assertEqual(service["security_opt"], ["no-new-privileges:true"])
        for name in ("latentd", "latentd-gpu"):
            with self.subTest(name):
                self.assertIs(services[name]["read_only"], True)
                self.assertGreater(
                    seconds(services[name]["stop_grace_period"]), int(default_of("drain-timeout")) + CLOSE
                )
                self.assertTrue((ROOT / services[name]["build"]["dockerfile"]).exists())

    def test_compose_mounts_what_is_there(self):
        services = yaml.safe_load((ROOT / "docker/compose.yaml").read_text())["services"]
        sources = [mount.split(":")[0] for service in services.values() for mount in service.get("volumes", [])]
        folders = [source for source in sources if source.startswith(".")]
        self.assertEqual(len(folders), 3)
        for source in folders:
            self.assertTrue((ROOT / "docker" / source).exists(), source)

    def test_both_images_are_made_alike(self):
        def lines(path, words):
            return [line for line in (ROOT / path).read_text().splitlines() if line.startswith(words)]

        alike = (
            "USER",
            "VOLUME",
            "EXPOSE",
            "HEALTHCHECK",
            "ENTRYPOINT",
            "CMD",
            "LABEL",
            "ARG RUST_IMAGE",
            "RUN cargo install",
        )
        self.assertEqual(len(lines("docker/Dockerfile", alike)), len(alike))
        self.assertEqual(lines("docker/Dockerfile", alike), lines("docker/Dockerfile.cuda", alike))
        ignored = (ROOT / "docker/Dockerfile.dockerignore").read_text()
        self.assertEqual(ignored, (ROOT / "docker/Dockerfile.cuda.dockerignore").read_text())

    def test_the_image_for_gpus_is_built_as_a_build_by_hand(self):
        image, toolkit = (ROOT / "docker/Dockerfile.cuda").read_text(), (ROOT / "tests/cuda/toolkit.sh").read_text()
        version = re.search(r"^version=(\S+)$", toolkit, re.M)[1]
        bases = re.findall(r"^ARG CUDA_(?:BUILD|RUNTIME)_IMAGE=nvidia/cuda:([\d.]+)-(devel|runtime)-", image, re.M)
        self.assertEqual(bases, [(version, "devel"), (version, "runtime")])
        capability = re.search(r"CUDA_COMPUTE_CAP:-(\d+)", toolkit)[1]
        self.assertIn(f"ARG CUDA_COMPUTE_CAP={capability}\n", image)
        major, minor = re.search(
            r"OLDEST_CAPABILITY: \(i32, i32\) = \((\d+), (\d+)\)", (ROOT / "crates/gpu/src/unavailable.rs").read_text()
        ).groups()
        self.assertEqual(capability, major + minor)
        features = re.findall(r"^RUN cargo (?:chef cook|build) .*--features (\S+)", image, re.M)
        manifest = (ROOT / "crates/latentd/Cargo.toml").read_text()
        self.assertEqual(features, ["cuda", "cuda"])
        self.assertRegex(manifest, rf"(?m)^{features[0]} = \[")
        # The device of the images and of the unit is one that `--device` accepts.
        for path in ("docker/Dockerfile.cuda", "deploy/systemd/gpu.conf"):
            device = re.search(r"LATENTD_DEVICE=(\S+)", (ROOT / path).read_text())[1]
            self.assertIn(device, re.search(r"--device .*?\n\s+(.*?);", HELP, re.S)[1], path)

    def test_the_packages_that_the_readme_names_are_the_images_toolkit(self):
        version = re.search(r"nvidia/cuda:(\d+)\.(\d+)", (ROOT / "docker/Dockerfile.cuda").read_text())
        readme = (ROOT / "README.md").read_text()
        for library in ("cublas", "curand"):
            self.assertIn(f"lib{library}-{version[1]}-{version[2]}", readme)


class Everywhere(unittest.TestCase):
    def test_every_variable_is_one_of_the_servers(self):
        known = set(re.findall(r"\[env: (LATENTD_\w+)", HELP)) | {"LATENTD_LOG"}
        # LATENTD_BIND belongs to compose: the host address on which the port is published.
        for path in [*ROOT.glob("docker/*"), *ROOT.glob("deploy/**/*")]:
            if path.is_file():
                named = set(re.findall(r"\bLATENTD_[A-Z_]+\b", path.read_text())) - {"LATENTD_BIND"}
                self.assertLessEqual(named, known, path)

    def test_systemd_gives_the_server_the_time_to_finish(self):
        unit = (ROOT / "deploy/systemd/latentd.service").read_text()
        timeout = int(re.search(r"^TimeoutStopSec=(\d+)$", unit, re.M)[1])
        self.assertGreater(timeout, int(default_of("drain-timeout")) + CLOSE)


if __name__ == "__main__":
    unittest.main()
