"""What a calibration is asked to do, checked before anything is read."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from qsched_edge import noise
from qsched_edge.calibrate.budget import Budget
from qsched_edge.calibrate.place import Place
from qsched_edge.calibrate.registries import ACCEPTS, AUTO, COLUMNS, ENGINES, JACOBIANS, SEARCHES, STARTS
from qsched_edge.errors import RequestError, unknown_name
from qsched_edge.jaq.terms import COMBINE, DISTRIBUTION, compares, losses

WITHOUT_GRADIENT = "with --loss distribution search by timesteps, noise, free, line or blackbox, or give --loss jaq"


@dataclass(frozen=True)
class Tuning:
    """The searches' own settings: grid points an axis, gradient iterations, the Jacobian's stand-in, and which of
    (c_x, c_eps) the gradient may move; `check` compares the gradient with finite differences."""

    points: int = 7
    iterations: int = 24
    jacobian: str = "none"
    moves: tuple[bool, bool] = (True, True)
    check: bool = True


@dataclass(frozen=True)
class CalibrationSettings:
    """`search` names searches, "auto" stands for AUTO and "all" for all of them; `loss` "" is the recipe's, else JAQ;
    `references` and `fit` are a folder and encoders for the loss over sets, the recipe's unless they are given; counts
    are prompts, of held-out ones at most; the other values are explained in the command's help. `engine`, `workers` and
    `ray_address` change no result."""

    search: tuple[str, ...] = ("auto",)
    columns: tuple[str, ...] = ()
    loss: str = ""
    k: float = 2.0
    combine: str = "sum"
    proximity: float = 0.0
    references: Path | None = None
    fit: tuple[str, ...] = ()
    accept: str = "gate"
    steps: int | None = None
    budget: str = ""
    start: str = "identity"
    points: int = 7
    iterations: int = 24
    jacobian: str = "none"
    check_gradient: bool = True
    fit_prompts: int = 32
    heldout_prompts: int = 160
    seed: int = 0
    scorer: str = ""
    text_image: str = ""
    quality: str = ""
    offline: bool = False
    reference: Path | None = None
    place: Place = field(default_factory=Place)
    engine: str = "local"
    ray_address: str = ""
    workers: int = 2

    def __post_init__(self) -> None:
        for what, names, known in (
            ("search", self.search, (*SEARCHES, "auto", "all")),
            ("loss", (self.loss,) if self.loss else (), (*losses(), DISTRIBUTION)),
            ("combine", (self.combine,), COMBINE),
            ("start", (self.start,), STARTS),
            ("jacobian", (self.jacobian,), JACOBIANS),
            ("engine", (self.engine,), ENGINES),
            ("accept", (self.accept,), ACCEPTS),
            ("column", self.columns, COLUMNS),
        ):
            for name in names:
                if name not in known:
                    raise RequestError(unknown_name(what, name, known))
        for name in ("points", "iterations", "fit_prompts", "heldout_prompts"):
            if getattr(self, name) < 2:
                raise RequestError(f"{name} {getattr(self, name)} is too few: use 2 or more")
        self._check_numbers()
        if self.jacobian == "forward" and "channel" in self.searches():
            raise RequestError("jacobian forward knows no single channels: use none or symmetric for search channel")
        by_gradient = {"gradient", "channel"} & set(self.searches())
        if self.over_sets and by_gradient:
            raise RequestError(
                f"search {by_gradient.pop()} follows the gradient of single pictures: {WITHOUT_GRADIENT}"
            )
        Budget.parse(self.budget)

    def _check_numbers(self) -> None:
        """Counts and seeds whose noise streams would meet another prompt set's are refused too."""
        if not (math.isfinite(self.k) and self.k >= 0):
            raise RequestError(f"k {self.k} cannot weigh a term: use a number from 0 on")
        if not (math.isfinite(self.proximity) and self.proximity >= 0):
            raise RequestError(f"proximity {self.proximity} cannot weigh a distance: use a number from 0 on")
        noise.check_seed(self.seed)
        for name in ("fit_prompts", "heldout_prompts"):
            noise.check_prompts(name, getattr(self, name))
        if self.workers < 1:
            raise RequestError(f"workers {self.workers} is too few: use 1 or more")

    def json(self) -> dict[str, Any]:
        """Every setting by name, those of the place among them."""
        flat: dict[str, Any] = {}
        for name, value in asdict(self).items():
            flat |= value if name == "place" else {name: str(value) if isinstance(value, Path) else value}
        return flat

    def searches(self, columns: Sequence[str] = AUTO) -> tuple[str, ...]:
        """In the order they run: what others start from comes first. `auto` moves the `columns` that were asked for,
        else those given here."""
        named = set()
        auto = [COLUMNS[name] for name in self.columns or columns]
        for name in self.search:
            named |= set({"auto": auto, "all": SEARCHES}.get(name, (name,)))
        if self.start == "closed":
            named.add("closed")
        return tuple(sorted(named, key=lambda n: (n != "closed", list(SEARCHES).index(n))))

    @property
    def compares(self) -> bool:
        """Does the loss compare the pictures with full precision's?"""
        return bool(self.loss) and compares(self.loss)

    @property
    def over_sets(self) -> bool:
        """Is the loss one of the set of all pictures?"""
        return self.loss == DISTRIBUTION

    @property
    def needs_reference(self) -> bool:
        """Is anything of the search compared with full precision?"""
        return self.compares or "closed" in self.searches()

    @property
    def begin(self) -> str:
        """One of STARTS; `auto` moves one column after the other."""
        return "previous" if "auto" in self.search and self.start == "identity" else self.start

    @property
    def tuning(self) -> Tuning:
        return Tuning(self.points, self.iterations, self.jacobian, check=self.check_gradient)
