"""`Attempts` gives up images that kill every worker; Ray itself would retry them forever."""

from collections import defaultdict


class Attempts:
    """Workers that began an image and did not end it. One instance, a Ray actor, serves all workers.

    Args:
        most: number of workers that may be lost with an image before it is given up.
    """

    def __init__(self, most: int) -> None:
        self._most = most
        self._begun: defaultdict[str, set[str]] = defaultdict(set)

    def begin(self, source: str, worker: str) -> str:
        """The error if the image is given up, or "". A repeated call of the same worker counts once: Ray may repeat calls."""
        lost = len(self._begun[source] - {worker})
        if lost < self._most:
            self._begun[source].add(worker)
            return ""
        repair = "leave the image out, or run the command again with more memory for each worker"
        return f"{source}: {lost} workers in a row died while measuring it, possibly out of memory; {repair}"

    def end(self, source: str) -> None:
        """The image is measured, or has failed with an error."""
        self._begun.pop(source, None)
