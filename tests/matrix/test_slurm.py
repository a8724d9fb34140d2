"""The launcher for SLURM, on a cluster of two nodes that the test starts on this machine."""

import contextlib
import json
import os
import signal
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from io import StringIO
from pathlib import Path

import pytest
from rich.console import Console
from slurm_cluster import Cluster, NoClusterError, missing, runs_on, wait

from replicate.cli import main
from replicate.errors import UsageError
from replicate.matrix import remote, slurm
from replicate.matrix.display import Display
from replicate.matrix.local import LocalLauncher
from replicate.matrix.scheduler import Outcome, run_all
from replicate.matrix.slots import make_slots
from replicate.matrix.slurm import SlurmLauncher
from replicate.options import Options
from replicate.run import Run
from replicate.store.result import Result
from replicate.store.run_folder import collect

pytest.importorskip("submitit", reason="submitit, the extra [slurm], is not installed")
pytestmark = [
    pytest.mark.cluster,
    pytest.mark.skipif(bool(missing()), reason=f"no SLURM on this machine: there is no {missing()}"),
]

TESTS = Path(__file__).parents[1]
RUNS = [Run("lsuv", "relu", seed, dataset="synthetic") for seed in (0, 4)]


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
    monkeypatch.setattr(slurm, "LOOK_SECONDS", 0.5)
    monkeypatch.setattr(slurm, "LATE_SECONDS", 2.0)
    yield started
    started.call("scancel", "--quiet", *(started.jobs() or ["0"]), check=False)
    wait(lambda: not started.jobs(), "an empty queue")


def starts(out: Path, run: Run) -> list[list[str]]:
    """The job and the node of each start of a run."""
    try:
        return [line.split() for line in (out / "runs" / run.run_id / "starts").read_text().splitlines()]
    except OSError:
        return []


def hurry(cluster: Cluster) -> None:
    """Let no job wait for the two minutes that SLURM lets one wait that was put back into the queue."""
    for line in cluster.jobs("%A %r"):
        number, reason = line.split(maxsplit=1)
        if reason == "BeginTime":
            cluster.call("scontrol", "update", f"jobid={number}", "starttime=now", check=False)


def wait_for_another_start(cluster: Cluster, out: Path, run: Run) -> None:
    def again() -> bool:
        hurry(cluster)
        return len(starts(out, run)) == 2

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
            cluster.call("scontrol", "update", f"nodename={name}", "state=resume")


def carry_out(
    out: Path,
    act: Callable[[], None],
    text: StringIO,
    runs: list[Run] = RUNS,
    each: int = 1,
    train: str = "workers:patient",
    **options: str,
) -> tuple[Outcome, dict[int, Result]]:
    """Run a matrix on the cluster while something happens to it."""
    with (
        ThreadPoolExecutor() as pool,
        SlurmLauncher(out / "slurm", options, "workers", 1) as launcher,
        Display(Console(file=text, width=300)) as display,
    ):
        acting = pool.submit(act)
        acting.add_done_callback(lambda _: (out / "go").touch())  # whatever it met, the runs come to their end
        slots = remote.slots(launcher.device, len(runs), each)
        outcome = run_all(launcher, runs, runs, slots, Options(out), display, train=train, retries=1)
        acting.result()
    return outcome, {result.run.seed: result for result in collect(out, runs).results.values()}


def on_this_machine(launcher: LocalLauncher, out: Path, runs: list[Run]) -> Outcome:
    with Display(Console(file=StringIO())) as display:
        return run_all(launcher, runs, runs, make_slots("cpu", 1, 1, 0), Options(out), display)


def curves(out: Path) -> dict[str, bytes]:
    return {path.parent.name: path.read_bytes() for path in out.glob("runs/*/curve.csv")}


