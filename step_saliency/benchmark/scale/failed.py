"""What is raised where a worker of a run fails. Loads nothing heavy: the command line reads it."""


class WorkerError(RuntimeError):
    """A worker failed, or could not finish a unit; what the others did is kept."""
