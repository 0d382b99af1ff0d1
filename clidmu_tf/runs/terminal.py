"""What reaches the terminal: no chatter of others, and no name that commands it."""

import contextlib
import io
import logging
import os
import re
import tempfile
from collections.abc import Iterator
from typing import Any, TextIO

# What TensorFlow says at its start, whatever its log level.
CHATTER = re.compile(
    rb"^(I0000 |WARNING: All log messages before |E0000 .* failed call to cuInit).*\n",
    re.MULTILINE,
)


@contextlib.contextmanager
def without_chatter() -> Iterator[None]:
    """Holds standard error back, and passes on all of it but the chatter."""
    with tempfile.TemporaryFile() as said:
        stderr = os.dup(2)
        os.dup2(said.fileno(), 2)
        try:
            yield
        finally:
            os.dup2(stderr, 2)
            os.close(stderr)
            said.seek(0)
            os.write(2, CHATTER.sub(b"", said.read()))


def harmless(text: str) -> str:
    """A text with escapes in place of what a terminal obeys or cannot show.

    Names of files and classes come from whoever made the data.
    """
    return "".join(
        c if c.isprintable() or c in "\n\t" else c.encode("unicode_escape").decode()
        for c in text
    )


class Output:
    """A stream that passes on text as `harmless` makes it.

    Args:
        stream: Where it goes.
    """

    def __init__(self, stream: TextIO):
        self._stream = stream
        if isinstance(stream, io.TextIOWrapper):  # it may have no more than ASCII
            stream.reconfigure(errors="backslashreplace")

    def write(self, text: str) -> int:
        self._stream.write(harmless(text))
        return len(text)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._stream, name)


class Formatter(logging.Formatter):
    """Log records as `harmless` makes them."""

    def format(self, record: logging.LogRecord) -> str:
        return harmless(super().format(record))
