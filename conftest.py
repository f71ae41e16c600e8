"""The strictest environment, in every test: see also filterwarnings in pyproject.toml."""

import atexit
import importlib.metadata
import os
import shutil
import signal
import tempfile

# Nothing is read from or left in the home directory; the data is prepared, and a program compiled, once for
# all tests (workers inherit the environment).
if "JAXKIT_TEST_HOME" not in os.environ:
    home = os.environ["JAXKIT_TEST_HOME"] = tempfile.mkdtemp(prefix="jaxkit-tests-")
    os.environ["XDG_CACHE_HOME"] = os.path.join(home, "cache")
    os.environ["JAXKIT_DATA"] = os.path.join(home, "data")
    atexit.register(shutil.rmtree, home, ignore_errors=True)

# In the background of a shell a Ctrl-C is ignored, and so it would be by all processes that tests start and stop.
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)

# Before jax is imported anywhere: four fake devices, on the CPU. Tests compile more than they run, and the older
# emitters compile faster than the newer ones, which later versions have alone.
os.environ["JAX_PLATFORMS"] = "cpu"
os.environ["XLA_FLAGS"] = (
    os.environ.get("XLA_FLAGS", "")
    + " --xla_force_host_platform_device_count=4 --xla_backend_optimization_level=0"
    # One device may wait for another while the machine is busy elsewhere; after 40 s XLA would end the process.
    + " --xla_cpu_collective_call_terminate_timeout_seconds=600"
    + " --xla_cpu_use_fusion_emitters=false" * importlib.metadata.version("jaxlib").startswith("0.10.")
)

import hypothesis
import jax

from jaxkit.runs import programs

# The same examples each time, however slow the machine is; others are drawn by --hypothesis-profile=default.
hypothesis.settings.register_profile(
    "tests",
    deadline=None,
    derandomize=True,
    database=None,
    suppress_health_check=[hypothesis.HealthCheck.too_slow],
)
hypothesis.settings.load_profile("tests")

jax.config.update("jax_compilation_cache_dir", os.path.join(os.environ["XDG_CACHE_HOME"], "programs"))
jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.0)
jax.config.update("jax_numpy_rank_promotion", "raise")
jax.config.update("jax_debug_key_reuse", True)
# All tests share the programs, and several processes of them run at once.
programs.keep_whole()