def test_runs_start_at_once_on_both_nodes_as_one_array(cluster: Cluster, tmp_path: Path) -> None:
    text, seen = StringIO(), []

    def act() -> None:
        wait(lambda: all(starts(tmp_path, run) for run in RUNS), "two starts")
        seen.extend(cluster.jobs("%F %K %P"))

    outcome, results = carry_out(tmp_path, act, text, partition="low")
    assert outcome == Outcome(errors=0, left=0)
    assert {results[0].status, results[4].status} == {"converged"}
    array = seen[0].split()[0]
    assert sorted(seen) == [f"{array} 0 low", f"{array} 1 low"]
    assert {starts(tmp_path, run)[0][1] for run in RUNS} == {"n1", "n2"}
    assert "sacct" not in text.getvalue()
    assert not (tmp_path / "slurm").exists()


def test_runs_that_share_a_slot_share_a_job(cluster: Cluster, tmp_path: Path) -> None:
    runs = [Run("lsuv", "relu", seed, dataset="synthetic") for seed in range(20, 25)]
    outcome, results = carry_out(tmp_path, lambda: None, StringIO(), runs, each=2)
    assert outcome == Outcome(errors=0, left=0)
    assert [result.options["runs_per_device"] for result in results.values()] == [2] * 5
    jobs = [starts(tmp_path, run)[0][0] for run in runs]
    assert (jobs[0], jobs[2]) == (jobs[1], jobs[3])
    assert len(set(jobs)) == 3


def test_a_cancelled_job_is_run_again_from_its_checkpoint(cluster: Cluster, tmp_path: Path) -> None:
    one, text = RUNS[0], StringIO()

    def act() -> None:
        wait(lambda: starts(tmp_path, one), "a start")
        cluster.call("scancel", starts(tmp_path, one)[0][0])
        wait_for_another_start(cluster, tmp_path, one)

    outcome, results = carry_out(tmp_path, act, text, [one])
    assert outcome == Outcome(errors=0, left=0)
    (entry,) = results[0].history
    assert f"SLURM job {starts(tmp_path, one)[0][0]}" in entry["reason"]
    assert (tmp_path / "runs" / one.run_id / "checkpoint").read_text() == "SIGTERM"
    assert starts(tmp_path, one)[0][0] != starts(tmp_path, one)[1][0]  # it was not requeued: it is another job
    assert "failed by what may pass (killed), and is run again, retry 1 of 1" in text.getvalue()


def test_a_job_that_is_killed_outright_is_run_again(cluster: Cluster, tmp_path: Path) -> None:
    one, text = RUNS[0], StringIO()

    def act() -> None:
        wait(lambda: starts(tmp_path, one), "a start")
        cluster.call("scancel", "--signal=KILL", "--full", starts(tmp_path, one)[0][0])
        wait_for_another_start(cluster, tmp_path, one)

    outcome, results = carry_out(tmp_path, act, text, [one])
    assert outcome == Outcome(errors=0, left=0)
    assert len(results[0].history) == 1


def test_the_run_of_a_lost_node_goes_on_elsewhere(cluster: Cluster, tmp_path: Path) -> None:
    def act() -> None:
        wait(lambda: all(starts(tmp_path, run) for run in RUNS), "two starts")
        lose(starts(tmp_path, RUNS[0])[0][1])
        (tmp_path / "go").touch()  # the other run makes room on the node that is left
        wait_for_another_start(cluster, tmp_path, RUNS[0])

    with losing_nodes(cluster) as lose:
        outcome, results = carry_out(tmp_path, act, StringIO())
    assert outcome == Outcome(errors=0, left=0)
    assert {results[0].status, results[4].status} == {"converged"}
    first, second = starts(tmp_path, RUNS[0])
    assert first[1] != second[1]
    assert second[0] == first[0] or results[0].history  # put back into the queue by SLURM, or by us


