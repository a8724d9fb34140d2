"""Workers on SLURM and Ray, on clusters of two and three nodes that the tests start on this machine."""

import os
import shutil
import signal
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path
from typing import Any

import pytest
from slurm_cluster import Cluster, kill_job, wait
from workers import work_with

from replicate import provenance
from replicate.cli import main
from replicate.errors import UsageError
from replicate.experiment import Experiment
from replicate.matrix.clusters import RayCluster, SlurmCluster
from replicate.matrix.task import TRAIN
from replicate.store.lease import acquire
from replicate.store.owner import Owner
from replicate.store.result import Result, read_result
from replicate.store.run_folder import RunFolder

pytestmark = pytest.mark.cluster

TESTS = Path(__file__).parents[1]
SMOKE = str(TESTS.parent / "experiments" / "smoke.yaml")
WORK = "replicate.carry_out.work"
Output = pytest.CaptureFixture[str]
Matrix = Callable[..., tuple[int, dict[int, Result]]]


@pytest.fixture(scope="module")
def slurm_nodes() -> Iterator[Cluster]:
    pytest.importorskip("submitit", reason="submitit, the extra [slurm], is not installed")
    with tempfile.TemporaryDirectory(prefix="slurm") as folder, Cluster(Path(folder) / "c") as cluster:
        yield cluster


@pytest.fixture
def slurm(slurm_nodes: Cluster, monkeypatch: pytest.MonkeyPatch) -> Iterator[Cluster]:
    monkeypatch.setenv("SLURM_CONF", slurm_nodes.config)
    monkeypatch.setattr("replicate.matrix.clusters.QUEUE_SECONDS", 0.5)
    yield slurm_nodes
    slurm_nodes.restore()


@pytest.fixture
def ray(matrix: Matrix) -> Iterator[Any]:
    cluster = pytest.importorskip("ray.cluster_utils", reason="Ray, the extra [ray], is not installed").Cluster
    nodes = cluster(initialize_head=True, head_node_args={"num_cpus": 1})
    nodes.lost, _ = nodes.add_node(num_cpus=1), nodes.add_node(num_cpus=1)
    yield nodes
    nodes.shutdown()


