"""Settings that every test shares."""

import gc
import os
import subprocess
import sys

import jax
import pytest

from processes import CACHE

# Several workers share an accelerator, where there is one.
os.environ.setdefault("XLA_PYTHON_CLIENT_PREALLOCATE", "false")

# As many as the largest mesh of any test; whatever names no device runs on the first.
jax.config.update("jax_num_cpu_devices", 8)

# Several tests build the same program: a large one is compiled once and read afterwards. A small
# one takes longer to write than to compile.
jax.config.update("jax_compilation_cache_dir", CACHE)
jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.3)
jax.config.update("jax_persistent_cache_min_entry_size_bytes", -1)

# What XLA does by default to make programs fast takes most of this suite's time.
_PLAIN = {
    "XLA_FLAGS": "--xla_cpu_use_fusion_emitters=false --xla_backend_optimization_level=0"
    " --xla_llvm_disable_expensive_passes=true --xla_cpu_parallel_codegen_split_count=1"
}


def pytest_configure(config):
    """Plain programs in all processes, which inherit the variable, if this jaxlib knows the flags.

    `XLA_FLAGS= python -m pytest` tests programs as users have them.
    """
    if hasattr(config, "workerinput") or "XLA_FLAGS" in os.environ:
        return
    start = [sys.executable, "-c", "import jax; jax.devices()"]
    known = subprocess.run(start, env=os.environ | _PLAIN, capture_output=True, check=False)
    if known.returncode == 0:
        os.environ.update(_PLAIN)


@pytest.fixture(scope="module", autouse=True)
def _collect_garbage_between_modules():
    """Not within one, nor again what a module has left: over all that has been traced and compiled
    it takes an eighth of the time."""
    gc.disable()
    yield
    gc.collect()
    gc.freeze()
