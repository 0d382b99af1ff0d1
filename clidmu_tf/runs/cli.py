"""Trains, tunes, evaluates or exports a classifier from noisy labels.

    %s --flagfile=configs/digits.cfg

Flags given after --flagfile override it. `--helpshort` lists them all.
"""

import contextlib
import dataclasses
import logging
import os
import signal
import sys
from collections.abc import Callable, Iterator
from typing import Any, NoReturn

from absl import app, flags
from absl import logging as absl_logging

from clidmu_tf import cluster
from clidmu_tf.errors import Preempted, TrainingDiverged, UserError
from clidmu_tf.runs import terminal
from clidmu_tf.runs.settings import RunSettings

EXIT_USER_ERROR = 2
EXIT_DIVERGED = 3
EXIT_PREEMPTED = 75
EXIT_INTERRUPTED = 130

DEFINE: dict[Any, Callable[..., Any]] = {
    bool: flags.DEFINE_bool,
    int: flags.DEFINE_integer,
    float: flags.DEFINE_float,
}
KINDS: dict[Any, str] = {
    bool: "true or false",
    int: "a whole number",
    float: "a number",
}
# Of TensorFlow's errors, which may not be imported yet, those of a disk or a network.
OF_THE_MACHINE = (
    *("AlreadyExistsError", "DataLossError", "DeadlineExceededError"),
    *("NotFoundError", "PermissionDeniedError", "ResourceExhaustedError"),
    *("UnavailableError",),
)


def main() -> NoReturn:
    """Runs the task that the command line asks for, and exits with its code."""
    with explained():
        first_look(sys.argv)
        start_tensorflow()
        from clidmu_tf.runs.config import Config

        define_flags(Config, flags.FLAGS)
        sys.modules["__main__"].__doc__ = __doc__  # which absl shows for --help
        speak()
        app.run(run, flags_parser=lambda argv: parse(Config, flags.FLAGS, argv))
    raise AssertionError("app.run exits")


def speak() -> None:
    """Lets this package say what it has to, without the chatter of others."""
    # It passes on what it has no method of, which a type checker does not see.
    sys.stdout = terminal.Output(sys.stdout)  # type: ignore[assignment]
    handler = logging.StreamHandler()
    handler.setFormatter(terminal.Formatter())
    logger = logging.getLogger("clidmu_tf")
    logger.setLevel(logging.INFO)
    logger.addHandler(handler)
    logger.propagate = False
    absl_logging.set_verbosity(absl_logging.WARNING)
    logging.getLogger("tensorflow").setLevel(logging.ERROR)


def stop(number: int, frame: Any) -> NoReturn:
    """On SIGTERM, where no training is under way, which saves before it ends."""
    raise Preempted("Stopped, as asked to: run the same again to go on.")


def first_look(argv: list[str]) -> None:
    """Checks what can be checked before TensorFlow is started, which takes seconds.

    Args:
        argv: The program and its command line.

    Raises:
        UserError: Something is wrong with a setting of any run, or a flagfile.
    """
    found = flags.FlagValues()
    define_flags(RunSettings, found)
    left = parse(RunSettings, found, argv, known_only=True)
    for before, word in zip(left, left[1:], strict=False):
        # Behind the flag of a method it may be that flag's value.
        if not word.startswith("-") and ("=" in before or not before.startswith("-")):
            refuse_words([word])
    settings = RunSettings(**values(RunSettings, found))
    if settings.strategy == "multi_worker":
        cluster.check_tf_config(os.environ.get("TF_CONFIG", ""))
    if settings.task == "tune":
        cluster.is_worker()


def start_tensorflow() -> None:
    """Imports TensorFlow quietly, unless its log level asks for all it says."""
    level = os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")
    with terminal.without_chatter() if level != "0" else contextlib.nullcontext():
        import tensorflow as tf

        # For what it imports, which has its own chatter.
        from clidmu_tf.runs import tasks  # noqa: F401

        tf.config.list_physical_devices()


def define_flags(settings: type, flag_values: flags.FlagValues) -> None:
    """Makes a flag of every setting, so that a default exists once."""
    for field in dataclasses.fields(settings):
        help_text = field.metadata["help"]
        if field.metadata["choices"] and flag_values is flags.FLAGS:
            help_text += f" One of: {', '.join(field.metadata['choices'])}."
        DEFINE.get(field.type, flags.DEFINE_string)(
            *(field.name, field.default, help_text),
            flag_values=flag_values,
            # Flags of the program that runs: those are what --helpshort lists.
            module_name=sys.argv[0],
        )


