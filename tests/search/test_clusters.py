"""The ready files for clusters, as far as they can be tried without a cloud; and clusters that ask for a token."""

import os
import re
import shlex
import shutil
import socket
import subprocess
import sys
import time
from pathlib import Path

import pytest
import typer
from ray.autoscaler._private.util import prepare_config, validate_config
from ruamel.yaml import YAML

from search import cli
from search.workers.luggage import TAKEN
from tests.search.command import space_file
from tests.search.drivers import ROOT, assert_gone, family

CLUSTERS = ROOT / "search" / "clusters"
VERSION = "2.60.0"  # of Ray, everywhere
SMALL = "--object-store-memory=100000000 --dashboard-agent-listen-port=0"
WITHOUT = {name: value for name, value in os.environ.items() if not name.startswith("RAY_")}


def documents(name):
    return list(YAML(typ="safe").load_all((CLUSTERS / name).read_text()))


def parsed(line):
    """The options of `archsearch run ...` as the command line takes them; anything it does not know raises."""
    program, command, *words = shlex.split(line)
    assert (program, command) == ("archsearch", "run")
    run = typer.main.get_command(cli.app).commands["run"]
    return run.make_context("run", words).params


def test_the_aws_cluster_is_one_that_ray_takes():
    (config,) = documents("aws.yaml")
    prepared = prepare_config(config)
    validate_config(prepared)
    head, gpu = (prepared["available_node_types"][kind] for kind in ("head", "gpu"))
    assert head["resources"] == {"CPU": 0}
    assert gpu["max_workers"] == prepared["max_workers"]
    assert gpu["node_config"]["InstanceMarketOptions"]["MarketType"] == "spot"
    images = [prepared["docker"][key] for key in ("head_image", "worker_image")]
    assert all(f":{VERSION}-py311" in image for image in images)
    text = (CLUSTERS / "aws.yaml").read_text()
    (line,) = re.findall(r"'(archsearch run .*)'", text)
    assert parsed(line)["address"] == "auto"
    assert parsed(line)["checkpoints"].startswith("s3://")


# Of the custom resource, KubeRay's ray-operator/apis/ray/v1: what may stand where, as far as ours goes.
JOB = {"entrypoint", "backoffLimit", "shutdownAfterJobFinishes", "ttlSecondsAfterFinished", "rayClusterSpec"}
CLUSTER = {"rayVersion", "enableInTreeAutoscaling", "autoscalerOptions", "headGroupSpec", "workerGroupSpecs"}
WORKERS = {"groupName", "replicas", "minReplicas", "maxReplicas", "rayStartParams", "template"}


def test_the_rayjob_has_the_form_that_kuberay_takes():
    job, claim = documents("rayjob.yaml")
    assert (job["apiVersion"], job["kind"]) == ("ray.io/v1", "RayJob")
    spec, cluster = job["spec"], job["spec"]["rayClusterSpec"]
    assert spec.keys() == JOB
    assert cluster.keys() == CLUSTER
    assert cluster["rayVersion"] == VERSION
    assert cluster["headGroupSpec"].keys() == {"rayStartParams", "template"}
    (workers,) = cluster["workerGroupSpecs"]
    assert workers.keys() == WORKERS
    assert workers["minReplicas"] <= workers["replicas"] <= workers["maxReplicas"]
    for group in (cluster["headGroupSpec"], workers):
        assert all(isinstance(value, str) for value in group["rayStartParams"].values())
        pod = group["template"]["spec"]
        assert pod["restartPolicy"] == "Never"
        (container,) = pod["containers"]
        assert {mount["name"] for mount in container["volumeMounts"]} <= {volume["name"] for volume in pod["volumes"]}
        assert container["resources"]["limits"] == container["resources"]["requests"]
    assert claim["metadata"]["name"] == pod["volumes"][0]["persistentVolumeClaim"]["claimName"]
    shell, flag, script = shlex.split(spec["entrypoint"])
    assert (shell, flag) == ("sh", "-c")
    line = script.partition("exec ")[2]
    assert parsed(line.replace("$more", ""))["resume"] is False
    assert parsed(line.replace("$more", "--resume"))["resume"] is True


def test_the_readme_of_clusters_says_what_is_so():
    text = " ".join((CLUSTERS / "README.md").read_text().split())
    for file in CLUSTERS.iterdir():
        assert file.name.startswith("_") or file.name == "README.md" or f"`{file.name}`" in text
    taken = re.search(r"where they are set, (.*?), and nothing else", text)
    assert taken is not None
    assert {name.strip(" `") for name in taken[1].split(",")} == set(TAKEN)


def test_the_slurm_script_is_clean():
    script = str(CLUSTERS / "slurm.sh")
    subprocess.run(["bash", "-n", script], check=True)
    shellcheck = Path(sys.executable).with_name("shellcheck")
    done = subprocess.run([str(shellcheck), script], capture_output=True, text=True, check=False)
    assert done.stdout == ""


