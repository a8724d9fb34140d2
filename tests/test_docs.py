"""What the Markdown pages say to type and where they link to."""

import re
import shlex
from pathlib import Path

import pytest
from bench import cli
from command_lines import parse

ROOT = Path(__file__).parents[1]
PAGES = [page for page in sorted(ROOT.rglob("*.md")) if not re.match(r"\.|.*/local/", str(page.relative_to(ROOT)))]
FENCE = re.compile(r"^```\w*\n(.*?)^```", re.MULTILINE | re.DOTALL)
INLINE = re.compile(r"`([^`\n]+)`")


def commands(page: Path, program: str) -> list[list[str]]:
    """Return the words of each command in code blocks and code spans, without diagrams and elisions."""
    text = page.read_text()
    lines = [line for block in FENCE.findall(text) for line in block.splitlines()]
    lines += INLINE.findall(FENCE.sub("", text))
    words = (shlex.split(line, comments=True) for line in lines if re.match(rf"(\.venv/bin/)?{program} ", line))
    return [line[1:] for line in words if not {"…", "──►"} & set(line)]


def anchors(page: Path) -> set[str]:
    """Return the anchors that GitHub gives to a page's headings."""
    headings = re.findall(r"^#+ (.*)$", FENCE.sub("", page.read_text()), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_links_lead_somewhere(page: Path) -> None:
    for link in re.findall(r"\]\((?!https?:)([^)]+)\)", page.read_text()):
        path, _, anchor = link.partition("#")
        target = page.parent / path if path else page
        assert target.exists(), link
        if anchor:
            assert anchor in anchors(target / "README.md" if target.is_dir() else target), link


def test_commands_parse() -> None:
    current = [page for page in PAGES if page.parent != ROOT / "results" / "bench"]  # past ones keep their commands
    found = [words for page in current for words in commands(page, "replicate") if words != ["COMMAND", "FILE"]]
    assert len(found) > 15
    for words in found:
        if "--help" not in words:
            parse(words)
    found = [words for page in current for words in commands(page, "python experiments/bench")]
    assert found
    for _, *options in found:
        cli.app.parse_args(options, exit_on_error=False, print_error=False)


def test_make_targets_exist() -> None:
    targets = set(re.findall(r"^([a-z0-9-]+):", (ROOT / "Makefile").read_text(), re.MULTILINE))
    found = [words for page in PAGES for words in commands(page, "make")]
    assert len(found) > 20
    asked = {word for words in found for word in words if "=" not in word}
    assert asked <= targets


def test_readme_is_short() -> None:
    assert len((ROOT / "README.md").read_text().splitlines()) <= 150
