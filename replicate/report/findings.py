"""What an experiment is and what it found, in a few sentences made from the document only."""

import re
from collections.abc import Iterable, Sequence

from replicate.report.document import Document
from replicate.report.published import JUDGED
from replicate.report.text import count, display_name, signed

NETWORKS = {"fitnet4": "the 17-layer FitNet-4"}
NOUNS = {"init": "initialisation", "activation": "activation"}  # of fields of Run; others have none but their name


def description(doc: Document) -> list[str]:
    """Say in two sentences what an experiment is; `doc` is a mapping from `replicate.report.document`."""
    protocol, (rows, columns) = doc["protocol"], doc["axes"]
    settings = protocol["settings"]
    model = settings.get("model", "each network")
    network = NETWORKS.get(model, model)
    if "width" in settings:
        network += f" at width {display_name(settings['width'])}"
    fixed = [f"{noun} {display_name(settings[field])}" for field, noun in NOUNS.items() if field in settings]
    network += f" ({', '.join(fixed)})" if fixed else ""
    grid = f"{_axis(rows, doc['rows'])} and {_axis(columns, doc['columns'])}"
    cells = sum(cell["expected"] > 0 for cell in doc["cells"])
    numbers = sorted({cell["expected"] for cell in doc["cells"] if cell["expected"]})
    seeds = f"{numbers[0]} to {numbers[-1]} seeds" if len(numbers) > 1 else count(numbers[0], "seed")
    size = f"{count(cells, 'cell')}, {seeds}"
    runs = doc["summary"]["expected"]
    subject = f"Each of its {runs:,} runs" if runs > 1 else "Its run"
    return [
        f"This experiment trains {network} on {protocol['data_label']}, with {grid}.",
        f"{subject} ({size}) takes {protocol['shown']['schedule']}.",
    ]


def _axis(field: str, values: Sequence[Document]) -> str:
    noun = [NOUNS[field]] if field in NOUNS else [f"value of {field}", f"values of {field}"]
    return f"{count(len(values), *noun)} ({', '.join(value['title'] for value in values)})"


def findings(doc: Document) -> list[str]:
    """Say in at most three sentences what an experiment found: which cells converged, the paper's numbers, its claims.

    Args:
        doc: a mapping from `replicate.report.document`.

    Returns:
        The sentences; only the warning if the numbers mean nothing.
    """
    if doc["protocol"]["warning"]:
        return [doc["protocol"]["warning"]]
    cells = [cell for cell in doc["cells"] if cell["finished"]]
    if not cells:
        return ["No run has finished yet, so nothing is known."]
    sentences = [_convergence(doc, cells), _published(doc, cells), _claims(doc)]
    return [f"{sentence}." for sentence in sentences if sentence]


def _convergence(doc: Document, cells: Sequence[Document]) -> str:
    by_row = [(row["title"], [cell for cell in cells if cell["row"] == row["value"]]) for row in doc["rows"]]
    rows = [f"{title} ({_converged(own)} of {len(own)})" for title, own in by_row if own]
    expected = sum(cell["expected"] > 0 for cell in doc["cells"])
    which = count(len(cells), "cell")
    if len(cells) < expected:
        which = f"the {count(len(cells), 'cell that has results', 'cells that have results')}"
    axis = doc["axes"][0]
    listed = f", by {NOUNS.get(axis, axis)}: {', '.join(rows)}" if len(rows) > 1 else ""
    single = "; one run per cell" if all(cell["finished"] == 1 for cell in cells) else ""
    return f"{_converged(cells)} of {which} converged{listed}{single}"


def _converged(cells: Sequence[Document]) -> int:
    return sum(not cell["nc"] for cell in cells)


def _published(doc: Document, cells: Sequence[Document]) -> str:
    """Compare the pattern of n/c, and the numbers where they compare, with the published table."""
    known = [cell for cell in cells if cell["published"] is not None]
    if not known:
        return ""
    comparable = [cell for cell in known if cell["verdict"]["word"] != "not comparable"]
    # where only some cells compare, a recipe of its own decides whether one of the others converges
    asked = comparable or known
    ours = [cell["name"] for cell in asked if cell["nc"] and cell["published"] != "n/c"]
    theirs = [cell["name"] for cell in asked if not cell["nc"] and cell["published"] == "n/c"]
    lists = [(ours, "n/c only here"), (theirs, "n/c only in the paper")]
    differing = "; ".join(f"{words}: {', '.join(names)}" for names, words in lists if names)
    same = f"{len(asked) - len(ours) - len(theirs)} of {count(len(asked), 'cell agrees', 'cells agree')}"
    whether = f"whether {'they converge' if len(asked) > 1 else 'it converges'}"
    pattern = f"{same} with the paper on {whether}{f' ({differing})' if differing else ''}"
    return f"{pattern}; {_numbers(doc, comparable)}"


def _numbers(doc: Document, cells: Sequence[Document]) -> str:
    """How our accuracies compare with the published ones, of cells that compare."""
    if not cells:
        return "the accuracies do not compare with the published ones, because the settings differ"
    judged = {word: number for word, number in doc["summary"]["published"].items() if word in JUDGED}
    if not judged:
        return f"no published number is judged ({'; '.join(reasons(cell['verdict'] for cell in cells))})"
    verdicts = ", ".join(f"{number} {word}" for word, number in judged.items())
    text = f"ours against {count(sum(judged.values()), 'published number')}: {verdicts}"
    differences = {cell["name"]: cell["verdict"]["difference"] for cell in cells if cell["verdict"]["word"] in JUDGED}
    measured = {name: value for name, value in differences.items() if value is not None}
    if not measured:
        return text
    name = max(measured, key=lambda name: abs(measured[name]))
    return f"{text}; the largest difference is {signed(measured[name])} points ({name})"


def _claims(doc: Document) -> str:
    """How many of the paper's claims got which verdict, which ones are contradicted, and why others are undecided."""
    parts = []
    for word, number in doc["summary"]["claims"].items():
        found = [claim for claim in doc["claims"] if claim["verdict"] == word]
        whys = {"contradicted": [claim["text"] for claim in found], "undecided": [*reasons(found), *_power(found)]}
        why = whys.get(word)
        parts.append(f"{number} {word}" + (f" ({'; '.join(why)})" if why else ""))
    return f"The paper's claims: {', '.join(parts)}" if parts else ""


def _power(claims: Iterable[Document]) -> list[str]:
    """The power of claims that have enough runs to be decided."""
    powers = sorted(claim["power"] for claim in claims if claim["not_significant"] and claim["power"] is not None)
    ends = dict.fromkeys(f"{one:.0f}" for one in (powers[:1] + powers[-1:]))
    return [f"power {' to '.join(ends)} %"] if powers else []


def reasons(verdicts: Iterable[Document]) -> list[str]:
    """The different reasons of some verdicts, each without its details: the number of runs, what follows a colon."""
    every = " in every cell"  # a detail where other verdicts lack runs in some cells only
    whole = (verdict["reason"].partition(":")[0] for verdict in verdicts)
    short = dict.fromkeys(re.sub(r"n (?:= \d+ )?< (\d+)", r"fewer than \1 runs", reason) for reason in whole)
    return [reason for reason in short if not reason.endswith(every) or reason.removesuffix(every) not in short]
