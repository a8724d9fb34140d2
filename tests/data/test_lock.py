import threading
from pathlib import Path

from replicate.data.lock import alone


def test_only_one_at_a_time(tmp_path: Path):
    inside = [0]
    most = [0]

    def work() -> None:
        for _ in range(20):
            with alone(tmp_path / "new"):
                inside[0] += 1
                most[0] = max(most[0], inside[0])
                threading.Event().wait(0.001)  # gives the other threads every chance
                inside[0] -= 1

    threads = [threading.Thread(target=work) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert most == [1]
    assert list((tmp_path / "new").iterdir()) == []


def test_a_folder_that_cannot_be_locked_is_entered(tmp_path: Path):
    (tmp_path / "file").touch()
    with alone(tmp_path / "file" / "below"):
        entered = True
    assert entered
