"""The command line, studies, and benchmarks of speed and of other projects."""

from responders.installation import check_installation

check_installation("responders", "recsim_env", "agents")
