"""What a task and the programs of this environment are found by."""

import logging
import os
import sys
from pathlib import Path

from kedro.framework.context import KedroContext
from kedro.framework.hooks import hook_impl

from sourcetrace.hooks.terminal import is_no_vain_advice


class ProjectFolderHook:
    """Lets a task live in a file in the project's folder."""

    @hook_impl(tryfirst=True)
    def after_context_created(self, context: KedroContext) -> None:
        """Make the project's folder importable, behind everything installed."""
        # kedro-mlflow sets its own level while it is imported, after our logging.yml is read.
        logging.getLogger("kedro_mlflow").setLevel(logging.WARNING)
        for name in ("kedro.runner.sequential_runner", "kedro.pipeline.node"):
            logging.getLogger(name).addFilter(is_no_vain_advice)
        # `kedro mlflow ui` starts `mlflow` by its name: that of this environment, activated or not.
        programs = str(Path(sys.executable).parent)
        path = os.environ.get("PATH", os.defpath)
        if programs not in path.split(os.pathsep):
            os.environ["PATH"] = os.pathsep.join([programs, path])
        folder = str(context.project_path)
        if folder not in sys.path:
            sys.path.append(folder)
