"""One session per backend: the tests with only that framework installed."""

from __future__ import annotations

import nox

nox.options.default_venv_backend = "venv"
BACKENDS = ("numpy", "torch", "jax", "tensorflow")


@nox.session(python=["3.11", "3.12", "3.13"])
@nox.parametrize("backend", BACKENDS)
def tests(session: nox.Session, backend: str) -> None:
    """The whole suite; what needs another framework is skipped with that reason."""
    extras = "dev" if backend == "numpy" else f"{backend},dev"
    session.install("-c", "constraints.txt", "-e", f".[{extras}]")
    session.run("pytest", *session.posargs)


@nox.session
def wheel(session: nox.Session) -> None:
    """The built wheel, away from the source tree."""
    session.install("build")
    session.run("python", "-m", "build", "--wheel", "--outdir", session.create_tmp())
    (built,) = [str(p) for p in session.cache_dir.parent.rglob("accelkit-*.whl")][:1]
    session.install(built)
    session.chdir(session.create_tmp())
    session.run("python", "-c", "import accelkit as ak; print(ak.devices())")


@nox.session
def lint(session: nox.Session) -> None:
    """Formatting, style and types."""
    session.install("-c", "constraints.txt", "-e", ".[dev]")
    session.run("ruff", "format", "--check", ".")
    session.run("ruff", "check", ".")
    session.run("mypy")