def parse(
    settings: type,
    flag_values: flags.FlagValues,
    argv: list[str],
    known_only: bool = False,
) -> list[str]:
    """Returns the program, and what the flags leave of its command line.

    Args:
        settings: What the flags were made of.
        flag_values: The flags, which are given their values.
        argv: The program and its command line.
        known_only: Whether flags that are not of these are left.

    Raises:
        UserError: A flag or a flagfile cannot be understood.
    """
    try:
        return flag_values(argv, known_only=known_only)
    except flags.CantOpenFlagFileError as error:
        reason: Any = error.__context__
        raise UserError(
            f"--flagfile={reason.filename} cannot be read ({reason.strerror}): name a "
            "file with a setting a line, as --name=value."
        ) from error
    except UnicodeDecodeError as error:
        raise UserError(
            f"A --flagfile holds no text ({error}): name one with a setting a line, as "
            "--name=value."
        ) from error
    except flags.IllegalFlagValueError as error:
        text = str(error).removesuffix(f": {error.__context__}")
        name, _, value = text.removeprefix("flag ").removeprefix("--").partition("=")
        types = {field.name: field.type for field in dataclasses.fields(settings)}
        kind = KINDS.get(types.get(name), "a value")
        raise UserError(f"--{name} takes {kind}; received {value!r}.") from error
    except (flags.Error, ValueError) as error:
        words = str(error).replace(" ?", "?").rstrip(".")
        raise UserError(f"{words} (--helpshort lists all flags).") from error


def values(settings: type, flag_values: flags.FlagValues) -> dict[str, Any]:
    """The settings by name, as flags have them."""
    names = [field.name for field in dataclasses.fields(settings)]
    return {name: flag_values[name].value for name in names}


def run(argv: list[str]) -> None:
    """Runs the task that the parsed flags ask for.

    Args:
        argv: The program, and what is left on its command line.
    """
    from clidmu_tf.runs import tasks
    from clidmu_tf.runs.config import Config

    if len(argv) > 1:
        refuse_words(argv[1:])
    config = Config(**values(Config, flags.FLAGS))
    tasks.TASKS[config.task](config)


def refuse_words(words: list[str]) -> NoReturn:
    raise UserError(
        f"Not understood: {' '.join(words)!r}; write every setting as --name=value, "
        "also in a flagfile."
    )


@contextlib.contextmanager
def explained() -> Iterator[None]:
    """Ends the process with a sentence and a code where a user can mend what is wrong.

    What is left is a bug, and keeps its traceback.
    """
    before = signal.signal(signal.SIGTERM, stop)
    try:
        yield
    except TrainingDiverged as error:
        fail(error, EXIT_DIVERGED)
    except Preempted as error:
        fail(error, EXIT_PREEMPTED)
    except KeyboardInterrupt:
        words = "training and searches go on from the last checkpoint"
        fail(f"Interrupted: run the same again; {words}.", EXIT_INTERRUPTED)
    except ValueError as error:  # a UserError is one
        fail(error, EXIT_USER_ERROR)
    except Exception as error:
        is_known = isinstance(error, OSError) or type(error).__name__ in OF_THE_MACHINE
        if not is_known:
            raise
        fail(sentence_of(error), EXIT_USER_ERROR)
    finally:
        signal.signal(signal.SIGTERM, before)


def sentence_of(error: Any) -> str:
    """What to say of an error of the operating system, or of TensorFlow."""
    name = getattr(error, "filename", None)
    reason = getattr(error, "strerror", "") or getattr(error, "message", "") or error
    subject = f"{name} cannot be used" if name else "The machine does not go along"
    return (
        f"{subject} ({reason}): mend that and run the same again; what was saved "
        "before is intact."
    )


def fail(error: object, code: int) -> NoReturn:
    """Says in one line what is wrong, and exits."""
    text = terminal.harmless(" ".join(str(error).split()))
    print(f"{os.path.basename(sys.argv[0])}: {text}", file=sys.stderr)
    sys.exit(code)
