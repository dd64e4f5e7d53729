"""What every test process needs: the MPI settings of mpi.env and a hypothesis profile that all ranks share."""

import os
from pathlib import Path

from hypothesis import HealthCheck, settings

for line in Path(__file__).with_name("mpi.env").read_text().splitlines():
    key, equals, value = line.partition("=")
    if equals and not key.startswith("#"):
        os.environ.setdefault(key, value)  # for the MPI jobs that tests start themselves

UNDER_LAUNCHER = any(name in os.environ for name in ("PMIX_RANK", "PMI_RANK", "OMPI_COMM_WORLD_SIZE"))

settings.register_profile("default", deadline=None)
settings.register_profile(
    "ci",
    deadline=None,
    derandomize=True,  # a run is repeatable, and all ranks of a job draw the same examples
    database=None,
    print_blob=True,
    suppress_health_check=[HealthCheck.too_slow],
)
settings.load_profile("ci" if UNDER_LAUNCHER or os.environ.get("CI") else "default")
