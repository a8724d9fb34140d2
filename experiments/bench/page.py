"""The output of a benchmark: a page with the rates next to the baseline's, and the same as JSON."""

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass

from bench.compare import Plan, Row
from replicate import provenance


@dataclass(frozen=True, slots=True)
class Page:
    """The result of a benchmark.

    Args:
        device: name of the device.
        command: command line that made the page.
        plan: what was measured.
        ceiling: the device's FLOP/s.
        rows: the speeds.
        queue: lengths of queues, and the scheduler's processor seconds per run; empty if only a part was measured.
    """

    device: str
    command: str
    plan: Plan
    ceiling: float
    rows: Sequence[Row]
    queue: Sequence[tuple[int, float]] = ()

    def markdown(self) -> str:
        """Format the page as Markdown."""
        commit, dirty = provenance.commit()
        versions = ", ".join(f"{name} {version}" for name, version in provenance.versions().items())
        plan, run = self.plan, self.plan.run
        lines = [
            f"# Speed on {self.device}",
            "",
            f"- Command: `{self.command}`",
            f"- Code: {commit}{' with changes' if dirty else ''}; {versions}",
            f"- Net: {run.model}, width {run.width:g}, batches of {run.batch_size}, {run.precision}; "
            "50,000 random images",
            f"- Rates: medians of {plan.windows} windows of {plan.seconds:g} s each, after a warm-up, "
            "with all processes running.",
            f"- Ceiling: {self.ceiling / 1e12:.3g} TFLOP/s (on a CPU: of a core), a large matrix product.",
            "- Baseline: Lightning's automatic optimisation, a DataLoader with workers, torchvision's transforms.",
            "",
            "| net | at once | path | iterations/s | images/s | of ceiling | of baseline | peak memory | start-up |",
            "|---|---|---|---|---|---|---|---|---|",
        ]
        base = {(row.activation, row.at_once): row.iterations_per_second for row in self.rows if row.path == "baseline"}
        for row in self.rows:
            baseline = base.get((row.activation, row.at_once))
            ratio = f"{row.iterations_per_second / baseline:.2f} ×" if baseline else "–"
            lines.append(
                f"| {row.activation} | {row.at_once} | {row.path} | {row.iterations_per_second:.4g} "
                f"| {row.images_per_second:,.0f} | {100 * row.share:.1f} % | {ratio} "
                f"| {row.peak_memory / 2**20:,.0f} MiB | {row.startup:.1f} s |"
            )
        lines += ["", "The arithmetic of one iteration:", ""]
        lines += [
            f"- {activation}: {operations / 1e9:,.3g} GFLOP ({1e3 * operations / self.ceiling:.3g} ms at the ceiling)"
            for activation, operations in {row.activation: row.operations for row in self.rows}.items()
        ]
        if self.queue:
            lines += ["", "The scheduler's own processor time:", "", "| runs in the queue | ms per run |", "|---|---|"]
        lines += [f"| {length} | {1000 * seconds:.2f} |" for length, seconds in self.queue]
        return "\n".join(lines) + "\n"

    def json(self) -> str:
        """Format the rows as JSON."""
        rows = [{name: value for name, value in asdict(row).items() if name != "kernels"} for row in self.rows]
        return json.dumps({"device": self.device, "command": self.command, "rows": rows}, indent=1) + "\n"

    def profile(self) -> str:
        """Join the tables of kernels."""
        return "\n".join(
            f"{row.activation}, {row.at_once} at once, {row.path}: {row.kernels}" for row in self.rows if row.kernels
        )
