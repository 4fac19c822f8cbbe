"""Runs the cells of a bench in parallel processes or on a cluster; skips finished cells and reports failed ones."""

from __future__ import annotations

import base64
import json
import os
import pickle
import shutil
import signal
import subprocess
import sys
import threading
import time
import traceback
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from filelock import FileLock

from multidelete.bench.grid import Cell, Grid
from multidelete.data.dataset import Dataset
from multidelete.pipeline import run
from multidelete.runs.bench_folder import FAILED_FILE, GRID_FILE
from multidelete.runs.record import command_line
from multidelete.training.engine import Engine
from multidelete.training.progress import LOGGER, Bars
from multidelete.utils.errors import InputError
from multidelete.utils.files import locked, write_file
from multidelete.utils.format import duration
from multidelete.utils.signals import STOPPED, exit_on_terminate

Runner = Callable[[Cell], str | None]  # runs a cell and returns the reason if it failed

_datasets: dict[str, Dataset] = {}  # cache of the last dataset


def run_alone(cell: Cell) -> str | None:
    """:func:`run_cell` in a process of its own, whose log is standard error."""
    with Bars() as bars:
        return run_cell(cell, bars)


def run_cell(cell: Cell, bars: Bars) -> str | None:
    """Run one cell unless it is finished; where it fails, the result is the reason."""
    try:
        recipe = cell.recipe
        data = json.dumps(recipe.data, sort_keys=True, default=str)
        if data not in _datasets:
            _datasets.clear()
            _datasets[data] = recipe.dataset()
        out = cell.out
        out.parent.mkdir(parents=True, exist_ok=True)
        with FileLock(out.with_name(f".{cell.name}.lock")), bars.inside():
            if not cell.finished:
                engine = Engine(recipe.precision, bars, resume=True)
                run(recipe, out, engine, resume=True, dataset=_datasets[data], command=cell.command)
    except InputError as error:
        return " ".join(str(error).splitlines())
    except Exception as error:  # an error in one method must not stop the other cells
        traceback.print_exc()
        return f"{type(error).__name__}: {(str(error).splitlines() or [''])[0]}"
    return None


def _packed(cell: Cell) -> str:
    """Serialise a cell as one line of text."""
    return base64.b64encode(pickle.dumps(cell)).decode()


def _unpacked(line: str) -> Cell:
    """Inverse of :func:`_packed`."""
    cell = pickle.loads(base64.b64decode(line))
    assert isinstance(cell, Cell)
    return cell


def _serve() -> None:
    """Run cells read from standard input; write one line for each to standard output."""
    exit_on_terminate()
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)  # redirect output of libraries to the log
    asked: list[str] = []
    news = threading.Semaphore(0)

    def listen() -> None:
        for line in sys.stdin:
            asked.append(line)
            news.release()
        os._exit(0)  # the parent process has ended, even if it was killed

    threading.Thread(target=listen, daemon=True).start()
    try:
        while True:
            news.acquire()
            answers.write(json.dumps(run_alone(_unpacked(asked.pop(0)))) + "\n")
            answers.flush()
    except KeyboardInterrupt:
        sys.exit(STOPPED)


class _Worker:
    """Process that runs one cell after another; if it dies, the cell has failed and a new process is started."""

    def __init__(self, log: Path, threads: int) -> None:
        self.log = log
        # In its own session: Ctrl-C on the terminal reaches only the bench, which forwards it once.
        self.environment = {**os.environ, "OMP_NUM_THREADS": str(threads), "MKL_NUM_THREADS": str(threads)}
        self.process: subprocess.Popen[str] | None = None

    def __call__(self, cell: Cell) -> str | None:
        if self.process is None or self.process.poll() is not None:
            with self.log.open("a") as log:
                self.process = subprocess.Popen(
                    [sys.executable, "-m", "multidelete.bench.work"],
                    stdin=subprocess.PIPE,
                    stdout=subprocess.PIPE,
                    stderr=log,
                    text=True,
                    env=self.environment,
                    start_new_session=True,
                )
        assert self.process.stdin is not None
        assert self.process.stdout is not None
        try:
            self.process.stdin.write(_packed(cell) + "\n")
            self.process.stdin.flush()
        except BrokenPipeError:
            pass  # the process died; see its exit status below
        answer = self.process.stdout.readline()
        if answer:
            reason: str | None = json.loads(answer)
            return reason
        code = self.process.wait()
        if code < 0:
            return f"its process was ended by {signal.Signals(-code).name}; too little memory is the usual reason"
        return f"its process ended with code {code}; {self.log} says more"

    def interrupt(self) -> None:
        """Interrupt the process; it finishes and saves the current step."""
        if self.process is not None and self.process.poll() is None:
            self.process.send_signal(signal.SIGINT)

    def close(self) -> None:
        """Kill the process."""
        if self.process is not None:
            self.process.kill()
            self.process.wait()


class _Cluster:
    """Submits each cell as a job to a cluster, with submitit."""

    def __init__(self, folder: Path, settings: Mapping[str, Any]) -> None:
        try:
            from submitit import AutoExecutor
        except ImportError as error:
            raise InputError("--launcher submitit needs submitit: pip install 'multidelete[cluster]'") from error
        asked = {"timeout_min": 24 * 60, **settings}
        try:
            self.executor = AutoExecutor(folder=folder, cluster=asked.pop("cluster", None))
            self.executor.update_parameters(**asked)
        except (NameError, TypeError, ValueError, RuntimeError) as error:
            raise InputError(f"'bench.cluster' is refused by submitit: {' '.join(str(error).split())}") from error
        self.alone = threading.Lock()
        self.jobs: list[Any] = []

    def __call__(self, cell: Cell) -> str | None:
        with self.alone:
            job = self.executor.submit(run_alone, cell)
            self.jobs.append(job)
        try:
            reason: str | None = job.result()
        except Exception as error:  # submitit reports any failure of a job as an exception
            return f"its job ended: {next((line for line in str(error).splitlines() if line.strip()), error)}"
        return reason

    def interrupt(self) -> None:
        """Cancel all jobs; their saved work is kept."""
        with self.alone:
            for job in self.jobs:
                if not job.done():
                    job.cancel(check=False)

    close = interrupt


