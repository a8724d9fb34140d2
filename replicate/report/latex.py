"""A table's grid as LaTeX, for papers."""

from typing import TYPE_CHECKING

from replicate.report.axes import title
from replicate.report.markdown import cell_text, incomparable_lines, letter, number_text

if TYPE_CHECKING:
    from replicate.report.table import Entry, Table

ESCAPES = {
    "\\": r"\textbackslash{}",
    **{character: f"\\{character}" for character in "&%$#_{}"},
    "~": r"\textasciitilde{}",
    "^": r"\textasciicircum{}",
    "<": "$<$",
    ">": "$>$",
    "±": r"$\pm$",
    "×": r"$\times$",
    "−": "$-$",
    "–": "--",
    "…": r"\dots{}",
}
# In a document's body LaTeX has forbidden \documentclass: there the table stands alone, elsewhere on its own page.
HEAD = r"""% pdflatex makes a page of this file as it stands; in a paper: \usepackage{booktabs} and \input{table}
\makeatletter
\ifx\documentclass\@notprerr
  \let\replicatedone\relax
\else
  \documentclass{article}
  \usepackage{booktabs}
  \pagestyle{empty}
  \begin{document}
  \def\replicatedone{\end{document}}
\fi
\makeatother"""
SIGNS = {"consistent": r" $\approx$", "higher": r" $\uparrow$", "lower": r" $\downarrow$"}
SIGN_LEGEND = {
    "consistent": r"$\approx$: consistent with ours.",
    "higher": r"$\uparrow$: ours is higher.",
    "lower": r"$\downarrow$: ours is lower.",
}


def escape(text: str) -> str:
    """Make text safe to stand in LaTeX as it is; what pdflatex has no letter for becomes a question mark."""
    return "".join(ESCAPES.get(character) or (character if _has_letter(character) else "?") for character in text)


def _has_letter(character: str) -> bool:
    return character.isprintable() and ord(character) < 0x180  # Latin, with accents


def latex(table: "Table") -> str:
    """Lay out the grid as a `table` that fits a column of text, with a page around it where it is not in a paper."""
    lines = [
        HEAD,
        r"\begin{table}",
        r"  \centering",
        r"  \footnotesize",
        r"  \setlength{\tabcolsep}{4pt}",
        rf"  \caption{{{_caption(table)}}}",
        rf"  \label{{tab:{_label(table.name)}}}",
        r"  \smallskip",
        rf"  \begin{{tabular}}{{l{'c' * len(table.columns)}}}",
        r"    \toprule",
        _line("", *(escape(title(column)) for column in table.columns)),
    ]
    for row in table.rows:
        entries = [table.entries[row, column] for column in table.columns]
        ours = [cell_text(entry.cell).partition(" (") for entry in entries]
        raised = [",".join(map(letter, entry.notes)) for entry in entries]
        marks = [f"$^{{{mark}}}$" if mark else "" for mark in raised]
        lines.append(r"    \midrule")
        lines.append(
            _line(escape(title(row)), *(escape(number) + m for (number, _, _), m in zip(ours, marks, strict=True)))
        )
        # each count on a line of its own: five columns must fit a page
        lines.append(_line("", *(rf"\scriptsize {escape(f'({rest}')}" if rest else "" for _, _, rest in ours)))
        if table.reference:
            lines.append(_line(r"\scriptsize paper", *(rf"\scriptsize {_published(entry)}" for entry in entries)))
    lines += [r"    \bottomrule", r"  \end{tabular}"]
    lines += [rf"  \par $^{{{letter(index)}}}$ {escape(note)}" for index, note in enumerate(table.footnotes)]
    return "\n".join([*lines, r"\end{table}", r"\replicatedone"]) + "\n"


def _line(*entries: str) -> str:
    return "    " + " & ".join(entries).strip() + r" \\"


def _published(entry: "Entry") -> str:
    return escape(number_text(entry.published)) + SIGNS.get(entry.verdict.word, "")


def _caption(table: "Table") -> str:
    p = table.protocol
    says = f"Test accuracy in % ({p.summary()}): mean ± standard deviation over n converged seeds."
    parts = [escape(says)]
    if table.reference:
        signs = {entry.verdict.word for entry in table.entries.values()}
        parts.append(escape("Below, the published number."))
        parts += [text for word, text in SIGN_LEGEND.items() if word in signs]
        parts += map(escape, incomparable_lines(table))
    return " ".join(parts)


def _label(name: str) -> str:
    # labels may hold no LaTeX characters, escaped or not
    return "".join(character if character.isascii() and character.isalnum() else "-" for character in name)
