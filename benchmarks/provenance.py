"""Where and when a result was made; every file in results/ holds it."""

import datetime
import os
from pathlib import Path
import platform
import subprocess

ROOT = Path(__file__).resolve().parent.parent


def provenance() -> dict:
    """Commit, date, hardware and versions, as they are now."""
    import jax

    def git(*words):
        return subprocess.run(["git", *words], cwd=ROOT, capture_output=True, text=True).stdout

    return {
        "commit": git("rev-parse", "HEAD").strip(),
        "uncommitted_changes": bool(git("status", "--porcelain", "--", "*.py").strip()),
        "date": datetime.datetime.now(datetime.UTC).strftime("%Y-%m-%d %H:%M UTC"),
        "hardware": f"{os.cpu_count()} CPU cores ({platform.machine()}), JAX on"
        f" {jax.device_count()} x {jax.devices()[0].device_kind}",
        "load_average_at_start": round(os.getloadavg()[0], 2),
        "python": platform.python_version(),
        "jax": jax.__version__,
    }
