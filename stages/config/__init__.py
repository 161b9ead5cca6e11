"""The study as one typed file, and the settings of each of its runs. Nothing else in the project reads YAML.

`load_study` turns `config/<study>.yaml` into a frozen `Study`, or stops with every mistake named by its key's path.
A `Study` hands each job a `Run`: the settings that this job depends on and no others, written to its `run.json`, so
that a changed setting reruns what it touches and nothing else. Relative paths are relative to the working directory.
"""

# What the files of this folder define is imported from here.
from stages.config.reading import *  # noqa: F403
from stages.config.runs import *  # noqa: F403
from stages.config.sections import *  # noqa: F403
from stages.config.study import *  # noqa: F403