# -- all cells ------------------------------------------------------------------------------------------------------


class _Schedule:
    """Thread-safe queue of cells, with their dependencies and results."""

    def __init__(self, cells: Iterable[Cell], out: Path, bars: Bars) -> None:
        self.waiting = [cell for cell in cells if not cell.finished]
        self.open = {cell.name for cell in self.waiting}
        self.total, self.began = len(self.open), time.monotonic()
        self.failed: dict[str, str] = {}
        self.out = out
        self.news = threading.Condition()
        self.stopped = False
        self.advance = bars.start(f"cells of {out}", self.total)
        write_file(out / FAILED_FILE, "{}\n")

    def take(self, last: Cell | None) -> Cell | None:
        """Next cell whose dependency is finished, preferably one that others need or like ``last``; None at the end."""
        with self.news:
            while self.waiting:
                awaited = {cell.after for cell in self.waiting}
                ready = [cell for cell in self.waiting if cell.after not in self.open]
                if ready:
                    like = [cell for cell in ready if last is not None and cell.after in (last.after, last.name)]
                    cell = next((cell for cell in ready if cell.name in awaited), (like or ready)[0])
                    self.waiting.remove(cell)
                    return cell
                self.news.wait()
            return None

    def done(self, cell: Cell, reason: str | None) -> None:
        """Record that a cell has finished or failed."""
        with self.news:
            if self.stopped:
                return
            self.open.discard(cell.name)
            if reason is not None:
                self.failed[cell.name] = reason
                write_file(self.out / FAILED_FILE, json.dumps(self.failed, indent=2, ensure_ascii=False) + "\n")
            self.advance(1)
            done = self.total - len(self.open)
            left = (time.monotonic() - self.began) / done * len(self.open)
            ended = "done" if reason is None else f"failed: {reason}"
            rest = f", about {duration(left)} left" if self.open else ""
            LOGGER.info("%s: %s (%d of %d%s)", cell.name, ended, done, self.total, rest)
            self.news.notify_all()

    def stop(self) -> None:
        """Start no more cells and ignore the results of running ones."""
        with self.news:
            self.stopped = True
            self.waiting.clear()
            self.news.notify_all()


def run_grid(result: Grid, out: Path, *, workers: int | None = None, launcher: str = "processes") -> dict[str, str]:
    """Run all unfinished cells.

    Args:
        result: The grid.
        out: Folder of the bench.
        workers: Number of cells to run in parallel; with 1, cells run in this process. By default one per core, one
            with a GPU, and all on a cluster.
        launcher: ``processes`` on this machine, or ``submitit``.

    Returns:
        Reasons of failures, by cell name.
    """
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    if workers is None:
        workers = len(result.cells) if launcher == "submitit" else cores
        if launcher == "processes" and Engine().device.type != "cpu":
            workers = 1
    workers = min(workers, max(1, sum(not cell.finished for cell in result.cells)))
    with locked(out):
        runners: list[_Worker | _Cluster] = []
        if launcher == "submitit":
            runners = [_Cluster(out / "jobs", result.recipe.bench.cluster)] * workers
        elif workers > 1:
            runners = [_Worker(out / "bench.log", max(1, cores // workers)) for _ in range(workers)]
        cells = [cell.facts() for cell in result.cells]
        content = {"cells": cells, "notes": result.notes, "study": result.study, "command": command_line()}
        for folder in result.stale:
            shutil.rmtree(folder)
        write_file(out / GRID_FILE, json.dumps(content, indent=2) + "\n")
        with Bars() as bars:
            schedule = _Schedule(result.cells, out, bars)
            if runners:
                _side_by_side(schedule, runners)
            else:
                _one_after_another(schedule, lambda cell: run_cell(cell, bars))
        return schedule.failed


def _one_after_another(schedule: _Schedule, runner: Runner) -> None:
    last = None
    while (cell := schedule.take(last)) is not None:
        reason = runner(cell)
        schedule.done(cell, reason)
        last = cell


def _side_by_side(schedule: _Schedule, runners: Sequence[_Worker | _Cluster]) -> None:
    broken: list[BaseException] = []

    def work(runner: Runner) -> None:
        try:
            _one_after_another(schedule, runner)
        except BaseException as error:
            broken.append(error)
            schedule.stop()

    threads = [threading.Thread(target=work, args=(runner,), daemon=True) for runner in runners]
    try:
        for thread in threads:
            thread.start()
        _join(threads)
    except (KeyboardInterrupt, SystemExit):
        schedule.stop()
        for runner in runners:
            runner.interrupt()
        _join(threads)  # wait for the current steps; a second Ctrl-C does not wait
        raise
    finally:
        for runner in runners:
            runner.close()
    if broken:
        raise broken[0]


def _join(threads: Sequence[threading.Thread]) -> None:
    for thread in threads:
        while thread.is_alive():
            thread.join(0.2)


if __name__ == "__main__":
    _serve()
