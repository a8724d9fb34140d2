"""What JPEG costs: one cell on the images at hand with exact pixels, and on the same images as JPEG, in paired seeds.

python experiments/jpeg_cost.py --data-dir DIR --out results/local/jpeg-cost

DIR holds the image folders cifar10-lossless-6k (exact pixels, named by their official numbers) and cifar10-jpeg. Each
exact image is matched to its JPEG; OUT/data gets the two data sets; the runs of experiments/jpeg-cost.yaml go through
`replicate matrix`, which takes all further options (--devices, --per-device, --time-limit, …) and goes on where it was
stopped. The page says what the paired seeds differ by.
"""

import argparse
import shlex
import sys
from pathlib import Path

from jpeg_matching import lay_out, match, misnumbered, summary
from jpeg_pairs import pair_up, write_page
from rich.console import Console
from rich.progress import Progress

from replicate import cli
from replicate.errors import UsageError
from replicate.experiment import Experiment
from replicate.settings import assignments
from replicate.store.run_folder import collect

FILE = Path(__file__).with_name("jpeg-cost.yaml")
EXACT, COPIES = "cifar10-lossless-6k", "cifar10-jpeg"


def prepare(data_dir: Path, made: Path, names: tuple[str, str]) -> str:
    """Match the images and lay out both data sets in the folder `made`; return what was found, in Markdown."""
    with Progress(console=Console(stderr=True), transient=True) as bar:
        task = bar.add_task("reading and matching images", total=None)
        found = match(
            data_dir / EXACT, data_dir / COPIES, lambda done, total: bar.update(task, completed=done, total=total)
        )
    if wrong := misnumbered(found):
        first = wrong[0]
        raise UsageError(
            f"{len(wrong)} matches are at odds with the official order; the first: {first.exact}, {first.copy}"
        )
    lay_out(found, made / names[0], made / names[1])
    return summary(found, COPIES)


def main(words: list[str] | None = None) -> int:
    """Match the images, train, and write the page; the exit codes are those of `replicate matrix`."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter, allow_abbrev=False
    )
    parser.add_argument("--data-dir", type=Path, default=Path("data"), help=f"holds {EXACT} and {COPIES} (data/)")
    parser.add_argument("--out", type=Path, default=Path("results/local/jpeg-cost"), help="(results/local/jpeg-cost)")
    parser.add_argument("--page", type=Path, help="Markdown file to write (OUT/jpeg_cost.md)")
    parser.add_argument("--seeds", default="0,1,2,3,4", metavar="N,N", help="paired seeds (0,1,2,3,4)")
    parser.add_argument("--set", nargs="+", action="extend", default=[], metavar="KEY=VALUE", help="as of the matrix")
    args, rest = parser.parse_known_args(words)
    settings = [f"seed={args.seeds}", *args.set]
    try:
        experiment = Experiment.load(FILE)
        exact, copies = experiment.grid["dataset"]
        if "dataset" in (given := assignments("--set", settings)):
            raise UsageError("the data sets are made here; leave dataset out of --set")
        runs = experiment.with_settings(given).runs()
        names = (exact.removeprefix("folder:"), copies.removeprefix("folder:"))
        images = prepare(args.data_dir, args.out / "data", names)
        code = cli.main(["matrix", str(FILE), "--out", str(args.out), "--data-dir", str(args.out / "data"),
                         "--set", *settings, *rest])  # fmt: skip
        results = collect(args.out, runs).results
        # Without the folders of data and results, which concern nobody else.
        command = ["python", "experiments/jpeg_cost.py", "--data-dir", "DIR", "--seeds", args.seeds]
        command += [*(["--set", *args.set] if args.set else []), *rest]
        pairs = pair_up(results.values(), exact, copies)
        path = write_page(args.page or args.out / "jpeg_cost.md", pairs, images, shlex.join(command))
    except UsageError as error:
        print(f"jpeg_cost: {error}", file=sys.stderr)
        return 2
    print(path.read_text())
    print(f"wrote {path}")
    return code


if __name__ == "__main__":
    sys.exit(main())
