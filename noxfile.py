"""One session per backend: the tests with only that framework installed."""

from __future__ import annotations

from pathlib import Path

import nox

nox.options.default_venv_backend = "venv"
BACKENDS = ("numpy", "torch", "jax", "tensorflow", "opencl")

WORKFLOWS = ("--builtin-schema", "vendor.github-workflows", ".github/workflows/ci.yml")


@nox.session(python=["3.11", "3.12", "3.13"])
@nox.parametrize("backend", BACKENDS)
def tests(session: nox.Session, backend: str) -> None:
    """The whole suite; what needs another framework is skipped with that reason."""
    extras = "dev" if backend == "numpy" else f"{backend},dev"
    session.install("-c", "constraints.txt", "-e", f".[{extras}]")
    session.run("pytest", *session.posargs, env={"ACCELKIT_REQUIRED_BACKENDS": backend})


@nox.session
def wheel(session: nox.Session) -> None:
    """The built wheel, away from the source tree."""
    folder = Path(session.create_tmp())
    session.install("build")
    session.run("python", "-m", "build", "--wheel", "--outdir", str(folder))
    (built,) = folder.glob("accelkit-*.whl")
    session.install(str(built))
    session.chdir(folder)
    session.run("python", "-c", "import accelkit as ak; print(ak.devices())")
    session.run("python", "-m", "accelkit.bench", "--backend", "numpy", "--model", "lenet5")


@nox.session
def lint(session: nox.Session) -> None:
    """Formatting, style and types."""
    session.install("-c", "constraints.txt", "-e", ".[dev]")
    session.run("ruff", "format", "--check", ".")
    session.run("ruff", "check", ".")
    session.run("mypy")
    session.run("check-jsonschema", *WORKFLOWS)
