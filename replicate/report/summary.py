"""What a table says about itself: its header, a summary with caveats, and what its runs were made with."""

from collections import Counter, defaultdict
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import fields
from typing import Any

from replicate.errors import UsageError
from replicate.report.published import JUDGED, MIN_RUNS, expected_outside
from replicate.report.statistics import Spreads
from replicate.report.text import count, display_name
from replicate.run import Run
from replicate.store.result import Result

Section = dict[str, Any]  # of the document
VERDICTS = (*JUDGED, "not judged", "not comparable", "supported", "contradicted", "undecided")  # in this order
GENERATED = "The images are generated, so these numbers mean nothing. They only show that the software works."
MORE = ("zoom", "colour_jitter", "cutout", "ema", "test_mirror")  # beyond the paper; off by default
PROTOCOL_TEXTS = {
    "schedule": "{iterations} iterations of {batch_size} images{by}; learning rate {lr}{steps}; momentum {momentum}; "
    "weight decay {weight_decay}",
    "preprocessing": "{preprocessing}, times {input_scale}{more}",
    "network": "{model}, width {width}",
    "precision": "{precision}",
    "summary": "{data_label}, {model} at width {width}, {iterations} iterations, {precision}",
}


def shared_protocol(runs: Sequence[Run], results: Iterable[Result], axes: Iterable[str]) -> Section:
    """Find what the runs of a table share: its header.

    Args:
        runs: the runs of the table.
        results: their records.
        axes: the fields of Run that make the table's rows and columns.

    Returns:
        - `data_label`, `dataset`: the data set's display name, and its name in runs. `fingerprint`: of its content.
        - `settings`: field of Run -> the value of most cells; the axes and the seed are left out.
        - `seeds`: in ascending order. `classes`: of the data set; None if no record has it.
        - `warning`: a sentence if the numbers mean nothing, because the images are generated; otherwise None.
        - `shown`: the same as text: `schedule`, `preprocessing`, `network`, `precision`, and `summary` for captions.

    Raises:
        UsageError: the records were made on more than one data set, or tested on different images of one.
    """
    made_on: dict[tuple[str, int], list[Result]] = {}
    for result in results:
        if result.fingerprint != "unknown":  # it failed before the data was read
            made_on.setdefault((result.fingerprint, result.run.validation), []).append(result)
    if len(made_on) > 1:
        named = [f"{len(made)} on {made[0].data_label} ({mark})" for (mark, _), made in made_on.items()]
        raise UsageError(f"a table holds one data set, but of these runs {' and '.join(named)}; use one --out for each")
    (mark, _), made = next(iter(made_on.items()), (("unknown", 0), []))
    names = [field.name for field in fields(Run) if field.name not in ("seed", *axes)]
    settings = {name: Counter(getattr(run, name) for run in runs).most_common(1)[0][0] for name in names}
    label = made[0].data_label if made else runs[0].dataset
    texts = {field.name: "(an axis of the table)" for field in fields(Run)}
    texts |= {"data_label": label, **{name: display_name(value) for name, value in settings.items()}}
    is_constant = settings.get("milestones") == ()
    texts["steps"] = "" if is_constant else f", times {texts['lr_factor']} at {texts['milestones']}"
    texts["by"] = f" by {texts['optimizer']}" if settings.get("optimizer", "sgd") != "sgd" else ""
    if settings.get("square_decay") is not None:
        texts["by"] += f" with square decay {texts['square_decay']}"
    extra = [f"{name.replace('_', ' ')} {texts[name]}" for name in MORE if settings.get(name)]
    texts["more"] = f"; with {', '.join(extra)}" if extra else ""
    return {
        "data_label": label,
        "dataset": runs[0].dataset,
        "fingerprint": mark,
        "settings": settings,
        "seeds": sorted({run.seed for run in runs}),
        "classes": next((result.classes for result in made if result.classes), None),
        "warning": GENERATED if runs[0].dataset == "synthetic" else None,
        "shown": {name: template.format_map(texts) for name, template in PROTOCOL_TEXTS.items()},
    }


def departures(run: Run, settings: Mapping[str, Any]) -> str:
    """The settings of a run that are not those of most cells: `momentum 0.5`; empty if there are none."""
    return ", ".join(
        f"{name} {display_name(value)}" for name, usual in settings.items() if (value := getattr(run, name)) != usual
    )


def spreads_text(spreads: Spreads) -> str:
    """Say whether the cells of a table scatter alike, and by what they are judged; empty if nothing is known."""
    if spreads.pooled is None:
        return ""
    test = "" if spreads.p is None else f"Bartlett's test, p = {spreads.p:.2g}"
    if not spreads.alike:
        return f"The spreads of the cells differ ({test}), so each cell is judged by its own standard deviation."
    alike = f", because their spreads do not differ significantly ({test})" if test else ""
    sd = f"{spreads.pooled.sd:.2f} points with {count(spreads.pooled.df, 'degree')} of freedom"
    return f"The standard deviation of a run is pooled over the cells{alike}: {sd}."


