"""Workers on SLURM, on a cluster of two nodes that the test starts on this machine."""

import contextlib
import json
import os
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from slurm_cluster import Cluster, NoClusterError, kill_job, missing, runs_on, wait
from workers import patient_work, trained_work

from replicate.cli import main
from replicate.errors import UsageError
from replicate.experiment import Experiment
from replicate.matrix import slurm
from replicate.matrix.slurm import SlurmCluster
from replicate.store.lease import acquire
from replicate.store.owner import Owner
from replicate.store.result import Result, read_result
from replicate.store.run_folder import RunFolder

pytest.importorskip("submitit", reason="submitit, the extra [slurm], is not installed")
pytestmark = [
    pytest.mark.cluster,
    pytest.mark.skipif(bool(missing()), reason=f"no SLURM on this machine: there is no {missing()}"),
]

TESTS = Path(__file__).parents[1]
SMOKE = str(TESTS.parent / "experiments" / "smoke.yaml")


@pytest.fixture(scope="module")
def started() -> Iterator[Cluster]:
    with tempfile.TemporaryDirectory(prefix="slurm") as folder, contextlib.ExitStack() as stack:
        try:
            cluster = stack.enter_context(Cluster(Path(folder) / "c"))
        except NoClusterError as error:
            pytest.skip(f"SLURM is installed and does not start here: {error}")
        yield cluster


@pytest.fixture
def cluster(started: Cluster, monkeypatch: pytest.MonkeyPatch) -> Iterator[Cluster]:
    for name, value in started.environment.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setenv("PYTHONPATH", f"{TESTS}:{TESTS.parent}")  # of the jobs
    monkeypatch.setattr("replicate.carry_out.work", patient_work)
    monkeypatch.setattr(slurm, "LOOK_SECONDS", 0.5)
    yield started
    started.call("scancel", "--quiet", *(started.jobs() or ["0"]), check=False)
    wait(lambda: not started.jobs(), "an empty queue")


def starts(out: Path, seed: int) -> list[list[str]]:
    """The job and the node of each start of a run."""
    for path in out.glob(f"runs/*-s{seed}-*/starts"):
        return [line.split() for line in path.read_text().splitlines()]
    return []


def hurry(cluster: Cluster) -> None:
    """Let no job wait for the two minutes that SLURM lets one wait that was put back into the queue."""
    lines = [line.split(maxsplit=1) for line in cluster.jobs("%A %r")]
    waiting = {number for number, reason in lines if reason == "BeginTime"}
    cluster.waiting = {number: cluster.waiting.get(number, time.monotonic()) for number in waiting}
    for number, since in cluster.waiting.items():
        if time.monotonic() - since > 2:  # a node refuses a job that it killed in this very second
            cluster.call("scontrol", "update", f"jobid={number}", "starttime=now", check=False)


def wait_for_another_start(cluster: Cluster, out: Path, seed: int) -> None:
    def again() -> bool:
        hurry(cluster)
        return len(starts(out, seed)) == 2

    wait(again, "another start")


@contextlib.contextmanager
def losing_nodes(cluster: Cluster) -> Iterator[Callable[[str], None]]:
    """Yield the function that takes a node away; at the end all are back."""
    lost: list[str] = []

    def lose(name: str) -> None:
        lost.append(name)
        cluster.node_lost(name)

    try:
        yield lose
    finally:
        for name in lost:
            cluster.node_up(name)
            # It fails where the node has already come back by itself.
            cluster.call("scontrol", "update", f"nodename={name}", "state=resume", check=False)


