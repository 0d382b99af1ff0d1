"""What the environment says of other processes, and how they are waited for."""

import json
import logging
import os
import socket
import time

from clidmu_tf.errors import UserError

logger = logging.getLogger(__name__)

WORD, LIMIT = 30, 600  # seconds until a word is said, and until it is given up


def check_tf_config(text):
    """Raises a UserError where TF_CONFIG does not name workers and a task.

    Returns:
        The addresses of the workers, and the index of this one.
    """
    try:
        cluster = json.loads(text)
        workers = list(cluster["cluster"]["worker"])
        index = int(cluster["task"]["index"])  # as TensorFlow, which takes "0" too
        for worker in workers:
            _host_and_port(worker)
    except (ValueError, KeyError, TypeError, AttributeError):
        raise UserError(
            "--strategy=multi_worker needs TF_CONFIG, such as '"
            '{"cluster": {"worker": ["host1:2222", "host2:2222"]}, "task": {"type": '
            f'"worker", "index": 0}}}}\'; received {text!r}.'
        ) from None
    if "ps" in cluster["cluster"]:
        raise UserError(
            "TF_CONFIG names parameter servers ('ps'), which Keras 3 does not support: "
            "name workers only."
        )
    others = sorted(set(cluster["cluster"]) - {"worker"})
    if others:
        raise UserError(
            f"TF_CONFIG names {', '.join(others)} besides the workers: name workers "
            "only; the first of them writes the files."
        )
    if not 0 <= index < len(workers):
        raise UserError(
            f"TF_CONFIG's task index {index} is none of its {len(workers)} workers."
        )
    return workers, index


def is_worker() -> bool:
    """Whether this process runs trials for a chief elsewhere.

    Raises:
        UserError: KerasTuner's environment variables are there in part, or the port is
            none.
    """
    if "KERASTUNER_ORACLE_IP" not in os.environ:
        return False
    for name in ("KERASTUNER_ORACLE_PORT", "KERASTUNER_TUNER_ID"):
        if name not in os.environ:
            raise UserError(
                f"KERASTUNER_ORACLE_IP is set and {name} is not: set both, or none."
            )
    port = os.environ["KERASTUNER_ORACLE_PORT"]
    if not (port.isdecimal() and 0 < int(port) < 2**16):
        raise UserError(
            "KERASTUNER_ORACLE_PORT must be a whole number from 1 to 65535; received "
            f"{port!r}."
        )
    return "chief" not in os.environ["KERASTUNER_TUNER_ID"]


def meet_chief() -> None:
    """Waits for the chief of a search, or, of the chief, finds that it can be one.

    Raises:
        UserError: There is no chief after ten minutes; or its port is taken.
    """
    if "KERASTUNER_ORACLE_IP" not in os.environ:
        return
    worker = is_worker()
    host, port = (os.environ[f"KERASTUNER_ORACLE_{name}"] for name in ("IP", "PORT"))
    if worker:
        wait_for(f"{host}:{port}")
        return
    try:
        # gRPC itself shares a port with whoever lets it, and both would be chiefs.
        socket.create_server((host, int(port))).close()
    except OSError as error:
        raise UserError(
            f"A search's chief cannot listen at {host}:{port} ({error.strerror}): end "
            "what does, or give another KERASTUNER_ORACLE_PORT."
        ) from error


def wait_for(address: str) -> None:
    """Returns when the process that others wait for listens at its address.

    Raises:
        UserError: It does not, for ten minutes.
    """
    began, told = time.monotonic(), False
    while True:
        try:
            socket.create_connection(_host_and_port(address), timeout=1).close()
            return
        except OSError as error:
            reason = error.strerror or str(error)
        waited = time.monotonic() - began
        if waited > LIMIT:
            raise UserError(
                f"No chief has answered at {address} for {LIMIT // 60} minutes "
                f"({reason}): start it, or mend the address."
            )
        if waited > WORD and not told:
            told = True
            logger.warning("Waiting for the chief at %s (%s).", address, reason)
        time.sleep(0.2)


def _host_and_port(address):
    host, _, port = address.rpartition(":")
    if not host:
        raise ValueError(f"{address!r} is no host:port")
    return host.strip("[]"), int(port)