def summary(cells: Collection[Section], claims: Iterable[Section], results: Collection[Result]) -> Section:
    """Sum up a table.

    Args:
        cells: of the document.
        claims: of the document.
        results: the records.

    Returns:
        - `expected`, `finished`, `converged`, `diverged`, `errors`: numbers of runs.
        - `published`, `claims`: verdict -> number of published numbers, and of claims, that got it.
        - `expected_outside`: how many published numbers are expected outside their interval by chance; None if none is
          judged.
        - `not_comparable`: why cells do not compare with the published numbers, one sentence per reason.
        - `caveats`: sentences on what limits the rest.
    """
    judged = [cell for cell in cells if cell["verdict"].word]
    verdicts = [cell["verdict"] for cell in judged]
    not_comparable = []
    for reason in dict.fromkeys(verdict.reason for verdict in verdicts if verdict.word == "not comparable"):
        names = [cell["name"] for cell in judged if cell["verdict"].reason == reason]
        which = "" if len(names) == len(judged) else f" ({', '.join(names)})"
        not_comparable.append(f"Not comparable with the paper{which}: {reason}.")
    counts = ("expected", "finished", "converged", "diverged", "errors")
    totals = {name: sum(cell[name] for cell in cells) for name in counts}
    most = max((cell["finished"] if cell["nc"] else cell["converged"] for cell in judged), default=0)
    return {
        **totals,
        "published": _counted(verdict.word for verdict in verdicts),
        "claims": _counted(claim["verdict"] for claim in claims),
        "expected_outside": expected_outside(verdicts) if any(v.word in JUDGED for v in verdicts) else None,
        "not_comparable": not_comparable,
        "caveats": _caveats(totals, most, not_comparable, results),
    }


def _counted(words: Iterable[str]) -> dict[str, int]:
    counts = Counter(words)
    return {word: counts[word] for word in VERDICTS if counts[word]}


def _caveats(totals: Mapping[str, int], most: int, not_comparable: list[str], results: Collection[Result]) -> list[str]:
    """Sentences on what limits a table; `most` is the largest number of runs behind a published number."""
    caveats = []
    finished, expected, errors = totals["finished"], totals["expected"], totals["errors"]
    if not finished:
        caveats.append("No run has finished yet.")
    elif finished < expected:
        caveats.append(f"{expected - finished} of {expected} runs have not finished, so the numbers may still change.")
    if 0 < most < MIN_RUNS:
        few = f"No cell has more than {count(most, 'run')}"
        caveats.append(f"{few}; published numbers are judged only with at least {MIN_RUNS}.")
    if errors:
        caveats.append(f"{count(errors, 'run')} ended in an error; see “What is missing”.")
    if held_out := max((result.run.validation for result in results), default=0):
        caveats.append(f"Accuracies are on {held_out:,} training images that were held out, not on the test images.")
    if finished:
        caveats += not_comparable
    # Two commits may have the same code, and two states of a changed checkout have different code.
    versions = {result.sources for result in results}
    if None in versions:
        versions = {f"{result.commit} {result.dirty}" for result in results}
    if len(versions) > 1:
        caveats.append(f"The runs were made by {len(versions)} different versions of the code.")
    if any(result.dirty for result in results):
        caveats.append("Some runs were made by code that differs from the commit they name.")
    return caveats


def provenance(results: Collection[Result]) -> Section:
    """Count the data sets, versions of code and libraries, and devices of some records, errors included.

    Returns:
        - `data`: a list of `{label, fingerprint, runs}`. `code`: a list of `{commit, dirty, runs}`.
        - `versions`: library -> version -> number of runs.
        - `devices`: a list of `{name, kind, runs, hours}`, kind `GPU` or `CPU`. Hours on a GPU are the wall-clock hours
          of its runs (runs that shared it count each), on a CPU core-hours: wall-clock hours times threads.
        - `hours`: kind -> hours on all of its devices.
        - `first_finished`, `last_finished`: UTC, ISO 8601; None without a record.
    """
    versions: dict[str, Counter[str]] = defaultdict(Counter)
    runs: Counter[tuple[str, str]] = Counter()
    hours: dict[tuple[str, str], float] = defaultdict(float)
    total: dict[str, float] = defaultdict(float)
    for result in results:
        for library, version in result.versions.items():
            versions[library][version] += 1
        kind = "CPU" if result.options.get("device", "cpu") == "cpu" else "GPU"
        threads = result.options.get("threads", 1)
        taken = result.seconds / 3600 * (threads if kind == "CPU" and isinstance(threads, int) else 1)
        runs[result.device, kind] += 1
        hours[result.device, kind] += taken
        total[kind] += taken
    data = Counter((result.data_label, result.fingerprint) for result in results)
    code = Counter((result.commit, result.dirty) for result in results)
    finished = [result.finished for result in results]
    return {
        "data": [{"label": label, "fingerprint": mark, "runs": n} for (label, mark), n in data.items()],
        "code": [{"commit": commit, "dirty": dirty, "runs": n} for (commit, dirty), n in code.items()],
        "versions": versions,
        "devices": [
            {"name": name, "kind": kind, "runs": n, "hours": hours[name, kind]} for (name, kind), n in runs.items()
        ],
        "hours": total,
        "first_finished": min(finished, default=None),
        "last_finished": max(finished, default=None),
    }
