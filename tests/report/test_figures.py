from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

from made_up_records import fill

from replicate.experiment import Experiment
from replicate.report.figures import draw
from replicate.report.table import assemble
from replicate.store.result import Result
from replicate.store.run_folder import Records

MakeRecords = Callable[..., Records]
PLAIN = ["accuracy", "accuracy_by_init", "curves", "init_variance"]
LAYERS = ["layer_variance", "layer_gradient", "weight_spectra"]


def test_every_figure_as_png_and_pdf_with_a_caption(
    small: Experiment, make_records: MakeRecords, tmp_path: Path
) -> None:
    table, said = assemble(small, small.runs(), make_records(fill(tmp_path, small.runs(), points=3))), list[str]()
    *paths, captions = draw(table, tmp_path, tmp_path / "figures", said.append)
    assert [path.name for path in paths] == [f"{name}.{kind}" for name in PLAIN + LAYERS for kind in ("png", "pdf")]
    assert said == []
    assert {path.read_bytes()[:4] for path in paths} == {b"\x89PNG", b"%PDF"}
    text = captions.read_text()
    assert captions.name == "captions.md"
    assert all(f"**{name}.** small: " in text for name in PLAIN + LAYERS)
    assert "CIFAR-10, fitnet4 at width 1, 90,000 iterations, bf16-mixed; runs per cell: 3." in text


def test_what_there_is_nothing_for_is_left_out_and_said(
    small: Experiment, curve_results: list[Result], curve_out: Path, make_records: MakeRecords
) -> None:
    said: list[str] = []
    (curve_out / "runs" / curve_results[0].run.run_id / "layers.json").write_text("{")
    table = assemble(small, small.runs(), make_records(curve_results))
    paths = draw(table, curve_out, curve_out / "figures", said.append)
    assert [path.stem for path in paths[:-1:2]] == PLAIN
    assert said[0].startswith("left out: ")
    assert "layers.json: " in said[0]
    assert said[1:] == [f"{name} is left out: no record has a layers.json" for name in LAYERS]
    assert said[1] in paths[-1].read_text()


def test_the_same_results_give_the_same_bytes_and_a_label_is_no_formula(
    small: Experiment, curve_results: list[Result], curve_out: Path, make_records: MakeRecords
) -> None:
    plain = [replace(result, init=[], data_label=r"$\frac{$ 100%") for result in curve_results]
    table = assemble(small, small.runs(), make_records(plain))
    drawn = [draw(table, curve_out, curve_out / name) for name in ("a", "b")]
    names = [*(f"{name}.{kind}" for name in PLAIN[:3] for kind in ("png", "pdf")), "captions.md"]
    assert [path.name for path in drawn[0]] == names
    assert [path.read_bytes() for path in drawn[0]] == [path.read_bytes() for path in drawn[1]]
    assert r"$\frac{$ 100%, fitnet4" in drawn[0][-1].read_text()
