"""`replicate check-init`: the two examples pass, and each kind of fault is found."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from replicate.checks import init_file
from replicate.checks.init_file import findings, wrong_result
from replicate.cli import main
from replicate.names import ACTIVATIONS
from replicate.plugins import Plugin, read_plugin, register

EXAMPLES = Path(__file__).parents[2] / "experiments" / "plugins"
CHECKS = ("same weights twice", "random streams", "values", "what it changes", "activations", "stop and resume")
Output = pytest.CaptureFixture[str]


@pytest.fixture(autouse=True)
def nothing_registered() -> Iterator[None]:
    yield
    register([])


def lines(capsys: Output) -> dict[str, tuple[str, str]]:
    """The verdict and the text of each check that was printed, by its name."""
    found = [line for line in capsys.readouterr().out.splitlines() if ", " in line]
    return {line[7:].partition(": ")[0]: (line[:7].strip(), line.partition(": ")[2]) for line in found}


@pytest.mark.parametrize("name", ["random_signs", "unit_channels"])
def test_the_examples_pass(monkeypatch: pytest.MonkeyPatch, capsys: Output, name: str) -> None:
    monkeypatch.setattr(init_file, "ACTIVATIONS", {one: ACTIVATIONS[one] for one in ("relu", "prelu", "maxout")})
    assert main(["check-init", str(EXAMPLES / f"{name}.py")]) == 0
    found = lines(capsys)
    checks = [check for check in CHECKS if check != "what it changes" or name == "unit_channels"]  # a scheme cannot
    assert [*found] == [f"{name}, {check}" for check in checks]
    # With random signs and maxout, whose variance doubles from layer to layer, the training diverges.
    noted = {check.partition(", ")[2] for check, (verdict, _) in found.items() if verdict == "note"}
    assert noted == ({"activations"} if name == "random_signs" else set())


BAD = {
    "global_stream": ("return torch.randn(shape)", "random streams", "draws from torch's global generator"),
    "global_random": (
        "return torch.full(shape, random.random() + numpy.random.rand())",
        "random streams",
        "draws from numpy.random and python's random",
    ),
    "in_float64": (
        "return torch.randn(shape, generator=generator, dtype=torch.float64)",
        "values",
        "returns float64 and not float32",
    ),
    "with_nan": ("return torch.full(shape, math.nan)", "values", "returns NaN or inf"),
    "one_seed": (
        "torch.rand(1, generator=generator); return torch.ones(shape)",
        "same weights twice",
        "it draws numbers, but two seeds give the same weights",
    ),
    "raises": ("return 1 / 0", "same weights twice", "ZeroDivisionError in line 8 of bad.py: division by zero"),
    "exits": ("raise SystemExit(0)", "same weights twice", "RuntimeError: exits calls sys.exit"),
    "of_another_shape": ("return torch.ones(3)", "same weights twice", "returns a tensor of shape (3,) for ("),
}
BAD_ON_MODELS = {
    "buffer": (
        "for one in model.buffers(): one.fill_(1)",
        "what it changes",
        "changes the buffer conv10_norm.num_batches_tracked",
    ),
    "slope": (
        "for name, one in model.named_parameters(): one.mul_(2 if one.numel() == 1 else 1)",
        "what it changes",
        "LSUVError: slope has changed conv1_act.weight, which is not the weight or bias of a layer",
    ),
    "in_float64": (
        "model.fc1.weight.data = model.fc1.weight.data.double()",
        "same weights twice",
        "LSUVError: in_float64 has changed the shape, dtype or device of fc1.weight",
    ),
    "with_nan": ("model.fc1.weight[0, 0] = math.nan", "values", "fc1.weight holds NaN or inf"),
    "global_stream": ("model.fc1.weight.normal_()", "random streams", "draws from torch's global generator"),
    "without_dropout": (
        "for one in model.modules(): one.p = 0.0",
        "stop and resume",
        "after a stop the weights have other bits",
    ),
    "with_hook": (
        "model.fc1.register_forward_hook(lambda *args: 2 * args[2])",
        "stop and resume",
        "after a stop the weights have other bits",
    ),
}


@pytest.mark.parametrize(
    ("parameters", "name"),
    [("shape, generator, slope", name) for name in BAD]
    + [("model, batches, generator", name) for name in BAD_ON_MODELS],
)
def test_a_fault_is_found(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, parameters: str, name: str) -> None:
    monkeypatch.setattr(init_file, "ACTIVATIONS", {name: ACTIVATIONS[name] for name in ("relu", "prelu")})
    body, check, message = (BAD if parameters.startswith("shape") else BAD_ON_MODELS)[name]
    plugin = bad_file(tmp_path, f"{name}({parameters})", body)
    register([plugin])
    found = next(one for what, one in findings(plugin, lambda text: None) if what == f"{name}, {check}")
    assert (found.verdict, found.text[: len(message)]) == ("failed", message)


def bad_file(folder: Path, head: str, body: str) -> Plugin:
    path = folder / "bad.py"
    path.write_text(f"import math\nimport random\n\nimport numpy\nimport torch\n\ndef {head}:\n    {body}\n")
    return read_plugin(path)


def test_the_exit_code_says_that_a_check_has_failed(tmp_path: Path, capsys: Output) -> None:
    plugin = bad_file(tmp_path, "raises(model, batches, generator)", "model(1)")
    assert main(["check-init", str(plugin.path)]) == 1
    assert lines(capsys).popitem()[1][0] == "failed"


def test_wrong_usage(tmp_path: Path, capsys: Output) -> None:
    bad = tmp_path / "bad.py"
    for text, message in (
        ("", "has no initialisation"),
        ("import nowhere\ndef f(shape, g, s): ...", "line 1: ModuleNotFound"),
    ):
        bad.write_text(text)
        assert main(["check-init", str(bad)]) == 2
        assert message in capsys.readouterr().err
    assert main(["check-init", str(tmp_path / "none.py")]) == 2
    assert "none.py: No such file or directory" in capsys.readouterr().err


def test_what_a_scheme_returns() -> None:
    assert wrong_result([1.0], (2, 2)) == "returns list and no tensor"
