"""A virtual environment for a package that we are compared with, on top of our own packages."""

import site
import subprocess
import venv
from collections.abc import Sequence
from pathlib import Path

REPOSITORY = Path(__file__).resolve().parents[1]


def make_environment(home: Path, requirement: str, *, without: Sequence[str] = ()) -> Path:
    """Install a requirement into a virtual environment, unless it is there.

    The environment sees this interpreter's packages, torch among them, so that both sides run
    the same version and none is downloaded again; the constraints hold it to that.

    Args:
        home: Folder of the environment.
        requirement: `name==version`.
        without: Packages that come with it and are taken away again.

    Returns:
        The environment's interpreter.
    """
    python, stamp = home / "bin" / "python", home / f"{requirement}.installed"
    if stamp.exists():
        return python
    venv.create(home, with_pip=True)
    code = "import site; print(site.getsitepackages()[0])"
    packages = subprocess.run(
        [python, "-c", code], check=True, capture_output=True, text=True
    ).stdout.strip()
    (Path(packages) / "parent.pth").write_text("\n".join(site.getsitepackages()))
    install = ["-m", "pip", "install", "--quiet", requirement]
    constraints = ["--constraint", str(REPOSITORY / "constraints.txt")]
    subprocess.run([python, *install, *constraints], check=True)
    if without:
        subprocess.run([python, "-m", "pip", "uninstall", "--quiet", "--yes", *without], check=True)
    stamp.touch()
    return python
