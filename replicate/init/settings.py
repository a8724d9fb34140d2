"""What LSUV brings each layer to, and how."""

from dataclasses import dataclass
from numbers import Integral, Real

from torch import Generator

from replicate.init.progress import Progress
from replicate.init.report import LSUVError

WHERE = ("preactivation", "activation")


@dataclass(frozen=True, slots=True)
class Settings:
    """Settings of LSUV: see `lsuv_`.

    Raises:
        LSUVError: a setting is of the wrong type or out of range.
    """

    tol: float = 0.02
    max_iter: int = 20
    average: int | None = None
    check: int = 32
    std: float = 1.0
    mean: float | None = None
    where: str = WHERE[0]

    def __post_init__(self) -> None:
        for name, value in (("tol", self.tol), ("std", self.std)):
            if not isinstance(value, Real) or not value > 0:
                raise LSUVError(f"{name}={value!r} is out of range; give a number above 0")
        if not 1e-10 <= self.std <= 1e10:
            raise LSUVError(f"std={self.std!r} is out of range; give a number from 1e-10 to 1e10")
        if self.mean is not None and not (isinstance(self.mean, Real) and abs(self.mean) <= 1e10):
            raise LSUVError(f"mean={self.mean!r} is out of range; give a number, or None to leave it as it is")
        for name, count, low in (
            ("max_iter", self.max_iter, 0),
            ("average", self.average, 1),
            ("check", self.check, 0),
        ):
            if (count is not None or name != "average") and (not isinstance(count, Integral) or count < low):
                raise LSUVError(f"{name}={count!r} is out of range; give a whole number of at least {low}")
        if self.where not in WHERE:
            raise LSUVError(f"unknown where {self.where!r}; choose from: {', '.join(WHERE)}")

    def relative(self, variance: float) -> float:
        """Return a variance relative to the one that is wanted."""
        return variance / self.std**2


def check_arguments(dropout: bool, generator: Generator | None = None, progress: Progress | None = None) -> None:
    """Refuse arguments of the wrong type."""
    if not isinstance(dropout, bool):
        raise LSUVError(f"dropout={dropout!r} is no bool; give True for training mode, False for evaluation mode")
    if not isinstance(generator, (Generator, type(None))):
        raise LSUVError(f"generator={generator!r} is no torch.Generator")
    if not (progress is None or callable(progress)):
        raise LSUVError(f"progress={progress!r} is no function of two numbers")
