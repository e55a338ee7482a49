"""The manifest for GKE and the files beside it, against the launchers and what they run."""

import math
import re
import shlex
import tomllib

import pytest
import yaml
from launch_host import ROOT, Host

MANIFEST = yaml.safe_load((ROOT / "launch" / "gke.yaml").read_text())
(SLICE,) = MANIFEST["spec"]["replicatedJobs"]
JOB = SLICE["template"]["spec"]
POD = JOB["template"]["spec"]
(CONTAINER,) = POD["containers"]


@pytest.fixture
def host(tmp_path) -> Host:
    return Host(tmp_path)


def example(host: Host, script: str) -> list[str]:
    """The words of the example that ends a script's help."""
    text = host.run(script, "--help").stdout.partition("Example")[2].partition("\n")[2]
    return shlex.split(text.replace("\\\n", " "))


def test_a_container_of_the_manifest_runs_the_example_of_its_launcher(host):
    assert [*CONTAINER["command"], *CONTAINER["args"]] == example(host, "container.sh")
    done = host.run("container.sh", "--dry-run", *CONTAINER["args"])
    assert shlex.split(done.stdout) == ["bioclip2", "train", *CONTAINER["args"]]


def test_the_manifest_asks_for_what_the_tpu_launcher_asks_for(host):
    words = example(host, "tpu_pod.sh")
    split = words.index("--")
    assert words[split + 1 :] == CONTAINER["args"]
    labels = POD["nodeSelector"]
    chips = CONTAINER["resources"]["limits"]["google.com/tpu"]
    topology = [int(side) for side in labels["cloud.google.com/gke-tpu-topology"].split("x")]
    kind, _, number = words[words.index("--accelerator") + 1].partition("-")
    assert kind == "v5litepod" and labels["cloud.google.com/gke-tpu-accelerator"] == (
        "tpu-v5-lite-podslice"
    )
    assert JOB["parallelism"] * chips == math.prod(topology) == int(number)
    assert JOB["completions"] == JOB["parallelism"] and SLICE["replicas"] == 1
    assert ("--spot" in words[:split]) == (labels["cloud.google.com/gke-spot"] == "true")


def test_the_manifest_starts_all_again_after_any_end_but_that_of_a_wrong_call():
    assert POD["restartPolicy"] == "Never" and JOB["backoffLimit"] == 0
    (rule,) = JOB["podFailurePolicy"]["rules"]
    assert rule == {
        "action": "FailJob",
        "onExitCodes": {"containerName": CONTAINER["name"], "operator": "In", "values": [2]},
    }
    policy = MANIFEST["spec"]["failurePolicy"]
    (rule,) = policy["rules"]
    assert (rule["action"], rule["onJobFailureReasons"]) == ("FailJobSet", ["PodFailurePolicy"])
    assert policy["maxRestarts"] > 1 and policy["restartStrategy"] == "BlockingRecreate"


def test_the_image_holds_what_the_container_needs():
    text = (ROOT / "launch" / "Dockerfile").read_text()
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    (extras,) = re.findall(r'pip install .*"\.\[(.*)\]"', text)
    assert set(extras.split(",")) == {"tpu", "gcs"} <= set(project["optional-dependencies"])
    (version,) = re.findall(r"^FROM python:3\.(\d+)-slim$", text, re.MULTILINE)
    assert int(version) >= int(project["requires-python"].removeprefix(">=3."))
    assert (ROOT / CONTAINER["command"][1]).exists() and "\nCOPY . .\n" in text


def test_a_mount_keeps_names_for_ever_and_is_for_reading_alone():
    text = (ROOT / "launch" / "gcsfuse.yaml").read_text()
    config = yaml.safe_load(text)
    cache = config.pop("metadata-cache")
    assert cache.pop("negative-ttl-secs") == 0 and set(cache.values()) == {-1} and len(cache) == 3
    assert config == {"implicit-dirs": True, "file-system": {"kernel-list-cache-ttl-secs": -1}}
    assert "--config-file launch/gcsfuse.yaml -o ro " in text
