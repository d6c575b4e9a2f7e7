"""Set up one virtual environment a peer in .peers/, a few MB and seconds each.

By default a peer's environment sees torch, torchvision, numpy and Pillow (and whatever else is installed) of the
environment that this runs in, through a .pth file: torch alone takes 5.5 GB. `--own-torch` installs them for each peer
instead. The peers themselves are installed without their declared dependencies, with what they import and no more;
modules that they import and that nothing here uses (to show an image, to plot one) become empty stand-ins, which the
table names.
"""

from __future__ import annotations

import argparse
import json
import shutil
import subprocess
import sys
import sysconfig
import time
import venv
from importlib.metadata import version
from pathlib import Path

from bench.peers.contenders import Contender, choose
from fvfast.errors import FvfastError

SHARED = ("torch", "torchvision", "numpy", "pillow")

STAND_IN = '''"""An empty stand-in for {module}, which {peer} imports and does not use for what is measured."""


def __getattr__(name):
    if name.startswith("__"):
        raise AttributeError(name)
    raise NotImplementedError("{module} is an empty stand-in here: {peer} was not expected to use " + name)
'''


def set_up(contender: Contender, own_torch: bool = False, force: bool = False) -> bool:
    """Make a peer's environment, unless it is there already; returns whether it was made.

    Raises FvfastError where a package cannot be had, or the peer cannot be imported.
    """
    wanted = {
        "requirements": list(contender.requirements),
        "shims": list(contender.shims),
        "python": sys.version,
        "torch": version("torch"),
        "shared": None if own_torch else sysconfig.get_paths()["purelib"],
    }
    receipt = contender.receipt
    if not force and receipt.exists() and json.loads(receipt.read_text()) == wanted:
        return False
    shutil.rmtree(contender.folder, ignore_errors=True)
    venv.create(contender.folder, symlinks=True)
    if own_torch:
        _install(contender, [f"{name}=={version(name)}" for name in SHARED])
    else:
        (site_packages(contender) / "shared.pth").write_text(f"{wanted['shared']}\n")
    _install(contender, ["--no-deps", *contender.requirements])
    for module in contender.shims:
        write_stand_in(site_packages(contender), module, contender.name)
    _check(contender)
    receipt.write_text(json.dumps(wanted, indent=1) + "\n")
    return True


def site_packages(contender: Contender) -> Path:
    """Where a peer's packages are."""
    base = str(contender.folder)
    return Path(sysconfig.get_path("purelib", "venv", {"base": base, "platbase": base}))


def write_stand_in(folder: Path, module: str, peer: str) -> None:
    """Put an empty module where `import` finds it: a package, and inside it what stands after each dot."""
    parts = module.split(".")
    for depth in range(1, len(parts) + 1):
        package = folder.joinpath(*parts[:depth])
        package.mkdir(exist_ok=True)
        (package / "__init__.py").write_text(STAND_IN.format(module=".".join(parts[:depth]), peer=peer))


def _install(contender: Contender, arguments: list[str]) -> None:
    pip = [sys.executable, "-m", "pip", "--python", str(contender.python), "--disable-pip-version-check"]
    done = subprocess.run([*pip, "install", "--quiet", *arguments], capture_output=True, text=True, check=False)
    if done.returncode:
        errors = [line for line in done.stderr.splitlines() if line.startswith("ERROR")] or done.stderr.splitlines()
        raise FvfastError(f"{contender.name} could not be installed: {errors[-1] if errors else 'pip failed'}")


def _check(contender: Contender) -> None:
    command = [str(contender.python), "-W", "ignore", "-c", contender.check]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        reason = done.stderr.strip().splitlines()
        raise FvfastError(f"{contender.name} was installed and cannot be imported: {reason[-1] if reason else '?'}")


def main() -> int:
    parser = argparse.ArgumentParser(
        prog="python -m bench.peers.setup", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    peers = [contender.name for contender in choose(None) if contender.requirements]
    parser.add_argument("names", nargs="*", help=f"which of {', '.join(peers)} (default: all)")
    parser.add_argument("--own-torch", action="store_true", help="torch and its companions for each peer: 5.5 GB each")
    parser.add_argument("--force", action="store_true", help="make environments again that are there")
    options = parser.parse_args()
    try:
        for contender in choose(options.names or peers):
            if not contender.requirements:
                print(f"{contender.name}: nothing to set up")
                continue
            started = time.perf_counter()
            made = set_up(contender, options.own_torch, options.force)
            print(
                f"{contender.name}: {f'{time.perf_counter() - started:.0f} s' if made else 'there already'}", flush=True
            )
    except FvfastError as error:
        print(f"peers: {error}", file=sys.stderr)
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main())