def matrix(out: Path, act: Callable[[], None], *more: str, seeds: str = "0,4") -> tuple[int, dict[int, Result]]:
    """Run a matrix on the cluster while something happens to it; return the exit code, and the records by seed."""
    runs = ["--set", "init=lsuv", "activation=tanh", f"seed={seeds}"]
    out.mkdir(exist_ok=True)
    with ThreadPoolExecutor() as pool:
        acting = pool.submit(act)
        acting.add_done_callback(lambda _: (out / "go").touch())  # whatever it met, the runs come to their end
        code = main(["matrix", SMOKE, "--wandb", "off", "--out", str(out), "--launcher", "slurm", *runs, *more])
        acting.result()
    return code, {result.run.seed: result for result in map(read_result, out.glob("runs/*/result.json"))}


def curves(out: Path) -> dict[str, bytes]:
    return {path.parent.name: path.read_bytes() for path in out.glob("runs/*/curve.csv")}


def test_workers_start_as_one_array_on_both_nodes(
    cluster: Cluster, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    seen: list[str] = []

    def act() -> None:
        wait(lambda: starts(tmp_path, 0) and starts(tmp_path, 4), "two starts")
        seen.extend(cluster.jobs("%F %K %P"))

    code, results = matrix(tmp_path, act, "--slurm.partition", "low")
    assert code == 0
    assert {results[0].status, results[4].status} == {"converged"}
    array = seen[0].split()[0]
    assert sorted(seen) == [f"{array} 0 low", f"{array} 1 low"]
    assert {starts(tmp_path, seed)[0][1] for seed in (0, 4)} == {"n1", "n2"}
    said = capsys.readouterr().out
    assert f"submitted 2 workers as SLURM job {array}" in said
    assert "2 of 2 runs are done, 0 with an error" in said
    assert not (tmp_path / "slurm").exists()


def test_one_worker_carries_out_all_runs_several_at_a_time(cluster: Cluster, tmp_path: Path) -> None:
    def act() -> None:
        wait(lambda: len(list(tmp_path.glob("runs/*/starts"))) == 2, "two starts")

    code, results = matrix(
        tmp_path, act, "--workers", "1", "--per-device", "2", "--slurm.cpus_per_task", "1", seeds="0,4,20"
    )
    assert code == 0
    assert [result.options["runs_per_device"] for result in results.values()] == [2] * 3
    assert len({starts(tmp_path, seed)[0][0] for seed in (0, 4, 20)}) == 1


def test_a_worker_that_is_cancelled_or_killed_is_replaced_within_the_retries(
    cluster: Cluster, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    def act() -> None:
        wait(lambda: starts(tmp_path, 0), "a start")
        cluster.call("scancel", starts(tmp_path, 0)[0][0])
        wait_for_another_start(cluster, tmp_path, 0)
        kill_job(starts(tmp_path, 0)[1][0])
        wait(lambda: not cluster.jobs(), "an empty queue")

    assert matrix(tmp_path, act, seeds="0") == (3, {})
    assert next(tmp_path.glob("runs/*/checkpoint")).read_text() == "SIGTERM"
    assert starts(tmp_path, 0)[0][0] != starts(tmp_path, 0)[1][0]  # it was not requeued: it is another job
    said = capsys.readouterr().out
    assert said.count(" failed: it was cancelled or killed, or its node was lost") == 1  # the other saved a checkpoint
    assert "no worker is left, and --retries 1 allows no more; runs left: 1" in said


def test_the_run_of_a_lost_node_goes_on_elsewhere(cluster: Cluster, tmp_path: Path) -> None:
    def act() -> None:
        wait(lambda: starts(tmp_path, 0) and starts(tmp_path, 4), "two starts")
        lose(starts(tmp_path, 0)[0][1])
        (tmp_path / "go").touch()  # the other run makes room on the node that is left
        wait_for_another_start(cluster, tmp_path, 0)

    with losing_nodes(cluster) as lose:
        code, results = matrix(tmp_path, act)
    assert code == 0
    assert {results[0].status, results[4].status} == {"converged"}
    first, second = starts(tmp_path, 0)
    assert first[1] != second[1]


def test_what_a_dead_process_of_another_machine_holds_is_free_for_all_workers(
    cluster: Cluster, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # The command in front waits for three seconds until the lease has expired, each worker would for two minutes.
    monkeypatch.setattr("replicate.store.watch.STALE_SECONDS", 3.0)
    (run,) = Experiment.load(SMOKE).with_settings({"init": "lsuv", "activation": "tanh"}).runs()
    assert acquire(RunFolder.of(tmp_path, run), Owner("gpu 0", 10, place="another machine")) is not None
    code, results = matrix(tmp_path, lambda: None, seeds="0")
    assert (code, results[0].status) == (0, "converged")


def test_a_preempted_training_goes_on_from_its_checkpoint_to_the_same_bits(
    cluster: Cluster, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("replicate.carry_out.work", trained_work)
    there, here = tmp_path / "there", tmp_path / "here"
    small = ["iterations=40", "milestones=[20]", "batch_size=16", "lsuv_batch_size=16"]

    def act() -> None:
        wait(lambda: list(there.glob("runs/*/waits")), "a training")
        cluster.call("sbatch", "--partition=high", "--nodes=2", "--output=/dev/null", "--wrap=sleep 1")
        wait(lambda: list(there.glob("runs/*/checkpoint.pt")), "a checkpoint")
        wait_for_another_start(cluster, there, 0)

    code, results = matrix(there, act, *small, "--slurm.partition", "low", seeds="0")
    assert code == 0
    first, second = starts(there, 0)
    assert first[0] == second[0]  # the same job
    assert results[0].history == []  # it counts as no failure
    runs = ["--set", "init=lsuv", "activation=tanh", "seed=0", *small]
    assert main(["matrix", SMOKE, "--wandb", "off", "--out", str(here), "--devices", "cpu", *runs]) == 0
    assert curves(there) == curves(here)
    (plain,) = map(read_result, here.glob("runs/*/result.json"))
    assert results[0].weights_sha256 == plain.weights_sha256 is not None


def test_warned_of_its_time_limit_a_worker_goes_back_into_the_queue(cluster: Cluster, tmp_path: Path) -> None:
    def act() -> None:
        wait(lambda: starts(tmp_path, 0), "a start")
        cluster.call("scancel", "--signal=USR2", starts(tmp_path, 0)[0][0])
        wait_for_another_start(cluster, tmp_path, 0)

    code, results = matrix(tmp_path, act, seeds="0")
    assert code == 0
    first, second = starts(tmp_path, 0)
    assert first[0] == second[0]
    assert next(tmp_path.glob("runs/*/checkpoint")).read_text() == "SIGUSR2"
    assert results[0].history == []


def test_ctrl_c_ends_the_workers_after_their_checkpoints(cluster: Cluster, tmp_path: Path) -> None:
    def act() -> None:  # two nodes: the third worker waits
        wait(lambda: len(list(tmp_path.glob("runs/*/starts"))) == 2, "two starts")
        os.kill(os.getpid(), signal.SIGINT)
        wait(lambda: not cluster.jobs(), "an empty queue")

    assert matrix(tmp_path, act, seeds="0,4,30") == (3, {})
    assert len(list(tmp_path.glob("runs/*/checkpoint"))) == 2
    assert not list(tmp_path.glob("runs/*/claim"))
    assert not (tmp_path / "slurm").exists()


def test_a_run_takes_several_devices_of_its_worker(
    cluster: Cluster, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.undo()
    for name, value in cluster.environment.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setenv("PYTHONPATH", str(TESTS.parent))
    small = ["iterations=4", "milestones=[]"]
    code, results = matrix(
        tmp_path, lambda: None, *small, "--devices-per-run", "2", "--slurm.cpus_per_task", "1", seeds="0"
    )
    assert code == 0
    assert (results[0].options["devices_per_run"], results[0].iteration) == (2, 4)


def test_the_device_comes_from_the_resources_asked_for(cluster: Cluster, tmp_path: Path) -> None:
    def device(**options: str) -> str:
        return SlurmCluster(tmp_path, options, 1).device

    assert device(partition="low", time="60") == "cpu"
    assert device(gres="gpu:1") == "cuda"
    assert device(gpus_per_node="1") == "cuda"


def test_what_slurm_does_not_know_is_refused(
    cluster: Cluster, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(UsageError, match=r"'--slurm.partitoin' \(did you mean '--slurm.partition'\?\)"):
        SlurmCluster(tmp_path, {"partitoin": "low"}, 1)
    assert matrix(tmp_path, lambda: None, "--slurm.partition", "none") == (2, {})
    error = capsys.readouterr().err
    assert "SLURM refuses the jobs: " in error
    assert "invalid partition" in error.lower()
    assert error.count("\n") == 1


def test_a_worker_that_cannot_do_what_was_asked_for_says_so(
    cluster: Cluster, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert matrix(tmp_path, lambda: None, "--devices", "0") == (2, {})
    assert "there is no GPU 0: this machine has 0 GPUs and its CPU" in capsys.readouterr().err
    assert not cluster.jobs()


def test_a_worker_that_finds_no_gpu_does_not_train_on_the_cpu(
    cluster: Cluster, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    # The nodes have a GPU for SLURM, which torch does not find.
    assert matrix(tmp_path, lambda: None, "--slurm.gres", "gpu:1", seeds="0") == (3, {})
    assert capsys.readouterr().out.count(" failed: RuntimeError: torch finds no GPU on ") == 2
    assert ["Traceback" in log.read_text() for log in tmp_path.glob("slurm/*/*_0_log.err")] == [True, True]


@contextlib.contextmanager
def command_running(command: list[str], log: Path) -> Iterator[subprocess.Popen[bytes]]:
    """Start a command, and kill it at the end if it is still there."""
    with log.open("wb") as output:
        process = subprocess.Popen(command, stdout=output, stderr=output)
    try:
        yield process
    finally:
        process.kill()
        process.wait()


def owners(out: Path) -> list[int]:
    """The processes that train."""
    found = []
    for path in out.glob("runs/*/claim/*/owner.json"):
        with contextlib.suppress(OSError):  # it has just been given back
            found.append(json.loads(path.read_text())["pid"])
    return found


def test_the_smoke_matrix_that_loses_a_node_and_its_head_comes_out_as_here(cluster: Cluster, tmp_path: Path) -> None:
    there, here = tmp_path / "there", tmp_path / "here"
    short = ["--set", "iterations=20", "milestones=[]"]
    command = [sys.executable, "-m", "replicate", "matrix", SMOKE, "--wandb", "off", *short]
    packed = ["--workers", "2", "--slurm.partition", "low"]
    on_slurm = [*command, "--out", str(there), "--launcher", "slurm", *packed]
    with losing_nodes(cluster) as lose:

        def both_at_work() -> bool:
            assert head.poll() is None, log.read_text()
            return runs_on("n1", owners(there)) and runs_on("n2", owners(there))

        log = tmp_path / "log"
        with command_running(on_slurm, log) as head:
            wait(both_at_work, "runs on both nodes", 300)
            lose("n2")
        with command_running(on_slurm, log) as again:
            wait(lambda: hurry(cluster) or again.poll() is not None, "the end of the matrix", 500)
    assert again.returncode == 0, log.read_text()
    assert "23 of 23 runs are done, 0 with an error" in log.read_text()
    subprocess.run([*command, "--out", str(here), "--devices", "cpu"], check=True, capture_output=True, timeout=500)
    assert len(curves(here)) == 23
    assert curves(there) == curves(here)
    tables = []
    for out in (here, there):
        assert main(["table", SMOKE, "--out", str(out), *short]) == 0
        tables.append((out / "table.csv").read_text())
    assert tables[0] == tables[1]
