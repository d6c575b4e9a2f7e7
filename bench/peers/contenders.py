"""Who is compared, what each needs to be installed, and what must be known of it to read the table."""

from __future__ import annotations

import sys
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path

from fvfast.errors import FvfastError, did_you_mean

ROOT = Path(__file__).parent.parent.parent
HOME = ROOT / ".peers"  # one virtual environment a peer
SETUP = "python -m bench.peers.setup"


@dataclass(frozen=True)
class Contender:
    """One row of the table.

    name: as it is written on the command line; loop: its module in `bench.peers.loops`, without `_loop`; options:
    what `render` there takes beside the task.
    package: the distribution whose version is shown, None for this checkout's own code.
    requirements: what is installed for it, without dependencies; none for what runs in the project's environment.
    shims: modules that it imports and never uses here, replaced by empty ones.
    check: a statement that imports what is used of it.
    batches: whether several images can share a step.
    """

    name: str
    loop: str
    note: str
    options: dict[str, str] = field(default_factory=dict)
    package: str | None = None
    requirements: tuple[str, ...] = ()
    shims: tuple[str, ...] = ()
    check: str = ""
    batches: bool = True

    @property
    def folder(self) -> Path:
        """Its virtual environment, where it has one."""
        return HOME / self.name

    @property
    def receipt(self) -> Path:
        """What `bench.peers.setup` leaves, last of all, in a finished environment."""
        return self.folder / "peer.json"

    @property
    def python(self) -> Path:
        """The interpreter that it runs in."""
        return self.folder / "bin" / "python" if self.requirements else Path(sys.executable)


CONTENDERS = {
    contender.name: contender
    for contender in (
        Contender(
            "fvfast-default",
            "fvfast",
            "the recipe `default`: views jittered, zoomed, stretched and sheared inside the Fourier basis",
            options={"recipe": "default"},
            package="fvfast",
        ),
        Contender(
            "fvfast-bfloat16",
            "fvfast",
            "the recipe `default` with `--dtype bfloat16`",
            options={"recipe": "default", "dtype": "bfloat16"},
            package="fvfast",
        ),
        Contender(
            "fvfast-lucent",
            "fvfast",
            "the recipe `lucent`: lucent's parameterisation, views and learning rate, seen at 224 px",
            options={"recipe": "lucent"},
            package="fvfast",
        ),
        Contender(
            "lucent",
            "lucent",
            "its standard transforms, by the kornia 0.4.1 that it asks for; an image below 224 px is seen at 224 px",
            package="torch-lucent",
            requirements=("torch-lucent==0.1.8", "kornia==0.4.1", "tqdm==4.67.1", "decorator==5.2.1"),
            shims=("IPython.display",),
            check="from lucent.optvis import objectives, param, render, transform",
        ),
        Contender(
            "torch-dreams",
            "torch_dreams",
            "its default transforms: the view is 0.5 to 1.2 times the canvas's size",
            package="torch-dreams",
            requirements=("torch-dreams==4.0.0", "tqdm==4.67.1"),
            shims=("cv2",),
            check="import torch_dreams.dreamer, torch_dreams.batched_objective",
        ),
        Contender(
            "dreamlens",
            "dreamlens",
            "its default transforms: the view has the canvas's size",
            package="dreamlens",
            requirements=("dreamlens==0.1.1",),
            check="import dreamlens",
        ),
        Contender(
            "horama",
            "horama",
            "a step is six crops, each 0.25 to 0.3 of the canvas wide and seen at the canvas's size, so six passes "
            "through the network; its image is made for crops, and as a whole excites the channel less",
            package="horama",
            requirements=("horama==0.3.0", "tqdm==4.67.1", "einops==0.8.1"),
            shims=("matplotlib.pyplot",),
            check="import horama",
            batches=False,
        ),
        Contender(
            "plain",
            "plain",
            "a loop written by hand: lucent's parameterisation and learning rate, frozen weights, and no random views: "
            "it draws for one exact alignment",
        ),
    )
}


def choose(names: Iterable[str] | None) -> list[Contender]:
    """The contenders of these names, all by default, in the table's order. Raises FvfastError for an unknown name."""
    wanted = list(CONTENDERS) if names is None else list(names)
    for name in wanted:
        if name not in CONTENDERS:
            raise FvfastError(
                f"unknown contender {name!r}{did_you_mean(name, CONTENDERS)}; there are {', '.join(CONTENDERS)}"
            )
    return [contender for name, contender in CONTENDERS.items() if name in wanted]


def check_ready(contenders: Iterable[Contender]) -> None:
    """Raises FvfastError where a peer's environment is missing."""
    absent = [contender for contender in contenders if contender.requirements and not contender.receipt.exists()]
    missing = list(dict.fromkeys(contender.name for contender in absent))
    if missing:
        verb = "is" if len(missing) == 1 else "are"
        raise FvfastError(f"{', '.join(missing)} {verb} not set up: run {SETUP} {' '.join(missing)}")