def test_a_preempted_training_goes_on_from_its_checkpoint_to_the_same_bits(cluster: Cluster, tmp_path: Path) -> None:
    one = Run("lsuv", "tanh", 0, dataset="synthetic", width=0.125, batch_size=16, lsuv_batch_size=16,
              iterations=40, milestones=(20,), precision="32-true")  # fmt: skip
    there, here = tmp_path / "there", tmp_path / "here"
    folder = there / "runs" / one.run_id

    def act() -> None:
        wait((folder / "waits").exists, "a training under way")
        command = ["--partition=high", "--nodes=2", "--output=/dev/null", "--wrap=sleep 1"]
        cluster.call("sbatch", *command)
        wait((folder / "checkpoint.pt").exists, "a checkpoint")
        wait_for_another_start(cluster, there, one)

    outcome, results = carry_out(there, act, StringIO(), [one], train="workers:trained", partition="low")
    assert outcome == Outcome(errors=0, left=0)
    first, second = starts(there, one)
    assert first[0] == second[0]  # the same job
    assert results[0].history == []  # it counts as no failure
    with LocalLauncher("replicate.training.train") as launcher:
        assert on_this_machine(launcher, here, [one]) == Outcome(errors=0, left=0)
    assert curves(there) == curves(here)
    (plain,) = collect(here, [one]).results.values()
    assert results[0].weights_sha256 == plain.weights_sha256 is not None


def test_warned_of_its_time_limit_a_job_goes_back_into_the_queue(cluster: Cluster, tmp_path: Path) -> None:
    one = RUNS[0]

    def act() -> None:
        wait(lambda: starts(tmp_path, one), "a start")
        cluster.call("scancel", "--signal=USR2", starts(tmp_path, one)[0][0])
        wait_for_another_start(cluster, tmp_path, one)

    outcome, results = carry_out(tmp_path, act, StringIO(), [one])
    assert outcome == Outcome(errors=0, left=0)
    first, second = starts(tmp_path, one)
    assert first[0] == second[0]
    assert (tmp_path / "runs" / one.run_id / "checkpoint").read_text() == "SIGUSR2"
    assert results[0].history == []


def test_ctrl_c_ends_the_jobs_after_their_checkpoints(cluster: Cluster, tmp_path: Path) -> None:
    runs = [*RUNS, Run("lsuv", "relu", 30, dataset="synthetic")]  # two nodes: the third waits

    def act() -> None:
        wait(lambda: sum(bool(starts(tmp_path, run)) for run in runs) == 2, "two starts")
        os.kill(os.getpid(), signal.SIGINT)
        wait(lambda: not cluster.jobs(), "an empty queue")

    outcome, results = carry_out(tmp_path, act, StringIO(), runs)
    assert outcome.exit_code == 3
    assert outcome == Outcome(errors=0, left=3)
    assert not results
    assert len(list(tmp_path.glob("runs/*/checkpoint"))) == 2
    assert not list(tmp_path.glob("runs/*/claim"))
    assert not (tmp_path / "slurm").exists()


def test_the_device_comes_from_the_resources_asked_for(cluster: Cluster, tmp_path: Path) -> None:
    def device(**options: str) -> str:
        return SlurmLauncher(tmp_path, options, "workers", 1).device

    assert device(partition="low", time="60") == "cpu"
    assert device(gres="gpu:1") == "cuda"
    assert device(gpus_per_node="1") == "cuda"


def test_what_slurm_does_not_know_is_refused(
    cluster: Cluster, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(UsageError, match=r"'--slurm.partitoin' \(did you mean '--slurm.partition'\?\)"):
        SlurmLauncher(tmp_path, {"partitoin": "low"}, "workers", 1)
    with pytest.raises(UsageError, match=r"SLURM refuses the jobs: .*[Ii]nvalid partition"):
        carry_out(tmp_path, lambda: None, StringIO(), partition="none")
    assert capsys.readouterr().err == ""
    smoke = str(TESTS.parent / "experiments" / "smoke.yaml")
    assert main(["matrix", smoke, "--launcher", "slurm", "--devices", "0", "--out", str(tmp_path)]) == 2
    assert "--devices is for this machine" in capsys.readouterr().err


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
    smoke = str(TESTS.parent / "experiments" / "smoke.yaml")
    there, here = tmp_path / "there", tmp_path / "here"
    short = ["--set", "iterations=20", "milestones=[]"]
    command = [sys.executable, "-m", "replicate", "matrix", smoke, "--wandb", "off", *short]
    packed = ["--per-device", "8", "--slurm.cpus_per_task", "1", "--slurm.partition", "low"]
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
        assert main(["table", smoke, "--out", str(out), *short]) == 0
        tables.append((out / "table.csv").read_text())
    assert tables[0] == tables[1]
