"""What JPEG costs: one cell trained on images with exact pixels, and on the same images as JPEG, with paired seeds.

python experiments/jpeg_cost.py --data-dir DIR --out results/local/jpeg-cost

DIR contains the image folders cifar10-lossless-6k (exact pixels, named by their official numbers) and cifar10-jpeg.
Each exact image is matched to its JPEG, and OUT/data gets the two data sets. `replicate matrix` carries out the runs of
experiments/jpeg-cost.yaml. It receives all further options (--devices, --per-device, --time-limit, …), and resumes
where it was stopped. The page reports the differences of the paired seeds.
"""

import shlex
import sys
from pathlib import Path
from typing import Annotated

from cyclopts import Parameter
from jpeg_matching import lay_out, match, misnumbered, summary
from jpeg_pairs import page as format_page
from jpeg_pairs import pair_up
from rich.console import Console
from rich.progress import Progress
from script import make_app, run_app

from replicate import cli
from replicate.errors import UsageError
from replicate.experiment import Experiment
from replicate.store.files import write_atomically
from replicate.store.run_folder import collect
from replicate.yamlfile import assignments

FILE = Path(__file__).with_name("jpeg-cost.yaml")
EXACT, COPIES = "cifar10-lossless-6k", "cifar10-jpeg"

app = make_app("jpeg_cost", __doc__)


@app.default
def jpeg_cost(
    *rest: Annotated[str, Parameter(allow_leading_hyphen=True, show=False)],
    data_dir: Path = Path("data"),
    out: Path = Path("results/local/jpeg-cost"),
    page: Path | None = None,
    seeds: str = "0,1,2,3,4",
    set: tuple[str, ...] = (),
) -> int:
    """Match the images, train, and write the page. The exit codes are those of `replicate matrix`.

    Args:
        rest: Further options of `replicate matrix`.
        data_dir: Folder with cifar10-lossless-6k and cifar10-jpeg.
        out: Output folder.
        page: Markdown file to write (default: OUT/jpeg_cost.md).
        seeds: Paired seeds.
        set: As in `replicate matrix`.
    """
    settings = [f"seed={seeds}", *set]
    experiment = Experiment.load(FILE)
    exact, copies = experiment.grid["dataset"]
    if "dataset" in (given := assignments("--set", settings)):
        raise UsageError("this script makes the data sets; leave dataset out of --set")
    runs = experiment.with_settings(given).runs()
    names = (exact.removeprefix("folder:"), copies.removeprefix("folder:"))
    images = prepare(data_dir, out / "data", names)
    code = cli.main(["matrix", str(FILE), "--out", str(out), "--data-dir", str(out / "data"),
                     "--set", *settings, *rest])  # fmt: skip
    results = collect(out, runs).results
    # without the folders of data and results, which differ on each machine
    command = ["python", "experiments/jpeg_cost.py", "--data-dir", "DIR", "--seeds", seeds]
    command += [*(["--set", *set] if set else []), *rest]
    text = format_page(pair_up(results.values(), exact, copies), images, shlex.join(command))
    path = page or out / "jpeg_cost.md"
    path.parent.mkdir(parents=True, exist_ok=True)
    print(f"{text}\nwrote {write_atomically(path, text)}")
    return code


def prepare(data_dir: Path, made: Path, names: tuple[str, str]) -> str:
    """Match the images, and make both data sets.

    Args:
        data_dir: folder with the images.
        made: folder to make the data sets in.
        names: of the data sets: exact and JPEG.

    Returns:
        What was found, in Markdown.
    """
    with Progress(console=Console(stderr=True), transient=True) as bar:
        task = bar.add_task("reading and matching images", total=None)
        found = match(
            data_dir / EXACT, data_dir / COPIES, lambda done, total: bar.update(task, completed=done, total=total)
        )
    if wrong := misnumbered(found):
        first = wrong[0]
        raise UsageError(f"{len(wrong)} matches contradict the official order; the first: {first.exact}, {first.copy}")
    lay_out(found, made / names[0], made / names[1])
    return summary(found, COPIES)


if __name__ == "__main__":
    sys.exit(run_app(app))
