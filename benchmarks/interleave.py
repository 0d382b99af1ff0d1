"""Measures several programs in turn, so that the machine's moods hit all alike.

Each program is one process, or several that step together. It prepares itself, then
sleeps until it is asked for some steps; nobody else is at work meanwhile. This file
needs the standard library alone, so that programs of another Python can use it.
"""

import contextlib
import json
import os
import resource
import subprocess
import sys
import time


def serve(prepare):
    """Answers, in a process of its own, how long steps take.

    Args:
        prepare: `() → run`, where `run(steps)` takes so many steps and returns the
            seconds of each.
    """
    answers = os.fdopen(os.dup(sys.stdout.fileno()), "w", buffering=1)
    os.dup2(sys.stderr.fileno(), sys.stdout.fileno())
    run = prepare()
    at_rest = _peak_mb()
    run(2)
    print(json.dumps("ready"), file=answers)
    for line in sys.stdin:
        # The first step after a sleep is not measured.
        seconds = run(int(line) + 1)[1:]
        answer = {
            "seconds": sum(seconds) / len(seconds),
            "peak_mb": _peak_mb(),
            "step_mb": _peak_mb() - at_rest,
        }
        print(json.dumps(answer), file=answers)


def _peak_mb():
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


class Program:
    """Processes that `serve`, and step together.

    Args:
        commands: A list of `(arguments, environment)`, one a process.
    """

    def __init__(self, commands):
        self.processes = [
            subprocess.Popen(
                arguments,
                env={**os.environ, **environment},
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                text=True,
            )
            for arguments, environment in commands
        ]
        for process in self.processes:
            _answer(process)

    def measure(self, steps):
        """Returns seconds per step, of the slowest, and memory in MB, of all."""
        for process in self.processes:
            process.stdin.write(f"{steps}\n")
            process.stdin.flush()
        answers = [_answer(process) for process in self.processes]
        return {
            "seconds": max(answer["seconds"] for answer in answers),
            "peak_mb": sum(answer["peak_mb"] for answer in answers),
            "step_mb": sum(answer["step_mb"] for answer in answers),
        }

    def close(self):
        """Ends the processes."""
        for process in self.processes:
            process.kill()
            process.communicate()


def rounds(commands, steps, count):
    """Measures every program once a round.

    Args:
        commands: Name → the `commands` of a `Program`.
        steps: Steps of a measurement.
        count: Number of rounds.

    Yields:
        Dictionaries: `round`, `variant`, and what `Program.measure` returns.
    """
    with contextlib.ExitStack() as stack:
        programs = {}
        for name, processes in commands.items():
            start = time.monotonic()
            programs[name] = stack.enter_context(contextlib.closing(Program(processes)))
            print(f"{name}: ready after {time.monotonic() - start:.0f} s", flush=True)
        for number in range(count):
            for name, program in programs.items():
                yield {"round": number, "variant": name, **program.measure(steps)}


def _answer(process):
    line = process.stdout.readline()
    if not line:
        raise RuntimeError(f"{' '.join(process.args)} exited with {process.wait()}.")
    return json.loads(line)
