"""What ends a training in the middle of a step."""


class StepError(ValueError):
    """A step that cannot be finished, whenever it is tried: its numbers are broken."""