def free_port():
    with socket.socket() as probe:
        probe.bind(("", 0))
        return probe.getsockname()[1]


def program(folder, name, text):
    folder.mkdir(exist_ok=True)
    (folder / name).write_text(f"#!/usr/bin/env bash\n{text}\n")
    (folder / name).chmod(0o755)


def test_the_slurm_script_runs_a_search_on_two_nodes(tmp_path):
    """As on Slurm, but that both nodes are this machine."""
    bin_ = tmp_path / "bin"
    program(bin_, "scontrol", '[ "$1 $2" = "show hostnames" ] && tr , "\\n" <<<"$3"')
    program(bin_, "srun", 'echo "srun $*" >>"$WORDS"; while [[ $1 == --* ]]; do shift; done; exec "$@"')
    program(bin_, "archsearch", f'echo "$*" >>"$WORDS"; exec {sys.executable} -m search.cli "$@"')
    program(bin_, "ray", f'exec {sys.executable} -m ray.scripts.scripts "$@"')
    space = space_file(tmp_path, search__trials=2, dimensions={"width": [0.125, 0.25]}, backbones=["resnet10t"])
    variables = {
        **WITHOUT,
        "PATH": f"{bin_}:{os.environ['PATH']}",
        "PYTHONPATH": str(ROOT),
        "WORDS": str(tmp_path / "words"),
        "SLURM_JOB_ID": "7",
        "SLURM_JOB_NODELIST": "one,two",
        "SLURM_CPUS_PER_TASK": "1",
        "PORT": str(free_port()),
        "RAY_START_OPTIONS": SMALL,
    }
    script = shutil.copy(CLUSTERS / "slurm.sh", tmp_path)
    job = subprocess.Popen(
        ["bash", script, str(space)],
        cwd=tmp_path,
        env=variables,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        start_new_session=True,
    )
    seen = {}
    try:
        while job.poll() is None:
            seen |= family(job.pid)
            time.sleep(0.2)
        output = job.stdout.read()
    finally:
        job.kill()
    assert job.returncode == 0, output
    assert "slurm-7: budget spent" in output
    assert output.count("Ray runtime started.") == 2
    words = (tmp_path / "words").read_text().splitlines()
    nodes = {line.partition("--nodelist=")[2].split()[0] for line in words if " ray start " in line}
    assert nodes == {"one", "two"}
    (search,) = (line for line in words if line.startswith("run "))  # a node may start, and write, after it
    assert parsed("archsearch " + search)["name"] == "slurm-7"
    assert (tmp_path / "runs" / "slurm-7" / "models").is_dir()
    assert_gone(seen)


CONNECT = (
    "import sys, ray\nfrom search.workers.cluster import cluster\nfrom spaces import InputError\n"
    "try:\n    with cluster(sys.argv[1]): print(len(ray.nodes()), 'node')\n"
    "except InputError as error: print(error)\n"
)


def connected(address, home, **variables):
    environment = {**WITHOUT, "HOME": str(home), **variables}
    command = [sys.executable, "-c", CONNECT, address]
    return subprocess.run(
        command, cwd=ROOT, env=environment, capture_output=True, text=True, timeout=300, check=False
    ).stdout.strip()


@pytest.fixture(scope="module")
def guarded(tmp_path_factory):
    """A cluster that asks for a token: its address, and a home with the token."""
    home, port = tmp_path_factory.mktemp("home"), free_port()
    (home / ".ray").mkdir()
    (home / ".ray" / "auth_token").write_text("0123456789abcdef" * 4)
    words = ["start", "--head", "--block", f"--port={port}", "--num-cpus=1", "--include-dashboard=false"]
    head = subprocess.Popen(
        [sys.executable, "-m", "ray.scripts.scripts", *words, *SMALL.split()],
        env={**WITHOUT, "HOME": str(home), "RAY_AUTH_MODE": "token"},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        start_new_session=True,
    )
    for line in head.stdout:
        if "Ray runtime started." in line:
            break
    assert head.poll() is None
    children = family(head.pid)
    yield f"127.0.0.1:{port}", home
    head.terminate()
    head.communicate(timeout=60)
    assert_gone(children)


def test_a_cluster_that_asks_for_a_token_is_entered_with_it(guarded):
    address, home = guarded
    assert connected(address, home) == "1 node"  # found in the home, though nobody has set RAY_AUTH_MODE


def test_a_cluster_that_asks_for_a_token_that_we_do_not_have_is_one_message(guarded, tmp_path):
    address, _ = guarded
    said = connected(address, tmp_path)
    assert said.startswith(f"no Ray cluster can be used at {address}: ")
    assert said.endswith("~/.ray/auth_token, or into RAY_AUTH_TOKEN, and set RAY_AUTH_MODE=token")
    assert "\n" not in said