@pytest.fixture
def matrix(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Matrix:
    """Run a matrix on a cluster while `act` does something to it; return the exit code, and the records by seed."""
    monkeypatch.setenv("PYTHONPATH", f"{TESTS}:{TESTS.parent}")  # of the workers
    monkeypatch.setattr(WORK, partial(work_with, "workers:patient"))

    def run(
        *more: str, act: Callable[[], object] = bool, launcher: str = "slurm", seeds: str = "0,4"
    ) -> tuple[int, dict[int, Result]]:
        words = ["--wandb", "off", "--out", str(tmp_path), "--launcher", launcher]
        with ThreadPoolExecutor() as pool:
            acting = pool.submit(act)
            # Whatever happened, the runs come to their end.
            acting.add_done_callback(lambda _: (tmp_path / "go").touch())
            code = main(["matrix", SMOKE, *words, "--set", "init=lsuv", "activation=tanh", f"seed={seeds}", *more])
            acting.result()
        return code, {result.run.seed: result for result in map(read_result, tmp_path.glob("runs/*/result.json"))}

    return run


def starts(out: Path, seed: object = "*") -> list[list[str]]:
    """The job and the node of each start of a run, or of all runs."""
    paths = out.glob(f"runs/*-s{seed}-*/starts")
    return [line.split() for path in paths for line in path.read_text().splitlines()]


def wait_for_start(slurm: Cluster, out: Path, number: int) -> None:
    wait(lambda: slurm.hurry() or len(starts(out, 0)) == number, f"start {number}")


def test_one_worker_takes_all_runs_also_those_of_a_dead_process(
    slurm: Cluster, matrix: Matrix, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # The command in front waits for three seconds until the lease has expired; a worker would wait for two minutes.
    monkeypatch.setattr("replicate.store.owner.STALE_SECONDS", 3.0)
    (run,) = Experiment.load(SMOKE).with_settings({"init": "lsuv", "activation": "tanh", "seed": 20}).runs()
    assert acquire(RunFolder.of(tmp_path, run), Owner("gpu 0", 10, place="another machine")) is not None
    more = ["--workers", "1", "--per-device", "2", "--slurm.cpus_per_task", "1"]
    code, results = matrix(*more, act=lambda: wait(lambda: len(starts(tmp_path)) == 2, "two starts"), seeds="0,4,20")
    assert code == 0
    assert [result.options["runs_per_device"] for result in results.values()] == [2] * 3
    assert len({job for job, _ in starts(tmp_path)}) == 1


def test_a_worker_is_requeued_or_replaced(slurm: Cluster, matrix: Matrix, tmp_path: Path, capsys: Output) -> None:
    def act() -> None:
        wait_for_start(slurm, tmp_path, 1)
        slurm.call("scancel", "--signal=USR2", starts(tmp_path)[0][0])  # as near the time limit of the job
        wait_for_start(slurm, tmp_path, 2)
        slurm.call("scancel", starts(tmp_path)[1][0])
        wait_for_start(slurm, tmp_path, 3)
        assert next(tmp_path.glob("runs/*/checkpoint")).read_text() == "SIGTERM"
        kill_job(starts(tmp_path)[2][0])
        wait(lambda: not slurm.jobs(), "an empty queue")

    assert matrix(act=act, seeds="0") == (3, {})
    first, requeued, replaced = (job for job, _ in starts(tmp_path))
    assert first == requeued != replaced
    output = capsys.readouterr().out
    assert output.count(" failed: it was cancelled or killed, or its node was lost") == 1  # the other had a checkpoint
    assert "no worker is left, and --retries 1 allows no more; runs left: 1" in output


def test_a_preempted_training_ends_in_the_same_bits(
    slurm: Cluster, matrix: Matrix, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(WORK, partial(work_with, "workers:trained"))
    here = tmp_path / "here"
    small = ["iterations=40", "milestones=[20]", "batch_size=16", "lsuv_batch_size=16"]

    def act() -> None:
        wait(lambda: list(tmp_path.glob("runs/*/waits")), "a training")
        slurm.call("sbatch", "--partition=high", "--nodes=2", "--output=/dev/null", "--wrap=sleep 1")
        wait(lambda: list(tmp_path.glob("runs/*/checkpoint.pt")), "a checkpoint")
        wait_for_start(slurm, tmp_path, 2)

    code, results = matrix(*small, "--slurm.partition", "low", act=act, seeds="0")
    assert code == 0
    (first, _), (second, _) = starts(tmp_path, 0)
    assert first == second  # the same job
    assert results[0].history == []  # a preemption is not a failure
    runs = ["--set", "init=lsuv", "activation=tanh", "seed=0", *small]
    assert main(["matrix", SMOKE, "--wandb", "off", "--out", str(here), "--devices", "cpu", *runs]) == 0
    (plain,) = map(read_result, here.glob("runs/*/result.json"))
    assert results[0].weights_sha256 == plain.weights_sha256 is not None
    curves = [RunFolder.of(out, plain.run).curve_bytes() for out in (here, tmp_path)]
    assert curves[0] == curves[1] is not None


def test_a_record_names_the_code_that_ran(
    slurm: Cluster, matrix: Matrix, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Somebody edits the checkout after the command has started, and before its worker starts."""
    package, submit = tmp_path / "checkout" / "replicate", SlurmCluster.submit
    shutil.copytree(provenance.PACKAGE, package)
    monkeypatch.setenv("PYTHONPATH", f"{TESTS}:{package.parent}")  # of the workers
    monkeypatch.setattr(WORK, partial(work_with, TRAIN))

    def edit_and_submit(cluster: SlurmCluster, *arguments: Any) -> str:
        scheme = package / "init" / "schemes.py"
        scheme.write_text(scheme.read_text() + "# edited\n")
        return submit(cluster, *arguments)

    monkeypatch.setattr(SlurmCluster, "submit", edit_and_submit)
    code, results = matrix("iterations=2", "milestones=[]", "batch_size=16", "lsuv_batch_size=16", seeds="0")
    assert code == 0
    assert results[0].sources == provenance.sources(package) != provenance.sources()
    assert (results[0].commit, results[0].dirty) == ("unknown", None)  # there is no .git; here, there is


def test_impossible_requests_on_slurm(slurm: Cluster, matrix: Matrix, tmp_path: Path, capsys: Output) -> None:
    with pytest.raises(UsageError, match=r"'--slurm.partitoin' \(did you mean '--slurm.partition'\?\)"):
        SlurmCluster(tmp_path, {"partitoin": "low"}, 1)
    for options, device in (({"time": "60"}, "cpu"), ({"gres": "gpu:1"}, "cuda"), ({"gpus-per-node": "1"}, "cuda")):
        assert SlurmCluster(tmp_path, options, 1).device == device
    assert matrix("--slurm.partition", "none") == (2, {})
    (error,) = capsys.readouterr().err.splitlines()
    assert "SLURM refuses the jobs: " in error
    assert "invalid partition" in error.lower()
    assert matrix("--devices", "0") == (2, {})
    assert "there is no GPU 0: this machine has 0 GPUs and its CPU" in capsys.readouterr().err
    assert not slurm.jobs()
    # The nodes have a GPU for SLURM, which torch does not find: the worker must not train on the CPU.
    assert matrix("--slurm.gres", "gpu:1", seeds="0") == (3, {})
    assert capsys.readouterr().out.count(" failed: RuntimeError: torch finds no GPU on ") == 2
    assert any("Traceback" in log.read_text() for log in tmp_path.glob("slurm/*/*_0_log.err"))


def test_the_smoke_matrix_survives_the_loss_of_a_node_and_of_its_command(slurm: Cluster, tmp_path: Path) -> None:
    command = [sys.executable, "-m", "replicate", "matrix", SMOKE, "--wandb", "off", "--out", str(tmp_path)]
    command += ["--launcher", "slurm", "--workers", "2", "--slurm.partition", "low"]
    command += ["--set", "iterations=20", "milestones=[]"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as first:
        wait(lambda: len(list(tmp_path.glob("runs/*/claim/*"))) == 2, "a run on each node")
        assert set(slurm.jobs("%K %P")) == {"0 low", "1 low"}  # an array
        slurm.node_lost("n2")
        first.kill()
        assert "submitted 2 workers as SLURM job " in first.stdout.read()
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as second:
        wait(lambda: slurm.hurry() or second.poll() is not None, "the end of the matrix", 500)
        assert second.returncode == 0
        assert "23 of 23 runs are done, 0 with an error" in second.stdout.read()


@pytest.mark.parametrize("launcher", ["slurm", "ray"])
def test_ctrl_c_ends_the_workers_after_their_checkpoints(
    launcher: str, matrix: Matrix, tmp_path: Path, request: pytest.FixtureRequest
) -> None:
    cluster = request.getfixturevalue(launcher)
    more, nodes = ([], 2) if launcher == "slurm" else (["--ray.address", cluster.address], 3)

    def act() -> None:  # there are more workers than nodes
        try:
            wait(lambda: len(starts(tmp_path)) == nodes, "a start on each node")
        finally:
            os.kill(os.getpid(), signal.SIGINT)
        wait(lambda: len(list(tmp_path.glob("runs/*/checkpoint"))) == nodes, "their checkpoints")
        wait(lambda: launcher == "ray" or not cluster.jobs(), "an empty queue")

    assert matrix(*more, act=act, launcher=launcher, seeds="0,4,20,21") == (3, {})
    assert not list(tmp_path.glob("runs/*/claim"))


def test_a_matrix_on_ray_loses_a_node(
    ray: Any, matrix: Matrix, tmp_path: Path, capsys: Output, monkeypatch: pytest.MonkeyPatch
) -> None:
    output: list[str] = []
    for name in ("yaml", "rich"):  # no worker imports from the current folder
        (here := tmp_path / "here" / name).mkdir(parents=True)
        (here / "__init__.py").write_text(f"open({str(tmp_path / 'imported')!r}, 'w').close()")
    monkeypatch.chdir(here.parent)

    def printed_once(text: str) -> bool:
        output.append(capsys.readouterr().out)
        return "".join(output).count(text) == 1

    def act() -> None:
        wait(lambda: len(starts(tmp_path)) == 3, "three starts")
        ray.remove_node(ray.lost, allow_graceful=False)
        wait(lambda: printed_once("submitted 1 worker to Ray"), "another worker")

    more = ["--workers", "3", "--ray.address", ray.address]
    code, results = matrix(*more, act=act, launcher="ray", seeds="0,4,20,21,22")
    assert code == 0
    assert printed_once(" failed: Ray lost it (")
    assert results.keys() == {0, 4, 20, 21, 22}
    assert len(starts(tmp_path)) == 6
    assert not (tmp_path / "imported").exists()


def test_a_part_of_a_gpu_is_refused() -> None:
    pytest.importorskip("ray")
    with pytest.raises(UsageError, match=r"--ray.num_gpus 0.5 is not a whole number; runs share a device by"):
        RayCluster({"num_gpus": "0.5"}, 1, 1)
