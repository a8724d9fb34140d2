"""What clusters have in common."""

from dataclasses import replace
from pathlib import Path

from replicate.matrix.local import Event
from replicate.matrix.remote import LaunchedTask, again, progress, slots, values
from replicate.matrix.retry import Retries
from replicate.matrix.task import Task
from replicate.options import Options
from replicate.run import Run
from replicate.store.lease import acquire
from replicate.store.owner import Owner

RUN = Run("lsuv", "relu", 0, dataset="synthetic")


def task(out: Path) -> Task:
    return Task(RUN, Options(out), "job 0", "abc")


def test_a_slot_for_each_run_and_one_name_for_those_that_share_a_job() -> None:
    assert [slot.name for slot in slots("cpu", 5, 2)] == ["job 0", "job 0", "job 1", "job 1", "job 2", "job 2"]
    assert slots("cpu", 1, None)[0].environment == {"CUDA_VISIBLE_DEVICES": ""}
    assert slots("cuda", 1, None)[0].environment == {}  # the cluster says which GPU
    assert len(slots("cuda", 10_000, 4)) == 4_000
    last = slots("cuda", 5, 2)[-1]
    assert Retries(1, slots("cuda", 5, 2)).sharing(last) == 2  # what the records say of runs that share a job


def test_options_are_json_where_they_can_be() -> None:
    typed = {"time": "60", "partition": "gpu", "gres": "gpu:1", "exclusive": "true", "setup": '["module load x"]'}
    assert values(typed) == {
        **{"time": 60, "partition": "gpu", "gres": "gpu:1", "exclusive": True, "setup": ["module load x"]}
    }
    assert values({"time": "1:00:00"}) == {"time": "1:00:00"}  # in YAML it would be 3600


def test_a_job_that_starts_anew_takes_over_from_its_earlier_start_and_from_no_other(tmp_path: Path) -> None:
    first = task(tmp_path)
    assert again(first, 0) is first
    holding = acquire(first.folder, Owner("cpu", 10), first.token)
    assert holding is not None
    second = again(first, 1)
    assert (second.token, second.expired_token) == ("abc.1", "abc")
    taken = acquire(second.folder, Owner("cpu", 10), second.token, second.expired_token)
    assert taken is not None
    assert not holding.staging_dir.exists()  # the earlier one cannot write any more, should it live
    assert first.current_token == "abc.1"
    assert replace(first, token="ab").current_token is None
    assert again(replace(first, token="ab"), 1).expired_token is None


def test_progress_is_read_from_the_claims(tmp_path: Path) -> None:
    launched = LaunchedTask("one", "f", (task(tmp_path),), {}, tmp_path / "log")
    assert list(progress([launched])) == []
    assert acquire(task(tmp_path).folder, Owner("cpu", 10, 7, 12.5), "abc.1") is not None
    assert list(progress([launched])) == [Event("progress", "one", (7, 12.5))]
