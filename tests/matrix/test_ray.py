"""The launcher for Ray, on a cluster of three nodes that the test starts on this machine."""

import os
import signal
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from io import StringIO
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console
from slurm_cluster import wait

from replicate.errors import UsageError
from replicate.matrix import remote
from replicate.matrix.display import Display
from replicate.matrix.launcher import Launcher
from replicate.matrix.local import LocalLauncher
from replicate.matrix.ray import RayLauncher
from replicate.matrix.scheduler import Outcome, run_all
from replicate.options import Options
from replicate.run import Run
from replicate.store.run_folder import collect

pytest.importorskip("ray", reason="Ray, the extra [ray], is not installed")
pytestmark = pytest.mark.cluster

TESTS = Path(__file__).parents[1]
RUNS = [Run("lsuv", "relu", seed, dataset="synthetic") for seed in (0, 4, 20, 21, 22)]


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
def cluster(nodes: Any) -> Any:
    """The cluster with a third node, which a test may remove."""
    while len(nodes.list_all_nodes()) < 3:
        nodes.third = nodes.add_node(num_cpus=1)
    return nodes


def carry_out(launcher: Launcher, out: Path, text: StringIO) -> Outcome:
    with Display(Console(file=text, width=300)) as display:
        slots = remote.slots("cpu", len(RUNS), None)
        return run_all(launcher, RUNS, RUNS, slots, Options(out), display, train="workers:patient", retries=1)


def table(out: Path) -> dict[int, tuple[str, float | None]]:
    return {one.run.seed: (one.status, one.test_accuracy) for one in collect(out, RUNS).results.values()}


def started(out: Path) -> list[Path]:
    return list(out.glob("runs/*/starts"))


def processes(out: Path) -> list[str]:
    """The process of each start of a run."""
    return [line.split()[1] for path in started(out) for line in path.read_text().splitlines()]


def test_a_matrix_loses_a_node_and_is_whole(cluster: Any, launcher: LocalLauncher, tmp_path: Path) -> None:
    there, here, text = tmp_path / "there", tmp_path / "here", StringIO()

    def act() -> None:
        try:
            wait(lambda: len(started(there)) == 3, "three starts")
            cluster.remove_node(cluster.third, allow_graceful=False)
            wait(lambda: "is run again" in text.getvalue(), "news of the loss")
        finally:
            (there / "go").touch()

    with (
        ThreadPoolExecutor() as pool,
        RayLauncher(there / "ray", {"address": cluster.address}, "workers", 1, 1) as ray,
    ):
        acting = pool.submit(act)
        assert carry_out(ray, there, text) == Outcome(errors=0, left=0)
        acting.result()
    assert "Ray lost the run" in "".join(str(one.history) for one in collect(there, RUNS).results.values())
    numbers = processes(there)
    assert len(numbers) == len(set(numbers)) == len(RUNS) + 1  # a fresh process each
    assert not (there / "ray").exists()
    here.mkdir()
    (here / "go").touch()
    assert carry_out(launcher, here, StringIO()) == Outcome(errors=0, left=0)
    assert table(there) == table(here)
    assert len(table(there)) == 5


def test_ctrl_c_ends_the_tasks_after_their_checkpoints(cluster: Any, tmp_path: Path) -> None:
    def act() -> None:
        try:
            wait(lambda: len(started(tmp_path)) == 3, "three starts")
        finally:
            os.kill(os.getpid(), signal.SIGINT)

    with (
        ThreadPoolExecutor() as pool,
        RayLauncher(tmp_path / "ray", {"address": cluster.address}, "workers", 1, 1) as ray,
    ):
        acting = pool.submit(act)
        assert carry_out(ray, tmp_path, StringIO()) == Outcome(errors=0, left=5)
        acting.result()
    assert len(list(tmp_path.glob("runs/*/checkpoint"))) == 3
    assert not list(tmp_path.glob("runs/*/claim"))


@pytest.mark.parametrize(
    ("asked", "per_device"), [({}, 1), ({"num_gpus": "0.5"}, 2), ({"num_gpus": "0.02"}, 50), ({"num_gpus": "2"}, 1)]
)
def test_how_many_runs_share_a_gpu_is_for_ray_to_say(
    cluster: Any, tmp_path: Path, asked: dict[str, str], per_device: int
) -> None:
    with RayLauncher(tmp_path, {"address": cluster.address, **asked}, "workers", 1, per_device=3) as ray:
        assert ray.per_device == per_device  # without GPUs none is shared


def test_what_ray_does_not_know_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"unknown option of Ray's '--ray.adress' \(did you mean '--ray.address'\?\)"):
        RayLauncher(tmp_path, {"adress": "somewhere"}, "workers", 1, 1)
