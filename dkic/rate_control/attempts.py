"""Pictures that workers were lost with: one that kills every worker that has it is given up, where Ray would try for ever."""

from collections import defaultdict


class Attempts:
    """Who began a picture and was not heard of again. All workers tell one of these, as an actor of Ray's.

    Args:
        most: how many workers may be lost with a picture; it is then given up.
    """

    def __init__(self, most: int) -> None:
        self._most = most
        self._begun: defaultdict[str, set[str]] = defaultdict(set)

    def begin(self, source: str, worker: str) -> str:
        """Why this worker must leave the picture alone, or "". In doubt Ray tells it twice, which counts once."""
        lost = len(self._begun[source] - {worker})
        if lost < self._most:
            self._begun[source].add(worker)
            return ""
        repair = "leave the picture out, or run the command again where workers have more"
        return f"{source}: {lost} workers were lost in a row as they measured it, for want of memory perhaps; {repair}"

    def end(self, source: str) -> None:
        """It is measured, or can't be: nobody is lost with it."""
        self._begun.pop(source, None)
