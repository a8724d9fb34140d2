"""Workers on Ray, on a cluster of three nodes that the test starts on this machine."""

import os
import signal
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
from slurm_cluster import wait
from workers import patient_work

from replicate.cli import main
from replicate.errors import UsageError
from replicate.matrix.ray import RayCluster
from replicate.store.result import read_result

pytest.importorskip("ray", reason="Ray, the extra [ray], is not installed")
pytestmark = pytest.mark.cluster

TESTS = Path(__file__).parents[1]
SMOKE = str(TESTS.parent / "experiments" / "smoke.yaml")
RUNS = ["--set", "init=lsuv", "activation=tanh", "seed=0,4,20,21,22"]


@pytest.fixture(scope="module")
def nodes() -> Iterator[Any]:
    from ray.cluster_utils import Cluster  # skipped where there is none

    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("PYTHONPATH", f"{TESTS}:{TESTS.parent}")  # of the tasks
        try:
            made = Cluster(initialize_head=True, head_node_args={"num_cpus": 1})
            made.add_node(num_cpus=1)
        except Exception as error:  # whatever a container lacks
            pytest.skip(f"Ray is installed and does not start here: {error!r}")
        yield made
        made.shutdown()


@pytest.fixture
def cluster(nodes: Any, monkeypatch: pytest.MonkeyPatch) -> Any:
    """The cluster with a third node, which a test may remove."""
    monkeypatch.setattr("replicate.carry_out.work", patient_work)
    while len(nodes.list_all_nodes()) < 3:
        nodes.third = nodes.add_node(num_cpus=1)
    return nodes


def matrix(cluster: Any, out: Path, act: Callable[[], None], *more: str) -> int:
    """Run a matrix on the cluster while something happens to it."""
    with ThreadPoolExecutor() as pool:
        acting = pool.submit(act)
        acting.add_done_callback(lambda _: (out / "go").touch())  # whatever it met, the runs come to their end
        words = ["--out", str(out), "--wandb", "off", "--launcher", "ray", "--ray.address", cluster.address]
        code = main(["matrix", SMOKE, *words, *RUNS, *more])
        acting.result()
    return code


def starts(out: Path) -> list[str]:
    """The parent process of each start of a run."""
    return [line.split()[0] for path in out.glob("runs/*/starts") for line in path.read_text().splitlines()]


def test_a_matrix_loses_a_node_and_is_whole(cluster: Any, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    said: list[str] = []

    def heard(what: str) -> bool:
        said.append(capsys.readouterr().out)
        return "".join(said).count(what) == 1

    def act() -> None:
        wait(lambda: len(starts(tmp_path)) == 3, "three starts")
        cluster.remove_node(cluster.third, allow_graceful=False)
        wait(lambda: heard("submitted 1 worker to Ray"), "another worker")

    assert matrix(cluster, tmp_path, act, "--workers", "3") == 0
    assert heard(" failed: Ray lost it (")
    results = [read_result(path) for path in tmp_path.glob("runs/*/result.json")]
    assert {result.run.seed: result.test_accuracy for result in results} == {
        seed: 50.0 + seed for seed in (0, 4, 20, 21, 22)
    }
    assert len(starts(tmp_path)) == 6


def test_ctrl_c_ends_the_workers_after_their_checkpoints(cluster: Any, tmp_path: Path) -> None:
    def act() -> None:  # three nodes: two workers wait
        try:
            wait(lambda: len(starts(tmp_path)) == 3, "three starts")
        finally:
            os.kill(os.getpid(), signal.SIGINT)
        wait(lambda: len(list(tmp_path.glob("runs/*/checkpoint"))) == 3, "three checkpoints")

    assert matrix(cluster, tmp_path, act) == 3
    assert not list(tmp_path.glob("runs/*/result.json"))
    assert not list(tmp_path.glob("runs/*/claim"))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"adress": "somewhere"}, r"unknown option of Ray '--ray.adress' \(did you mean '--ray.address'\?\)"),
        ({"num_gpus": "0.5"}, r"--ray.num_gpus 0.5 is not a whole number; runs share a GPU by --per-device"),
        ({"num_cpus": "many"}, r"--ray.num_cpus many is not a whole number"),
    ],
)
def test_what_ray_does_not_know_is_refused(options: dict[str, str], message: str) -> None:
    with pytest.raises(UsageError, match=message):
        RayCluster(options, 1, 1)
