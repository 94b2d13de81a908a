"""What workers last said about themselves, each until it lapses."""

from headrace.worker_status import WorkerStatus


class Reports:
    def __init__(self) -> None:
        self._by_worker: dict[str, tuple[int, WorkerStatus]] = {}

    def put(self, status: WorkerStatus, until_ms: int) -> None:
        self._by_worker[status.worker] = (until_ms, status)

    def live(self, now_ms: int) -> list[WorkerStatus]:
        """Ordered by worker."""
        self._by_worker = {worker: report for worker, report in self._by_worker.items() if report[0] > now_ms}
        return [status for _, (_, status) in sorted(self._by_worker.items())]
