"""What a GPU slot carries out: the probes and the portions of each plan, as data. See gpu_slot.py."""

from dataclasses import dataclass, replace
from typing import Literal

PlanName = Literal["first", "full", "seeds", "rehearsal"]
INITS = ("lsuv", "orthonormal", "orthonormal_msra", "xavier", "msra")
ACTIVATIONS = ("maxout", "relu", "vlrelu", "tanh", "sigmoid")
DASHES = (("orthonormal_msra", "maxout"), ("orthonormal_msra", "tanh"))  # not in the published table
CELLS = tuple((init, act) for init in INITS for act in ACTIVATIONS if (init, act) not in DASHES)
TRAINS = tuple(cell for cell in CELLS if cell[1] != "sigmoid")
SIGMOID = tuple(cell for cell in CELLS if cell[1] == "sigmoid")
# Without maxout, which takes twice the time: in a wave of equal shares its runs would end after all others.
WAVE = (
    ("lsuv", "relu"), ("xavier", "relu"), ("orthonormal", "relu"), ("lsuv", "vlrelu"), ("lsuv", "tanh"),
    ("msra", "relu"), ("orthonormal_msra", "relu"), ("xavier", "tanh"), ("orthonormal_msra", "vlrelu"),
    ("xavier", "vlrelu"), ("msra", "vlrelu"), ("orthonormal", "vlrelu"), ("orthonormal", "tanh"), ("msra", "tanh"),
)  # fmt: skip
COST = {"maxout": 2}  # of an iteration, in units of one with ReLU


@dataclass(frozen=True)
class Portion:
    """Runs that one `replicate matrix` carries out.

    Args:
        name: name of the portion, for its files and the report.
        file: experiment file, without folder and suffix.
        cells: pairs of initialisation and activation.
        seeds: seeds of each cell.
        iterations: iterations of each run.
        settings: further words for --set.
    """

    name: str
    file: str
    cells: tuple[tuple[str, str], ...]
    seeds: tuple[int, ...]
    iterations: int
    settings: tuple[str, ...] = ()

    @property
    def runs(self) -> list[tuple[str, str, int]]:
        """Initialisation, activation and seed of each run."""
        return [(init, activation, seed) for seed in self.seeds for init, activation in self.cells]


@dataclass(frozen=True)
class Probe:
    """A training-step backend to measure before it is used. The next stage does not wait for a `background` probe."""

    path: str
    activation: str
    at_once: int = 1
    background: bool = False


@dataclass(frozen=True)
class Plan:
    """Portions in their order, then waves of `wave`: as many of its cells at once as can finish.

    Args:
        portions: in their order.
        wave: its cells, the most important first.
        probes: backends to measure first; empty: only the one that will be used, with as many runs at once.
    """

    portions: tuple[Portion, ...]
    wave: Portion
    probes: tuple[Probe, ...] = ()


SHORT = Portion("short", "table3-short", TRAINS, (0,), 18_000)
SHORT_SIGMOID = replace(SHORT, name="sigmoid", cells=SIGMOID)
FULL = Portion("wave", "table3", WAVE, (0,), 90_000)
TINY = Portion("tiny", "smoke", (("lsuv", "relu"), ("xavier", "tanh")), (0,), 40,
               ("iterations=40", "milestones=[30]"))  # fmt: skip
FIRST_PROBES = (
    Probe("eager", "relu"), Probe("graph", "relu"), Probe("graph", "maxout"), Probe("compiled", "relu", background=True)
)  # fmt: skip

PLANS: dict[PlanName, Plan] = {
    # the first slot: the whole table at a fifth of its length, then full runs
    "first": Plan((SHORT, SHORT_SIGMOID), FULL, FIRST_PROBES),
    "full": Plan((), FULL),
    "seeds": Plan((replace(SHORT, seeds=(1, 2)), replace(SHORT_SIGMOID, seeds=(0, 1, 2))), FULL),
    # two runs of a few seconds and a wave of one, to try the slot itself on a CPU
    "rehearsal": Plan(
        (TINY,),
        replace(TINY, name="wave", cells=(("lsuv", "tanh"),), seeds=(1,)),
        (Probe("eager", "relu"),),
    ),
}
